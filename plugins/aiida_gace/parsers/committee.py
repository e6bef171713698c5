"""Parser of ``gace committee train``."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida.engine import ExitCode

from aiida_gace.data.potential import PotentialData
from aiida_gace.parsers.base import Absent, GaceParser, Unreadable


class CommitteeParser(GaceParser):
    """The bundle becomes a :class:`PotentialData`."""

    error_codes: t.ClassVar[dict[str, str]] = {
        "TrainingDivergedError": "ERROR_DIVERGED",
        "CommitteeError": "ERROR_TOO_FEW_MEMBERS",
    }

    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Attach the bundle."""
        bundle = folder / "potential"
        if not bundle.is_dir():
            raise Absent("potential bundle")
        try:
            self.out("potential", PotentialData(tree=bundle.absolute()))
        except ValueError as error:
            raise Unreadable(str(error)) from None
        return None


__all__ = ["CommitteeParser"]
