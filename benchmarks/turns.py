"""Several programs on one device: all import, build and compile at once, then they time one after another."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

LONGEST = 240.0
"""Seconds that a program waits for the word to go."""


def tell_ready(folder: Path) -> None:
    """Leave word that this program is ready, or never will be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{os.getpid()}.ready").touch()


class Turn:
    """A program's turn at the device, as a context.

    Entering leaves ``PID.ready`` in the folder, waits for a file ``go`` there (:data:`LONGEST` at most) and
    then for the lock. Without a folder nothing is waited for.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._lock: IO[str] | None = None

    def __enter__(self) -> Turn:
        if self.folder is None:
            return self
        tell_ready(self.folder)
        began = time.monotonic()
        while not (self.folder / "go").exists() and time.monotonic() - began < LONGEST:
            time.sleep(0.1)
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.close()
