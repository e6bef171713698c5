"""What an engine is: the contract between the batch and a program that computes labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.errors import LabelError
from gace_platform.labelling.config import (
    CP2KReference,
    PySCFCrystalReference,
    PySCFReference,
    QuantumEspressoReference,
    Reference,
    VaspReference,
)
from gace_platform.labelling.ladder import Remedy


class Label(NamedTuple):
    """The outcome of one converged reference calculation."""

    energy: float
    """eV."""
    forces: NDArray[np.float64]
    """eV/Å ``(N, 3)``."""
    stress: NDArray[np.float64] | None
    """eV/Å³ ``(3, 3)``, tension positive; None unless periodic in three directions."""
    evidence: dict[str, Any] | None = None
    """What the program itself says about its convergence and settings; see the quality gate."""


class Failure(LabelError):
    """One attempt failed: why, and the end of the program's log. Never a label.

    Attributes:
        failure_class: one of :data:`gace_platform.labelling.ladder.FAILURE_CLASSES`.
        log: the last lines the program wrote.
    """

    def __init__(self, failure_class: str, message: str, log: str = "") -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.log = log


class Engine(Protocol):
    """A program that labels structures at one level of theory.

    An engine is made anew in the process that computes; making it imports nothing heavy.
    """

    def settings(self) -> dict[str, Any]:
        """Everything that decides the value of a label, JSON-able; hashed into the label key."""
        ...

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """Total charge (e) and number of unpaired electrons of a structure: its own, else the reference's."""
        ...

    def check(self, structures: Sequence[Atoms]) -> None:
        """Refuse what could never be computed, before anything is.

        Raises:
            InputError: unknown method, element without basis, impossible charge and spin, …
            MissingDependencyError: the program is not installed.
        """
        ...

    def isolated_atom(self, symbol: str) -> Atoms:
        """A single neutral atom of an element in its ground state, ready to be labelled."""
        ...

    def remedies(self) -> list[Remedy]:
        """The ways to carry out a calculation; the first is how it was asked for, the others remedies.

        None of them may change the level of theory.
        """
        ...

    def run(self, atoms: Atoms, attempt: int) -> Label:
        """Label one structure with the remedy at position ``attempt`` of :meth:`remedies`.

        Raises:
            Failure: the calculation did not converge or broke.
        """
        ...


THROUGH_AIIDA = frozenset({"cp2k", "quantum-espresso", "vasp"})
"""Engines whose program AiiDA runs: they take part in campaigns, and have no ``run`` of their own."""


def make_engine(reference: Reference) -> Engine:
    """The engine of a reference section."""
    if isinstance(reference, QuantumEspressoReference):
        from gace_platform.labelling.engines.quantum_espresso import QuantumEspressoEngine

        return QuantumEspressoEngine(reference)
    if isinstance(reference, CP2KReference):
        from gace_platform.labelling.engines.cp2k import CP2KEngine

        return CP2KEngine(reference)
    if isinstance(reference, VaspReference):
        from gace_platform.labelling.engines.vasp import VaspEngine

        return VaspEngine(reference)
    if isinstance(reference, PySCFReference):
        from gace_platform.labelling.engines.pyscf import PySCFEngine

        return PySCFEngine(reference)
    if isinstance(reference, PySCFCrystalReference):
        from gace_platform.labelling.engines.pyscf_crystal import PySCFCrystalEngine

        return PySCFCrystalEngine(reference)
    from gace_platform.labelling.engines.teacher import TeacherEngine

    if reference.faults is not None:
        from gace_platform.labelling.engines.faults import FaultyEngine

        return FaultyEngine(reference, reference.faults)
    return TeacherEngine(reference)


def stated_integer(atoms: Atoms, name: str) -> int | None:
    """A whole number (``charge``, ``spin``) that a structure states in its ``info``, or None.

    Raises:
        InputError: it is not a whole number.
    """
    from gace.errors import InputError

    value = atoms.info.get(name)
    if value is None:
        return None
    number = float(value)
    if number != round(number):
        raise InputError(f"{atoms.get_chemical_formula()}: {name} must be a whole number, got {value}")
    return round(number)
