"""Configuration of `gace labels run`: the level of theory, the structures, the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gace.config import Closed, load_config


class PySCFReference(Closed):
    """Kohn–Sham density functional theory of molecules by PySCF."""

    engine: Literal["pyscf"] = "pyscf"
    functional: str = "PBE"
    """Any functional PySCF knows by name."""
    basis: str = "def2-svp"
    """Any Gaussian basis PySCF knows by name."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = Field(default=None, ge=0)
    """Unpaired electrons of structures that do not state their own; None: the lowest possible, 0 or 1."""
    density_fit: bool = True
    """Resolution of identity for the Coulomb (and exchange) integrals."""
    auxiliary_basis: str | None = None
    """Fitting basis; None: the one PySCF pairs with ``basis``."""
    dispersion: Literal["d3bj", "d3zero", "d4"] | None = None
    """Empirical dispersion added to energy and forces (needs the package pyscf-dispersion)."""
    grid_level: int = Field(default=2, ge=0, le=9)
    """Fineness of the integration grid, as PySCF counts."""
    grid_response: bool = False
    """Include the movement of the grid in the forces: the net force becomes exactly zero."""
    conv_tol: float = Field(default=1e-8, gt=0, le=1e-4)
    """Energy change at which the self-consistent field counts as converged, Hartree."""
    max_cycle: int = Field(default=60, ge=1)
    """Cycles of the first attempt; remedies may use more."""
    memory_mb: int = Field(default=4000, ge=500)
    """Memory PySCF plans with, MB. Fixed, since its block sizes, and with them rounding, depend on it."""


class TeacherReference(Closed):
    """A fast potential in the place of a quantum calculation, for rehearsals: any ASE calculator."""

    engine: Literal["teacher"]
    calculator: str
    """A known name (``tblite``, ``emt``, ``tersoff-si``, ``lj``) or ``module:factory``."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the calculator, for instance ``{method: GFN2-xTB}``."""
    version: str | None = None
    """Version of the calculator, part of the label key; None: that of the installed package it comes from."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = Field(default=None, ge=0)
    """Unpaired electrons of structures that do not state their own; None: 0 (tblite: the lowest possible)."""


Reference = Annotated[PySCFReference | TeacherReference, Field(discriminator="engine")]


class QualityGate(Closed):
    """Limits beyond which a finished calculation is quarantined instead of becoming a label."""

    max_force: float = Field(default=100.0, gt=0)
    """Largest force on one atom, eV/Å."""
    max_net_force: float = Field(default=0.1, gt=0)
    """Largest component of the sum of all forces, eV/Å: more means an integration grid that is too coarse."""
    max_stress: float = Field(default=2.0, gt=0)
    """Largest stress component, eV/Å³ (1 eV/Å³ = 160 GPa)."""
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
    return config.model_copy(update={"structures": structures, "store": folder / config.store})
