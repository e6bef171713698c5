"""Parser of ``gace explore``."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida.engine import ExitCode

from aiida_gace.parsers.base import GaceParser


class ExploreParser(GaceParser):
    """The frames the walkers kept become a data set."""

    error_codes: t.ClassVar[dict[str, str]] = {"ExplorationError": "ERROR_NO_CANDIDATES"}

    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Attach the candidates."""
        path = folder / "candidates.xyz"
        if path.is_file() and not path.stat().st_size:
            return self.exit_codes.ERROR_NO_CANDIDATES.format(detail="candidates.xyz is empty")
        self.out("candidates", self.dataset(path))
        return None


__all__ = ["ExploreParser"]
