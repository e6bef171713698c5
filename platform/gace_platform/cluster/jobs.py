"""Run a set of resumable subprocesses on a cluster and stream how each ended.

A cluster may vanish while the work runs (its process was killed, its machine rebooted). With
provider ``address`` the scheduler file is then read again until the timeout: jobs not yet ended
are handed to the restarted cluster, where each resumes from what it left on disk.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gace.errors import ClusterError, DiskFullError, OutOfMemoryError
from gace_platform.cluster.config import Address, AnyProvider, LocalGpu, Slurm
from gace_platform.cluster.provider import connect
from gace_platform.cluster.supervise import NO_ROOM, Ended, run_supervised

if TYPE_CHECKING:
    from distributed import Client, Future

POLL_SECONDS = 0.2
COUNT_SECONDS = 2.0
RESUBMISSIONS = 10
MOST_SPARING = 3
"""Times that a job is asked to need less memory (``GACE_SPARE_MEMORY`` = 1, 2, 3), each time run alone."""

Outcome = Ended
"""How a job ended, as a value: see :class:`gace_platform.cluster.supervise.Ended`."""


@dataclass(frozen=True)
class Job:
    """One subprocess, restartable at any moment in the folder it works in."""

    name: str
    """What the dashboard shows, such as ``train g1 member 2``; unique within a call of :func:`run_jobs`."""
    command: Sequence[str]
    cwd: str
    log: str
    env: Mapping[str, str] = field(default_factory=dict)
    retries: int = 1
    """Further attempts after a failure; deaths from outside are counted apart."""
    gpu: bool = False
    """Needs a worker that owns a GPU."""


@dataclass
class Hungry:
    """A job that did not get the memory it wanted beside others."""

    job: Job
    spent: Outcome
    """How its last try ended, with the price of all."""
    sparing: int = 0
    """How urgently it is asked to need less: 0 not at all, it only runs alone."""

    def next(self) -> Job:
        """The job for its next try, alone."""
        return replace(self.job, env={**self.job.env, "GACE_SPARE_MEMORY": str(self.sparing)})

    def add(self, outcome: Outcome) -> Outcome:
        """The outcome of a try, with the price of those before."""
        before, self.spent = self.spent, outcome
        self.spent = outcome._replace(
            attempts=before.attempts + outcome.attempts,
            wall_seconds=before.wall_seconds + outcome.wall_seconds,
            core_seconds=before.core_seconds + outcome.core_seconds,
        )
        return self.spent


class ConnectionLostError(Exception):
    """The scheduler is gone; jobs that have not ended may be handed to another one."""


def run_jobs(
    config: AnyProvider,
    jobs: Sequence[Job],
    on_end: Callable[[Job, Outcome], None] | None = None,
    on_poll: Callable[[], None] = lambda: None,
) -> dict[str, Outcome]:
    """Run ``jobs`` and return how each ended, in the order given.

    Args:
        config: The cluster; one is started for the call, or connected to.
        jobs: What to run; more jobs than workers wait for their turn. One that ran out of memory, or was
            killed again and again, which may be the same, runs once more when no other is left, so alone.
        on_end: Called in this thread as each job ends, in order of arrival: for progress, not for results.
        on_poll: Called in this thread every few seconds while jobs run.

    Raises:
        ClusterError: the scheduler, or every worker, was lost and did not come back in time.
    """
    outcomes: dict[str, Outcome] = {}
    hungry: dict[str, Hungry] = {}

    def record(job: Job, outcome: Outcome) -> None:
        outcomes[job.name] = outcome
        if on_end is not None:
            on_end(job, outcome)

    while True:
        open_jobs = [job for job in jobs if job.name not in outcomes]
        if not open_jobs:
            return {job.name: outcomes[job.name] for job in jobs}
        try:
            with connect(config) as client:
                _run_on(client, config, open_jobs, hungry, record, on_poll)
        except ConnectionLostError as lost:
            if not isinstance(config, Address):
                raise ClusterError(f"the Dask cluster was lost: {lost}") from None


def refuse_losses(
    missing: Mapping[str, Outcome], remedy: str = "cluster.workers: 1, or a larger machine"
) -> None:
    """Refuse to go on without work that is missing only for what others did to it, or for want of memory.

    Left out, it would change the result, and the same command run again would give another one.

    Args:
        missing: how the jobs ended whose work is not there, by a name for people.
        remedy: what needs less memory.

    Raises:
        OutOfMemoryError: some of it found no memory, also alone; the same command goes on.
        DiskFullError: some of it could not be written; likewise.
        ClusterError: some of it was lost; the same command goes on from what lies on disk.
    """
    starved = {name: outcome for name, outcome in missing.items() if outcome.starved}
    if starved:
        words = "".join(next(iter(starved.values())).error_tail.splitlines()[-1:])
        if not words.startswith("error: "):  # else it says what to do by itself
            words += f"; needs less: {remedy}; the same command goes on from what is there"
        raise OutOfMemoryError(
            f"{', '.join(starved)} had no memory, also alone on the cluster: {words.removeprefix('error: ')}"
        )
    unwritten = [name for name, outcome in missing.items() if outcome.error_tail == NO_ROOM]
    if unwritten:
        raise DiskFullError(
            f"the disk is full: {', '.join(unwritten)} could not be written; "
            "with space again, the same command goes on from there"
        )
    lost = [name for name, outcome in missing.items() if outcome.lost]
    if lost:
        raise ClusterError(
            f"ended from outside again and again: {', '.join(lost)}; out of memory, or workers that close? "
            "the same command goes on from there"
        )


def _run_on(
    client: Client,
    config: AnyProvider,
    jobs: Sequence[Job],
    hungry: dict[str, Hungry],
    record: Callable[[Job, Outcome], None],
    on_poll: Callable[[], None],
) -> None:
    """Hand jobs to one scheduler as its threads become free and stream their outcomes until none is open.

    The scheduler would hand out all of them at once, by its guess of how long each takes, and leave one
    worker idle while another's jobs queue; these run for minutes, so each waits here for a free thread.
    """
    waiting = [job for job in jobs if job.name not in hungry]
    open_futures: dict[str, tuple[Job, Future]] = {}
    resubmissions = 0
    last_seen_worker = last_count = time.monotonic()
    alone = [hungry[job.name] for job in jobs if job.name in hungry]
    while waiting or open_futures or alone:
        if alone and not waiting and not open_futures:
            one = alone.pop(0)
            open_futures[one.job.name] = (one.job, _submit(client, config, one.next()))
        free = max(1, _n_threads(client)) - len(open_futures) if waiting else 0
        for job in [waiting.pop(0) for _ in range(min(free, len(waiting)))]:
            open_futures[job.name] = (job, _submit(client, config, job))
        for name, (job, future) in list(open_futures.items()):
            if future.status in ("cancelled", "lost"):
                raise ConnectionLostError("the scheduler closed the connection")
            if future.done():
                outcome = _outcome(future)
                if outcome.status == "cancelled" and resubmissions < RESUBMISSIONS:
                    # not by us: its worker is closing
                    resubmissions += 1
                    again = hungry[name].next() if name in hungry else job
                    open_futures[name] = (job, _submit(client, config, again))
                    continue
                del open_futures[name]
                if name in hungry:
                    outcome = hungry[name].add(outcome)
                if _hungrier(hungry, job, outcome):
                    alone.append(hungry[name])
                    continue
                record(job, outcome)
        if client.status not in ("running", "connecting"):
            raise ConnectionLostError("the scheduler closed the connection")
        now = time.monotonic()
        if now - last_count > COUNT_SECONDS:
            last_count = now
            on_poll()
            needs_gpu = _has_gpus(config) and any(job.gpu for job, _ in open_futures.values())
            if _n_workers(client, needs_gpu):
                last_seen_worker = now
            elif now - last_seen_worker > config.workers_timeout:
                kind = "worker with a GPU" if needs_gpu else "worker"
                raise ClusterError(f"the Dask cluster had no {kind} for {config.workers_timeout:g} s")
        if open_futures:
            time.sleep(POLL_SECONDS)


def _hungrier(hungry: dict[str, Hungry], job: Job, outcome: Outcome) -> bool:
    """Whether a job that has ended is to be tried (once more) alone; it is among the hungry then."""
    killed = outcome.exit_code == -signal.SIGKILL
    one = hungry.get(job.name)
    if one is None:
        if outcome.starved or (outcome.lost and killed):
            hungry[job.name] = Hungry(job, outcome)
            return True
        return False
    # a program that was refused memory has tried with less by itself; one that was killed could not
    one.sparing += 1
    return outcome.starved and killed and one.sparing <= MOST_SPARING


def _submit(client: Client, config: AnyProvider, job: Job) -> Future:
    threads = str(config.cores)
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **job.env}
    return client.submit(
        run_supervised,
        list(job.command),
        job.cwd,
        job.log,
        env,
        job.retries,
        # a new key each time: a scheduler would hand out an earlier task's fate under the old one
        key=f"{job.name}-{secrets.token_hex(4)}",
        pure=False,
        retries=0,
        resources={"GPU": 1} if job.gpu and _has_gpus(config) else None,
    )


def _outcome(future: Future) -> Outcome:
    """The value of an ended future; a task that broke failed, one whose workers all died is lost."""
    from distributed import KilledWorker

    if future.status == "finished":
        return Ended(*future.result())
    error: Any = future.exception()
    lost = isinstance(error, KilledWorker)
    return Ended("failed", None, 0, 0.0, 0.0, f"{type(error).__name__}: {error}", lost)


def _has_gpus(config: AnyProvider) -> bool:
    """Whether workers of this provider say that they own a GPU (one on the CPU has no need to)."""
    return isinstance(config, LocalGpu | Address) or (
        isinstance(config, Slurm) and config.gpus_per_worker > 0
    )


def _n_threads(client: Client) -> int:
    """Tasks that the workers of the scheduler can run at a time now."""
    try:
        return sum(client.nthreads().values())
    except (OSError, TimeoutError) as error:
        raise ConnectionLostError(str(error)) from None


def _n_workers(client: Client, with_gpu: bool) -> int:
    """Workers the scheduler has now."""
    try:
        workers = client.scheduler_info(n_workers=-1).get("workers", {}).values()
    except (OSError, TimeoutError) as error:
        raise ConnectionLostError(str(error)) from None
    return sum(1 for worker in workers if not with_gpu or worker.get("resources", {}).get("GPU"))
