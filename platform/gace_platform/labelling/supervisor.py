"""The batch's side of the engine process: start, ask, watch, and survive its death."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from ase import Atoms

from gace.errors import InputError, LabelError, MissingDependencyError
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import Failure, Label
from gace_platform.labelling.exchange import label_from_json, structure_to_json

POLL_SECONDS = 1.0
"""Interval at which the price of a running calculation is noted."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Attempt(NamedTuple):
    """How one attempt ended: with a label or with a failure, and its price."""

    label: Label | None
    failure: Failure | None
    core_seconds: float


class EngineProcess:
    """One engine in a process of its own, started at the first request and again after a crash."""

    def __init__(self, config: LabelConfig, log: Path) -> None:
        self._config = config
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._price_of_the_dead = 0.0

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self, structures: Sequence[Atoms]) -> None:
        """Have the engine refuse what it could never compute.

        Raises:
            InputError: what it refused.
            MissingDependencyError: its program is not installed.
            LabelError: it died while checking.
        """
        request = {"operation": "check", "structures": [structure_to_json(atoms) for atoms in structures]}
        answer = self._ask(request)
        if isinstance(answer, Failure):
            raise LabelError(f"the engine died while checking the input: {answer}")
        _raise_refusal(answer)

    def run(
        self,
        atoms: Atoms,
        attempt: int,
        note: Callable[[float], None] | None = None,
        patience: float = 1.0,
    ) -> Attempt:
        """One attempt to label one structure.

        Args:
            atoms: the structure, with charge and spin in ``info``.
            attempt: position of the remedy among the engine's.
            note: called about once a second with the CPU seconds spent on this attempt so far.
            patience: factor on the time limit.

        Raises:
            MissingDependencyError: its program is not installed.
        """
        before = _core_seconds_of(self._start().pid)
        request = {"operation": "run", "structure": structure_to_json(atoms), "attempt": attempt}
        limit = self._config.time_limit and self._config.time_limit * patience
        answer = self._ask(request, limit, lambda spent: note and note(spent - before))
        if isinstance(answer, Failure):
            return Attempt(None, answer, max(self._price_of_the_dead - before, 0.0))
        _raise_refusal(answer)
        if "failure" in answer:
            stated = answer["failure"]
            failure = Failure(stated["class"], stated["message"], stated["log"])
            return Attempt(None, failure, answer["core_seconds"])
        return Attempt(label_from_json(answer["label"]), None, answer["core_seconds"])

    def stop(self) -> int:
        """End the process, if there is one, and note its price; its exit code (negative: the signal)."""
        process, self._process = self._process, None
        if process is None:
            return 0
        # not Popen.kill(): it would reap a process that is dead already, and its price with it
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._price_of_the_dead = usage.ru_utime + usage.ru_stime
        for stream in _pipes(process):
            with contextlib.suppress(OSError):
                stream.close()
        return process.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        """The living process; started and handed the configuration if there is none."""
        if self._process is not None:
            return self._process
        threads = str(self._config.threads)
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, threads)}
        command = [sys.executable, "-m", "gace_platform.labelling.worker", str(os.getpid())]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        self._process, self._pending = process, b""
        answer = self._ask({"operation": "start", "config": self._config.model_dump(mode="json")})
        if isinstance(answer, Failure):
            raise LabelError(f"the engine process did not start: {answer}\n{answer.log}")
        return process

    def _ask(
        self,
        request: dict[str, Any],
        limit: float | None = None,
        note: Callable[[float], object] = lambda spent: None,
    ) -> dict[str, Any] | Failure:
        """Send one request and wait for its answer; a process that died or was stopped is a failure."""
        process = self._start()
        requests, answers = _pipes(process)
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
        except BrokenPipeError:
            return self._buried()
        began = time.monotonic()
        while b"\n" not in self._pending:
            ready, _, _ = select.select([answers], [], [], POLL_SECONDS)
            if ready:
                chunk = os.read(answers.fileno(), 1 << 20)
                if not chunk:
                    return self._buried()
                self._pending += chunk
                continue
            note(_core_seconds_of(process.pid))
            if limit is not None and time.monotonic() - began > limit:
                self.stop()
                return Failure("timeout", f"stopped after {limit:g} s", self._log_tail())
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _buried(self) -> Failure:
        """The failure behind a process that died by itself."""
        if self._process is not None:
            with contextlib.suppress(ChildProcessError):
                # wait for its own end, without reaping it, so that stop() cannot be what killed it
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        code = self.stop()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if -code in (signal.SIGKILL, signal.SIGTERM):
            # somebody else ended it, which says nothing about the calculation; or memory ran out
            return Failure("killed", f"the engine process {how}; out of memory?", self._log_tail())
        return Failure("crashed", f"the engine process {how}", self._log_tail())

    def _log_tail(self, lines: int = 15) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def _raise_refusal(answer: dict[str, Any]) -> None:
    """Raise what the engine refused, if it did."""
    if "refused" in answer:
        if answer["kind"] == "OSError":
            raise OSError(answer["errno"], f"{answer['refused']} (a reference program says so)")
        missing = answer["kind"] == "MissingDependencyError"
        raise (MissingDependencyError if missing else InputError)(answer["refused"])


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output of a process that was started with pipes for both."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the engine process was started without pipes")
    return process.stdin, process.stdout


def _core_seconds_of(pid: int) -> float:
    """CPU seconds of a living process so far (0 where the system does not tell)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0
