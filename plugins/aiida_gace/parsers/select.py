"""Parser of ``gace select``."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida.engine import ExitCode

from aiida_gace.parsers.base import GaceParser


class SelectParser(GaceParser):
    """The picks become a data set; an empty selection is an answer with its own exit code."""

    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Attach the selected structures."""
        self.read_json("selection.json")
        path = folder / "selected.xyz"
        if path.is_file() and not path.stat().st_size:
            return self.exit_codes.ERROR_NOTHING_SELECTED.format(detail="see selection.json for the reasons")
        self.out("selected", self.dataset(path))
        return None


__all__ = ["SelectParser"]
