"""``metrics.jsonl``: one line per epoch, each epoch once however often training was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gace.files import write_atomic


class MetricsFile:
    """An append-only file of JSON lines that begins where the checkpoint ends."""

    def __init__(self, path: Path, epochs_done: int) -> None:
        """Open ``path`` for the epochs after ``epochs_done``; later ones in it are forgotten."""
        kept = [line for line in read_metrics(path) if line["epoch"] <= epochs_done]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._stream = path.open("a", encoding="utf-8")

    def append(self, line: dict[str, Any]) -> None:
        """Add one epoch."""
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Hand what was written to the system; done before every checkpoint."""
        self._stream.flush()

    def close(self) -> None:
        """Write out and close."""
        self._stream.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The epochs recorded in a metrics file; a line torn by a kill, and what follows it, is dropped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines.append(line)
    return lines
