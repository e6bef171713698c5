"""The ``cluster:`` section of a configuration file: one model per provider.

A task on a worker is a thin supervisor of one subprocess, so a worker needs one thread and
next to no memory of its own; the memory and the cores named here are those of the subprocess.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    model_validator,
)

from gace.config import Closed

Port = Annotated[int, Field(ge=1, le=65535)]


class _Provider(Closed):
    """What every provider has."""

    timeout: PositiveFloat = 60.0
    """Seconds to wait for a scheduler, a restarted one included, before giving up."""

    workers_timeout: PositiveFloat = 300.0
    """Seconds without a single worker before giving up."""


class Local(_Provider):
    """Workers on the CPU cores of this machine, ended with the command."""

    provider: Literal["local"] = "local"
    workers: PositiveInt = 1
    """Subprocesses that may run at a time; each is given ``cores`` threads."""
    cores: PositiveInt = 1
    """Threads of one subprocess (``OMP_NUM_THREADS``)."""
    dashboard: Port | None = None
    """Loopback port of the dashboard; none is started without."""


class LocalGpu(_Provider):
    """One worker per GPU of this machine, ended with the command."""

    provider: Literal["local-gpu"]
    gpus: tuple[NonNegativeInt, ...] | None = None
    """Device indices; without, all that the driver shows."""
    cores: PositiveInt = 1
    """Threads of one subprocess (``OMP_NUM_THREADS``)."""
    dashboard: Port | None = None
    """Loopback port of the dashboard; none is started without."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.gpus is not None and (not self.gpus or len(set(self.gpus)) != len(self.gpus)):
            raise ValueError("gpus must name at least one device, and each once")
        return self


class Slurm(_Provider):
    """Workers that are Slurm jobs, submitted by dask-jobqueue and cancelled with the command."""

    provider: Literal["slurm"]
    workers: PositiveInt = 1
    """Slurm jobs; each runs one subprocess at a time."""
    queue: str | None = None
    account: str | None = None
    cores: PositiveInt = 1
    """Cores of one job, all given to its subprocess."""
    memory: str = "4GB"
    """Memory of one job."""
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,3}:\d\d(:\d\d)?$")] = "24:00:00"
    gpus_per_worker: NonNegativeInt = 0
    interface: str | None = None
    """Network interface that workers and scheduler share, such as ``ib0``."""
    directives: tuple[str, ...] = ()
    """Further ``#SBATCH`` lines, such as ``--constraint=a100``."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the worker starts, such as ``module load cuda``."""
    log_folder: Path | None = None
    shared_folder: Path | None = None
    """Folder that workers and scheduler both see; holds the temporary TLS keys. Default: working folder."""
    workers_timeout: PositiveFloat = 24 * 3600.0
    """Seconds in the queue without a single worker before giving up."""


class Address(_Provider):
    """A scheduler that runs already."""

    provider: Literal["address"]
    address: Annotated[str, Field(pattern=r"^(tcp|tls)://.+:\d+$")] | None = None
    """Such as ``tcp://127.0.0.1:8786``."""
    scheduler_file: Path | None = None
    """File that a scheduler wrote; read again when the scheduler is lost, so a restart is found."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cores: PositiveInt = 1
    """Threads of one subprocess (``OMP_NUM_THREADS``)."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("provider 'address' needs either address or scheduler_file")
        tls = (self.tls_ca, self.tls_cert, self.tls_key)
        if any(tls) and not all(tls):
            raise ValueError("TLS needs all of tls_ca, tls_cert and tls_key")
        return self


def _local_unless_said(section: Any) -> Any:
    """The section with the default provider where it names none."""
    return {"provider": "local", **section} if isinstance(section, dict) else section


ClusterConfig = Annotated[
    Local | LocalGpu | Slurm | Address, Field(discriminator="provider"), BeforeValidator(_local_unless_said)
]
"""Any provider, told apart by the key ``provider``; ``local`` without."""

AnyProvider = Local | LocalGpu | Slurm | Address

_adapter: TypeAdapter[AnyProvider] = TypeAdapter(ClusterConfig)


def resolve_paths(config: AnyProvider, folder: Path) -> AnyProvider:
    """The same section with its relative paths taken from ``folder``, that of the file it stands in."""
    content = config.model_dump()
    for key, value in content.items():
        if isinstance(value, Path) and not value.is_absolute():
            content[key] = (folder / value).absolute()
    return _adapter.validate_python(content)
