"""From the ``cluster:`` section to a connected Dask client."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.errors import ClusterError, InputError, missing
from gace_platform.cluster.config import Address, AnyProvider, Local, LocalGpu, Slurm

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def connect(config: AnyProvider) -> Iterator[Client]:
    """A client of the cluster that ``config`` describes; what this starts, it also ends.

    Raises:
        InputError: a port is in use, no GPU is there, Slurm is absent.
        ClusterError: no scheduler answered within ``config.timeout`` seconds.
        MissingDependencyError: Dask (or dask-jobqueue) is not installed.
    """
    configure_dask()
    opened = {Local: _local, LocalGpu: _local_gpu, Slurm: _slurm, Address: _address}[type(config)]
    with opened(config) as client:  # type: ignore[operator]
        yield client


def configure_dask() -> None:
    """Quiet logs, finite time limits, no start-up pages; the values Dask leaves unsafe or endless."""
    try:
        import dask
        import distributed  # noqa: F401
    except ImportError:
        raise missing("dask", "platform") from None
    # a lost scheduler is told as one ClusterError, not as a log of attempts
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": "10s",
            "distributed.comm.timeouts.tcp": "30s",
            "distributed.comm.retry.count": 2,
            "distributed.client.scheduler-info-interval": "1s",
            "distributed.logging.distributed": "error",
            # a supervisor waits: sampling its stack and loop would cost more than all else it does
            "distributed.worker.profile.enabled": False,
            "distributed.admin.tick.interval": "500ms",
            "distributed.admin.system-monitor.interval": "2s",
            "distributed.scheduler.allowed-failures": 3,
        }
    )


def require_free_port(port: int | None, purpose: str) -> None:
    """Refuse a loopback port that something listens on.

    Raises:
        InputError: the port is in use.
    """
    if port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise InputError(f"port {port} for the {purpose} cannot be used: {error.strerror}") from None


def http_options(port: int | None) -> dict[str, Any]:
    """Options of a scheduler with a loopback dashboard at ``port``, or with none.

    Without a dashboard the scheduler still answers HTTP (health, metrics): on loopback, on a free port.
    """
    return {"dashboard": port is not None, "dashboard_address": f"{LOOPBACK}:{port or 0}"}


@contextlib.contextmanager
def _local(config: Local) -> Iterator[Client]:
    from distributed import Client, LocalCluster

    require_free_port(config.dashboard, "dashboard")
    # the workers only supervise subprocesses, so threads of this process serve; TCP all the same,
    # so that tasks are serialised as on any other cluster
    with (
        LocalCluster(
            n_workers=config.workers,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            host=LOOPBACK,
            protocol="tcp://",
            scheduler_kwargs=http_options(config.dashboard),
            worker_dashboard_address=None,
        ) as cluster,
        Client(cluster, timeout=config.timeout) as client,
    ):
        yield client


@contextlib.contextmanager
def _local_gpu(config: LocalGpu) -> Iterator[Client]:
    from distributed import Client, Nanny, Scheduler, SpecCluster

    require_free_port(config.dashboard, "dashboard")
    gpus = config.gpus if config.gpus is not None else visible_gpus()
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": LOOPBACK,
            "port": 0,
            **http_options(config.dashboard),
        },
    }
    workers = {f"gpu-{gpu}": {"cls": Nanny, "options": gpu_worker_options(gpu)} for gpu in gpus}
    with (
        SpecCluster(workers=workers, scheduler=scheduler) as cluster,
        Client(cluster, timeout=config.timeout) as client,
    ):
        yield client


def gpu_worker_options(gpu: int) -> dict[str, Any]:
    """Options of the worker that owns one GPU; the device is set before anything imports torch."""
    return {
        "host": LOOPBACK,
        "nthreads": 1,
        "memory_limit": 0,
        "resources": {"GPU": 1},
        "env": {"CUDA_VISIBLE_DEVICES": str(gpu)},
        "dashboard": False,
    }


def visible_gpus() -> tuple[int, ...]:
    """Indices of the CUDA devices of this machine.

    Raises:
        InputError: there is none.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise InputError("provider 'local-gpu' found no CUDA device; use provider 'local' for CPU cores")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown and all(part.strip().isdigit() for part in shown.split(",")):
        return tuple(int(part) for part in shown.split(","))
    return tuple(range(count))


