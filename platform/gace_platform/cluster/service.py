"""The campaign's own cluster: one scheduler and its workers as a process of their own.

The process that starts it is its life line: when that is killed, the cluster dies too. Commands
find it through the scheduler file; a restarted cluster rewrites the file.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gace.errors import ClusterError, InputError
from gace.files import write_atomic
from gace_platform.cluster.provider import (
    LOOPBACK,
    configure_dask,
    http_options,
    read_scheduler_file,
    require_free_port,
)


class CampaignCluster:
    """A running cluster; a context manager that ends it."""

    def __init__(self, process: subprocess.Popen[bytes], scheduler_file: Path, dashboard: str | None) -> None:
        self.process = process
        self.scheduler_file = scheduler_file
        self.dashboard = dashboard
        """URL of the dashboard, on loopback, or None."""

    @property
    def address(self) -> str:
        """Address of the scheduler, such as ``tcp://127.0.0.1:41234``."""
        return read_scheduler_file(self.scheduler_file)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def config(self, **further: Any) -> dict[str, Any]:
        """The ``cluster:`` section by which a command finds this cluster."""
        return {"provider": "address", "scheduler_file": str(self.scheduler_file), **further}

    def close(self) -> None:
        """End the cluster and all its subprocesses; harmless when it has ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.scheduler_file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The cluster itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the cluster."""
        self.close()


def start_local(
    folder: str | Path, workers: int = 1, dashboard: int | None = None, timeout: float = 120.0
) -> CampaignCluster:
    """Start a scheduler and ``workers`` worker processes on loopback, and wait until they answer.

    Args:
        folder: Takes ``scheduler.json`` (the scheduler file) and ``cluster.log``; made when absent.
        workers: Worker processes, each running one subprocess at a time.
        dashboard: Loopback port of the dashboard; None: any free port.
        timeout: Seconds until the start counts as failed.

    Raises:
        InputError: the port is in use, or the folder cannot be written.
        ClusterError: the cluster did not come up.
    """
    configure_dask()
    require_free_port(dashboard, "dashboard")
    folder = Path(folder).absolute()
    scheduler_file, log = folder / "scheduler.json", folder / "cluster.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scheduler_file.unlink(missing_ok=True)
        output = log.open("ab")
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}") from None
    with output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gace_platform.cluster.service", str(scheduler_file)),
                *("--workers", str(workers), "--dashboard", str(dashboard or 0)),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout
    while not scheduler_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise ClusterError(f"the Dask cluster did not start; see {log}")
        time.sleep(0.1)
    return CampaignCluster(process, scheduler_file, _dashboard_of(scheduler_file))


def _dashboard_of(scheduler_file: Path) -> str | None:
    port = json.loads(scheduler_file.read_text(encoding="utf-8")).get("services", {}).get("dashboard")
    return f"http://{LOOPBACK}:{port}/status" if port else None


def serve(scheduler_file: Path, workers: int, dashboard: int) -> None:
    """Run the cluster in this process; the scheduler file is written when all workers are in.

    Ends on SIGTERM, and when standard input closes: the other end is held by the process that
    started this one, so it closes however that process ends.
    """
    from distributed import LocalCluster

    configure_dask()

    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    def watch_lifeline() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch_lifeline, daemon=True).start()
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,
        host=LOOPBACK,
        scheduler_kwargs=http_options(dashboard),
        worker_dashboard_address=None,
    ) as cluster:
        cluster.wait_for_workers(workers, timeout=120)
        identity = {**cluster.scheduler.identity(), "pid": os.getpid()}
        write_atomic(scheduler_file, json.dumps(identity, default=str))
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=serve.__doc__)
    parser.add_argument("scheduler_file", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dashboard", type=int, default=0)
    options = parser.parse_args()
    serve(options.scheduler_file, options.workers, options.dashboard)
