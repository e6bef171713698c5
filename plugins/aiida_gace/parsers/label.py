"""Parser of ``gace labels run``."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida import orm
from aiida.engine import ExitCode

from aiida_gace.parsers.base import GaceParser


class LabelParser(GaceParser):
    """Accepted labels become a data set, and the verdict on every structure a dictionary."""

    error_codes: t.ClassVar[dict[str, str]] = {"LabelError": "ERROR_ISOLATED_ATOM"}

    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Attach the labelled structures (when there are any), the isolated atoms and the verdicts."""
        self.out("verdicts", orm.Dict(self.read_json("labels.json")))
        for name in ("labelled", "isolated_atoms"):
            path = folder / f"{name}.xyz"
            if path.is_file() and path.stat().st_size:
                self.out(name, self.dataset(path))
        return None


__all__ = ["LabelParser"]
