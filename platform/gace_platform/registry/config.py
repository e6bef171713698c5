"""Configuration file of ``gace models register``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gace.config import Closed
from gace.errors import InputError
from gace_platform.exam.config import Criteria


class ExamSection(Closed):
    """Let the version sit the frozen exam right after it is registered."""

    structures: Path | None = None
    """Labelled structures of the exam (extended XYZ); absent: no exam is taken, and nothing promoted."""
    criteria: Criteria = Criteria()
    """What has to be shown."""


class RegisterConfig(Closed):
    """One generation to be registered; paths are relative to the configuration file's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
    """Name of the campaign: of the MLflow experiment and of the registered model."""
    generation: int = Field(ge=0)
    """Number of the generation."""
    bundle: Path
    """Folder of the potential bundle."""
    store: Path | None = None
    """Folder of the MLflow store; ``--store`` goes before it, ``MLFLOW_TRACKING_URI`` stands in for it."""
    aiida_uuid: str = ""
    """UUID of the AiiDA node this potential comes from."""
    known_by: Literal["node", "generation"] = "node"
    """What identifies the version besides its content: ``aiida_uuid``, or (in campaigns) ``generation``."""
    nodes: dict[str, str] = Field(default_factory=dict)
    """Further AiiDA UUIDs by role (``dataset``, ``committee``, ``workflow``, …), kept as tags."""
    dataset_hash: str | None = None
    """Hash of the training set; read from the bundle's metadata when not given."""
    committee: Path | None = None
    """Folder left by ``gace committee train`` (``members/*/metrics.jsonl``): one child run per member."""
    n_labels: int | None = Field(default=None, ge=0)
    """Labels paid for so far; the step under which ``metrics`` are logged (else the generation)."""
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Counts and settings shown with the generation's run."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Figures of this generation (errors, coverage, core seconds, …)."""
    exam: ExamSection | None = None
    """The exam, when it is to be taken now."""
    promote: bool = True
    """Move the alias ``champion`` here when the exam is passed (without an exam nothing is promoted)."""

    def relative_to(self, folder: Path) -> RegisterConfig:
        """The same configuration with its paths taken from ``folder``."""
        exam = self.exam
        if exam is not None and exam.structures is not None:
            exam = exam.model_copy(update={"structures": folder / exam.structures})
        paths = {
            "bundle": folder / self.bundle,
            "store": self.store and folder / self.store,
            "committee": self.committee and folder / self.committee,
            "exam": exam,
        }
        return self.model_copy(update=paths)

    def check(self) -> None:
        """See that everything named exists.

        Raises:
            InputError: a file or folder is missing.
        """
        if not (self.bundle / "config.json").is_file():
            raise InputError(f"bundle: {self.bundle} is not a potential bundle (no config.json)")
        if self.committee is not None and not self.committee.is_dir():
            raise InputError(f"committee: no such folder: {self.committee}")
        structures = None if self.exam is None else self.exam.structures
        if structures is not None and not structures.is_file():
            raise InputError(f"exam.structures: no such file: {structures}")


__all__ = ["ExamSection", "RegisterConfig"]
