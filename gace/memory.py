"""Lack of memory: how Python, PyTorch, C++ and the kernel tell of it, and the one error it becomes here."""

from __future__ import annotations

import contextlib
import errno
import re
import resource
import sys
from collections.abc import Iterator

from gace.errors import GaceError, OutOfMemoryError

_WORDS = re.compile(
    r"MemoryError|out of memory|(can't|cannot|could not|unable to) allocate|bad_alloc|ALLOC_FAILED|oom.kill",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"tried to allocate (\d[\d.]*) ?(bytes|[KMGT]i?B)|allocate (\d[\d.]*) ?([KMGT]i?B)", re.I
)
_SIZES = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def tells_of_memory(text: str) -> bool:
    """Whether the last words of a program say that it could not get memory."""
    return bool(_WORDS.search(text))


def is_lack(error: BaseException) -> bool:
    """Whether an error is a lack of memory: PyTorch's on a processor is a ``RuntimeError`` like any other."""
    if isinstance(error, MemoryError):  # OutOfMemoryError too
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return (
        isinstance(error, RuntimeError) and not isinstance(error, GaceError) and tells_of_memory(str(error))
    )


def amount(error: BaseException) -> str:
    """What was asked for and refused, and what this process has held at most, for a message."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    found = _AMOUNT.search(str(error))
    asked = ""
    if found:
        number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        asked = f"{float(number) * _SIZES[unit[0].lower()] / 2**20:.0f} MB more were refused, "
    return f"{asked}the process has held {held:.0f} MB of main memory at most"


@contextlib.contextmanager
def told(doing: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory into one line that says during what, how much, and what to do.

    Raises:
        OutOfMemoryError: the body met one.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:
        if not is_lack(error):
            raise
        raise OutOfMemoryError(f"out of memory while {doing}: {amount(error)}; {remedy}") from error


def forget_freed() -> None:
    """Hand what PyTorch keeps of a GPU's freed memory back, so that another division of it can be tried."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
