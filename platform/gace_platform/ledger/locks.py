"""Locks between processes that the death of their owner releases."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on ``path``; yields whether it was obtained.

    The lock is the kernel's (``flock``): it belongs to the open file, not to the file's existence, so a
    process killed by SIGKILL leaves none behind. The file itself is never removed: removing it would let two
    processes hold "the" lock on two different files of the same name.

    Args:
        path: the lock file, made if absent.
        wait: wait for another owner; otherwise yield False at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
