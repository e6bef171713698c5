"""Parser of ``gace labels review``."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida import orm
from aiida.engine import ExitCode

from aiida_gace.parsers.base import GaceParser, Unreadable


class ReviewParser(GaceParser):
    """The suspects become a dictionary, empty when there are none."""

    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Attach the suspects."""
        found = self.read_json("review.json").get("suspects")
        if not isinstance(found, dict):
            raise Unreadable("review.json names no suspects")
        self.out("suspects", orm.Dict(found))
        return None


__all__ = ["ReviewParser"]
