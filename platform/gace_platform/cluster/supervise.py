"""The one task that runs on workers: supervise a subprocess, and report how it ended as a value.

The subprocess has its own process group, dies with the worker's thread (see :mod:`.launch`), and
is ended when the task is cancelled, when the client that asked for it is gone, or when the worker
closes. A lock on its folder keeps two supervisors (an old cluster's and a restarted one's) apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

from gace.files import tells_of_full_disk
from gace.memory import tells_of_memory

LAUNCHER = Path(__file__).with_name("launch.py")
NOT_WORTH_A_RETRY = frozenset({2, 126, 127})
"""Exit codes of wrong input and of commands that cannot be started."""
KILLS = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT})
"""Exit codes of a death from outside, also for want of memory: it says nothing about the work. What a program
does to itself (SIGSEGV, SIGFPE, SIGABRT) is a failure like any other, since it may well come again."""
INTERRUPTED = "interrupted"
"""Last word of a ``gace`` command that was asked to end and still saved its state; its exit code is 1."""
KILLS_BORNE = 5
"""Deaths from outside after which a job is given up: out of memory, it would be killed forever."""
POLL_SECONDS = 0.1
LONGEST_PAUSE = 0.5
GRACE_SECONDS = 5.0
TAIL_BYTES = 4000
PROBE_BYTES = 1 << 20
"""Room that the folder of a job must have where it failed for a reason of its own."""
NO_ROOM = "no space left on the disk"


class Ended(NamedTuple):
    """How a supervised subprocess ended."""

    status: Literal["completed", "failed", "cancelled"]
    exit_code: int | None
    """Exit code of the last attempt; negative: ended by that signal; None: never started."""
    attempts: int
    wall_seconds: float
    core_seconds: float
    """User and system time of all attempts, children included."""
    error_tail: str
    """Last lines that the last attempt wrote to its log."""
    lost: bool = False
    """Not done for what others did to it (kills, closing or dying workers), so another try may succeed."""
    starved: bool = False
    """Memory was refused, or the kernel killed it for want of memory: beside fewer others it may succeed."""


def run_supervised(
    command: list[str],
    cwd: str,
    log: str,
    env: dict[str, str] | None = None,
    retries: int = 1,
    cancelled: Callable[[], bool] | None = None,
) -> Ended:
    """Run ``command`` in ``cwd`` until it succeeds, its retries are spent, or it is cancelled.

    Args:
        command: Program and arguments.
        cwd: Folder to run in; made when absent. One supervisor at a time may hold it.
        log: File that standard output and error are appended to.
        env: Variables added to the worker's own environment.
        retries: Further attempts after a failure; exit codes 2, 126 and 127 get none. Deaths from outside
            and a full disk are no failures, and counted apart: after ``KILLS_BORNE`` of them, or where the
            disk is still full, it is given up as lost. A lack of memory ends it at once: beside the same
            others it would come again.
        cancelled: Asked twice a second or more; default: the state of the Dask task this runs in.
    """
    stop = cancelled if cancelled is not None else task_cancelled()
    Path(cwd).mkdir(parents=True, exist_ok=True)
    start, core_seconds, attempt, code, tail = time.monotonic(), 0.0, 0, None, ""
    failures = kills = 0

    def ended(
        status: Literal["completed", "failed", "cancelled"], lost: bool = False, starved: bool = False
    ) -> Ended:
        return Ended(status, code, attempt, time.monotonic() - start, core_seconds, tail, lost, starved)

    with folder_lock(Path(cwd), stop) as lock:
        if lock is None:
            return ended("cancelled", lost=True)
        while failures <= retries:
            attempt += 1
            before = kernel_kills()
            code, seconds, tail = _attempt(command, cwd, log, {**os.environ, **(env or {})}, lock, stop)
            core_seconds += seconds
            if code == 0:
                return ended("completed")
            if stop():
                return ended("cancelled", lost=True)
            if code == -signal.SIGKILL and kernel_kills() > before:
                tail += "\nkilled by the kernel, out of memory"
                return ended("failed", starved=True)
            if code not in KILLS and tells_of_memory("\n".join(tail.splitlines()[-3:])):
                return ended("failed", starved=True)
            if _was_killed(code, tail):
                kills += 1
                if kills >= KILLS_BORNE:
                    return ended("failed", lost=True)
                continue
            if not _has_room(Path(cwd)):
                tail = NO_ROOM
                return ended("failed", lost=True)
            if tells_of_full_disk("\n".join(tail.splitlines()[-3:])):  # it has room again
                kills += 1
                if kills >= KILLS_BORNE:
                    tail = NO_ROOM
                    return ended("failed", lost=True)
                continue
            failures += 1
            if code in NOT_WORTH_A_RETRY:
                break
    return ended("failed")


def _has_room(folder: Path) -> bool:
    """Whether a file can be written into ``folder``; what a full disk ended could not say so in its log."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(os.urandom(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError:
        return False
    return True


def kernel_kills() -> int:
    """Processes that the kernel of this machine has killed for want of memory; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _was_killed(code: int, tail: str) -> bool:
    """Whether an attempt was ended from outside."""
    return code in KILLS or (code == 1 and tail.splitlines()[-1:] == [INTERRUPTED])


def _attempt(
    command: list[str], cwd: str, log: str, env: dict[str, str], lock: IO[str], stop: Callable[[], bool]
) -> tuple[int, float, str]:
    """One subprocess from start to end: its exit code, core seconds, and the end of its log."""
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
    with Path(log).open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            [*launcher, *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=(lock.fileno(),),
        )
        code, seconds = _wait(process.pid, stop)
        process.returncode = code
    return code, seconds, _tail(Path(log), begin)


def _wait(pid: int, stop: Callable[[], bool]) -> tuple[int, float]:
    """Wait for a process group leader; when ``stop`` says so, end its group: SIGTERM, then SIGKILL."""
    asked: float | None = None
    pause = 0.02
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            _signal_group(pid, signal.SIGKILL)  # whatever the leader left behind
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if asked is None and stop():
            asked = time.monotonic()
            _signal_group(pid, signal.SIGTERM)
        elif asked is not None and time.monotonic() - asked > GRACE_SECONDS:
            _signal_group(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE)  # quick with the quick, and no burden on the slow


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _tail(log: Path, begin: int) -> str:
    """The last characters written to ``log`` after position ``begin``."""
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - TAIL_BYTES))
        return stream.read().decode("utf-8", errors="replace").strip()


@contextlib.contextmanager
def folder_lock(folder: Path, stop: Callable[[], bool]) -> Iterator[IO[str] | None]:
    """Hold ``folder``; the lock passes to the subprocess, so it lasts as long as any of them lives.

    Yields:
        The open lock file, or None when ``stop`` said so before the lock was had.
    """
    with (folder / ".lock").open("w", encoding="utf-8") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop():
                    yield None
                    return
                time.sleep(POLL_SECONDS)
            else:
                break
        yield stream


def task_cancelled() -> Callable[[], bool]:
    """A question: was the Dask task that calls this released, or is its worker closing?

    The scheduler releases a task when its future is cancelled and when the client that wanted it
    disappears; a worker marks a running task so, but cannot stop its thread. Outside Dask: never.
    """
    try:
        from distributed import get_worker

        worker = get_worker()
        key = worker.get_current_task()
    except (ImportError, ValueError, RuntimeError):
        return lambda: False
    open_states = {"init", "running", "paused", "closing_gracefully"}

    def released() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status.name not in open_states

    return released
