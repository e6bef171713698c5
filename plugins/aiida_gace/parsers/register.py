"""Parser of ``gace models register``."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida import orm
from aiida.engine import ExitCode

from aiida_gace.parsers.base import GaceParser, Unreadable


class RegisterParser(GaceParser):
    """What the registry answered; the potential node learns its version."""

    error_codes: t.ClassVar[dict[str, str]] = {"RegistryError": "ERROR_REGISTRY"}

    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Attach the registration and write the version into the extras of the potential."""
        if "version" not in summary:
            raise Unreadable("the summary names no model version")
        self.out("registration", orm.Dict(summary))
        extras = self.node.inputs.potential.base.extras
        extras.set("mlflow_version", str(summary["version"]))
        extras.set("mlflow_uri", summary.get("uri"))
        return None


__all__ = ["RegisterParser"]
