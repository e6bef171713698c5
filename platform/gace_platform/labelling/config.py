"""Configuration of `gace labels run`: the level of theory, the structures, the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from gace.config import Closed, load_config
from gace_platform.labelling.references import (
    CP2KReference,
    PySCFCrystalReference,
    PySCFReference,
    QuantumEspressoReference,
    Reference,
    TeacherReference,
    VaspReference,
    located,
)

__all__ = [
    "CP2KReference",
    "LabelConfig",
    "PySCFCrystalReference",
    "PySCFReference",
    "QualityGate",
    "QuantumEspressoReference",
    "Reference",
    "TeacherReference",
    "VaspReference",
    "load_label_config",
    "located",
]


class QualityGate(Closed):
    """Limits beyond which a finished calculation is quarantined instead of becoming a label."""

    max_force: float = Field(default=100.0, gt=0)
    """Largest force on one atom, eV/Å."""
    max_net_force: float = Field(default=0.1, gt=0)
    """Largest component of the sum of all forces, eV/Å: more means an integration grid that is too coarse."""
    max_net_torque: float = Field(default=0.1, gt=0)
    """Largest component of the torque over the radius of gyration, eV/Å; structures without periodicity."""
    max_stress: float = Field(default=2.0, gt=0)
    """Largest stress component, eV/Å³ (1 eV/Å³ = 160 GPa)."""
    spot_check: int | None = Field(default=None, ge=1)
    """Check the forces of one label of this many against a finite difference of the energy (two calculations
    more); None: of none. Engines run by AiiDA are not spot-checked."""
    audit: bool = True
    """In a campaign: compare the labels of each batch with what the present committee (in generation 0 the
    teacher) expects of them; a suspect is quarantined."""
    max_binding_energy: float = Field(default=20.0, gt=0)
    """Largest |energy - isolated atoms| per atom, eV; checked when ``isolated_atoms`` is true."""


class LabelConfig(Closed):
    """One batch of reference calculations."""

    reference: Reference
    structures: Path | None = None
    """Structures to label; relative paths count from the configuration file's folder."""
    store: Path
    """Folder of the label store, shared by everyone who pays for labels."""
    attempts: int = Field(default=3, ge=1)
    """Attempts per structure, each with another remedy."""
    isolated_atoms: bool = False
    """Compute also the isolated atom of every element present, and check binding energies against them."""
    elements: list[str] = Field(default_factory=list)
    """Elements whose isolated atoms are wanted besides those of the structures."""
    threads: int = Field(default=1, ge=1)
    """Threads of one calculation. Labels are bit for bit reproducible with 1."""
    time_limit: float | None = Field(default=None, gt=0)
    """Seconds after which an attempt is stopped and counts as failed."""
    max_losses: int = Field(default=5, ge=1)
    """A structure whose calculation was killed from outside this often is quarantined (out of memory?)."""
    quality: QualityGate = QualityGate()
    history: list[list[dict[str, Any]]] | None = None
    """Attempts at other structures that the ladder of remedies starts from; None: those in the store."""


def load_label_config(path: str | Path, overrides: tuple[str, ...] = ()) -> LabelConfig:
    """Read a label configuration; its relative paths count from the file's folder.

    Raises:
        InputError: an unknown key or a wrong value, named with the nearest valid key.
    """
    config = load_config(path, LabelConfig, overrides)
    folder = Path(path).resolve().parent
    structures = None if config.structures is None else folder / config.structures
    return config.model_copy(
        update={
            "structures": structures,
            "store": folder / config.store,
            "reference": located(config.reference, folder),
        }
    )