@contextlib.contextmanager
def _slurm(config: Slurm) -> Iterator[Client]:
    from distributed import Client

    if shutil.which("sbatch") is None:
        raise InputError("provider 'slurm' needs the command sbatch on the PATH")
    with slurm_cluster(config) as cluster:
        cluster.scale(jobs=config.workers)
        with Client(cluster, timeout=config.timeout) as client:
            yield client


def slurm_cluster(config: Slurm) -> Any:
    """The dask-jobqueue cluster for ``config``, without workers yet; its ``job_script()`` can be read.

    Off loopback the connections are encrypted, with keys that live as long as the cluster: whoever
    reaches a scheduler runs code.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise missing("dask-jobqueue", "platform") from None
    from distributed import Security

    directives = list(config.directives)
    worker_arguments: list[str] = []
    if config.gpus_per_worker:
        directives.append(f"--gpus={config.gpus_per_worker}")
        worker_arguments += ["--resources", "GPU=1"]
    options: dict[str, Any] = {}
    if config.interface != "lo":
        options = {"protocol": "tls://", "security": Security.temporary()}
        options["shared_temp_directory"] = str(config.shared_folder or Path.cwd())
    return SLURMCluster(
        queue=config.queue,
        account=config.account,
        cores=config.cores,
        processes=1,
        memory=config.memory,
        walltime=config.walltime,
        interface=config.interface,
        log_directory=None if config.log_folder is None else str(config.log_folder),
        job_extra_directives=directives,
        job_script_prologue=[f"export OMP_NUM_THREADS={config.cores}", *config.prologue],
        worker_extra_args=[*worker_arguments, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"],
        scheduler_options={"dashboard_address": f"{LOOPBACK}:0"},
        **options,
    )


@contextlib.contextmanager
def _address(config: Address) -> Iterator[Client]:
    with connect_address(config, time.monotonic() + config.timeout) as client:
        yield client


def connect_address(config: Address, deadline: float) -> Client:
    """Connect to a running scheduler, trying until ``deadline`` (monotonic seconds).

    The scheduler file is read anew for every try: a cluster that is being restarted rewrites it.

    Raises:
        ClusterError: nobody answered in time; a later try may succeed.
        InputError: the scheduler wants TLS keys, and none are given.
    """
    from distributed import Client

    security = _security(config)
    reason = "no time was given"
    while True:
        try:
            address = config.address or read_scheduler_file(config.scheduler_file)
            if address.startswith("tls://") and security is None:
                raise InputError(f"the scheduler at {address} wants TLS: give tls_ca, tls_cert and tls_key")
            # a Client that fails to connect leaves a thread and noise behind: see first who listens
            knock(address)
            return Client(address, timeout=min(10.0, config.timeout), security=security, set_as_default=False)
        except (OSError, TimeoutError, ClusterError) as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() >= deadline:
            where = config.address or config.scheduler_file
            raise ClusterError(f"no Dask scheduler answers at {where} within {config.timeout:g} s ({reason})")
        time.sleep(0.5)


def knock(address: str) -> None:
    """See whether something listens at ``protocol://host:port``.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.partition("://")[2].rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        pass


def read_scheduler_file(path: Path | None) -> str:
    """Address in a Dask scheduler file.

    Raises:
        ClusterError: it is absent or not (yet) complete.
    """
    try:
        return str(json.loads(Path(str(path)).read_text(encoding="utf-8"))["address"])
    except FileNotFoundError:
        raise ClusterError(f"{path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ClusterError(f"{path} is not a scheduler file") from None


def _security(config: Address) -> Any:
    """TLS keys named by the configuration, or None."""
    if config.tls_ca is None:
        return None
    from distributed import Security

    return Security(
        tls_ca_file=str(config.tls_ca),
        tls_client_cert=str(config.tls_cert),
        tls_client_key=str(config.tls_key),
        require_encryption=True,
    )
