"""An append-only journal: one JSON object per line, readable whatever was killed while writing."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gace_platform.ledger.locks import locked


class Journal:
    """Events in the order in which they happened, appended by any number of processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, key: str, **details: Any) -> None:
        """Add one event; it is on disk when this returns.

        Args:
            event: what happened.
            key: the label key it happened to.
            details: further JSON-able fields.
        """
        entry = {
            "time": round(time.time(), 3),
            "event": event,
            "key": key,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **details,
        }
        line = json.dumps(entry, allow_nan=False, default=float).encode() + b"\n"
        with locked(self.path.with_suffix(".lock")):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                # a line torn by a kill must not swallow the next one
                size = os.lseek(descriptor, 0, os.SEEK_END)
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                # a disk that is nearly full takes a part first, and refuses the rest at the next call
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All events, oldest first; a line torn by a kill is skipped."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        for line in content.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and "event" in entry and "key" in entry:
                yield entry
