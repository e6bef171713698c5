"""The engine process: computes labels one after another, as told on its standard input.

It is a process of its own so that the number of threads is set before the program is loaded, and so that a
crash, a runaway or the kernel's out-of-memory killer costs one attempt and not the batch. It writes no file:
what is paid for is recorded by the process that asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from gace.config import parse_config
from gace.errors import GaceError, MissingDependencyError
from gace.files import FULL_DISK
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import Engine, Failure, make_engine
from gace_platform.labelling.exchange import is_finite, label_to_json, structure_from_json

PR_SET_PDEATHSIG = 1


def main(parent: int) -> None:
    """Serve requests until standard input closes or the parent dies."""
    die_with(parent)
    # whatever a program prints goes to the log; the answers keep the real standard output
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["operation"] == "start":
            config = parse_config(request["config"], LabelConfig)
            engine = make_engine(config.reference)
            # load the program now, so that no attempt is charged for it; a refusal is told when asked for
            with contextlib.suppress(GaceError):
                engine.check([])
            _reply(answers, {})
            continue
        if engine is None:
            raise RuntimeError("the first request must be 'start'")
        _reply(answers, _answer(engine, request))


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent process dies (Linux; elsewhere the closed input ends us)."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request; expected endings are values."""
    operations: dict[str, Callable[[], dict[str, Any]]] = {
        "check": lambda: _check(engine, request),
        "run": lambda: _run(engine, request),
    }
    before = core_seconds()
    answer = operations[request["operation"]]()
    answer["core_seconds"] = core_seconds() - before
    return answer


def _check(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    try:
        engine.check([structure_from_json(one) for one in request["structures"]])
    except GaceError as error:
        return _refusal(error)
    return {}


def _run(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    atoms = structure_from_json(request["structure"])
    try:
        label = engine.run(atoms, request["attempt"])
        if not is_finite(label):
            raise Failure("not_finite", "energy, forces or stress hold NaN or infinity")
        return {"label": label_to_json(label)}
    except Failure as failure:
        if broken := disk_error(failure):
            return _full(broken)
        return {"failure": {"class": failure.failure_class, "message": str(failure), "log": failure.log}}
    except MissingDependencyError as error:
        # missing for every structure and every remedy: no failure of this one
        return _refusal(error)
    except Exception as error:
        if broken := disk_error(error):
            return _full(broken)
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"failure": {"class": "error", "message": message, "log": ""}}


def _full(error: OSError) -> dict[str, Any]:
    """The disk is full for every structure and every remedy: no failure of this one."""
    return {"refused": error.strerror, "kind": "OSError", "errno": error.errno}


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of a full or broken disk behind an error, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


def _refusal(error: GaceError) -> dict[str, Any]:
    return {"refused": str(error), "kind": type(error).__name__}


def core_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _reply(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
