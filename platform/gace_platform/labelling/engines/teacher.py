"""A teacher potential as an engine: any ASE calculator, for rehearsals and for tests of the loop itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from ase import Atoms

from gace.engines.named import make_calculator
from gace.errors import InputError, MissingDependencyError
from gace.potential.bundle import bundle_hash
from gace.structures.io import stress_matrix
from gace_platform.labelling.config import TeacherReference
from gace_platform.labelling.engines.atoms import unpaired_electrons
from gace_platform.labelling.engines.base import Failure, Label, stated_integer
from gace_platform.labelling.ladder import Remedy

BUILT_IN_PACKAGES = {"tblite": "tblite"}
"""Packages behind the known names that are not ASE's own."""


class TeacherEngine:
    """Energies, forces and (periodic in three directions) stress by an ASE calculator."""

    def __init__(self, reference: TeacherReference) -> None:
        self.reference = reference

    def settings(self) -> dict[str, Any]:
        """The calculator, its arguments, and the version of its package (of a bundle: its content)."""
        name, version = self.reference.calculator, self.reference.version
        if name == "gace":
            if "bundle" not in self.reference.kwargs:
                raise InputError(
                    "teacher 'gace': kwargs need a bundle, the folder of the potential that labels"
                )
            content = bundle_hash(str(self.reference.kwargs["bundle"]))
            # where the bundle lies is no part of the key, what it holds always is
            return {
                "engine": "teacher",
                "calculator": name,
                "kwargs": {key: value for key, value in self.reference.kwargs.items() if key != "bundle"},
                "code_version": content if version is None else f"{version} {content}",
            }
        package = (
            name.partition(":")[0].partition(".")[0] if ":" in name else BUILT_IN_PACKAGES.get(name, "ase")
        )
        return {
            "engine": "teacher",
            "calculator": name,
            "kwargs": self.reference.kwargs,
            "code_version": version or _version(package),
        }

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """A structure's own charge and spin, else the reference's, else 0 (tblite: the lowest spin)."""
        charge = stated_integer(atoms, "charge")
        spin = stated_integer(atoms, "spin")
        charge = self.reference.charge if charge is None else charge
        spin = self.reference.spin if spin is None else spin
        if spin is None:
            spin = (int(atoms.numbers.sum()) - charge) % 2 if self._counts_electrons else 0
        return charge, spin

    def check(self, structures: Sequence[Atoms]) -> None:
        """Make the calculator once and refuse elements it does not know.

        Raises:
            InputError: unknown calculator or arguments, unknown element, impossible spin.
            MissingDependencyError: its package is not installed.
        """
        make_calculator(self.reference.calculator, **self.reference.kwargs)
        known = _elements_of(self.reference.calculator)
        for number, atoms in enumerate(structures):
            where = f"structure {number} ({atoms.get_chemical_formula()})"
            unknown = sorted(set(atoms.get_chemical_symbols()) - known) if known else []
            if unknown:
                raise InputError(
                    f"{where}: calculator '{self.reference.calculator}' has no {', '.join(unknown)}"
                )
            charge, spin = self.charge_and_spin(atoms)
            electrons = int(atoms.numbers.sum()) - charge
            if self._counts_electrons and (electrons < spin or (electrons - spin) % 2):
                raise InputError(
                    f"{where}: {spin} unpaired among {electrons} electrons is impossible; set spin"
                )

    def isolated_atom(self, symbol: str) -> Atoms:
        """A neutral atom with as many unpaired electrons as Hund's rule asks for (tblite) or none."""
        atom = Atoms(symbol, positions=[[0.0, 0.0, 0.0]])
        atom.info.update(charge=0, spin=unpaired_electrons(symbol) if self._counts_electrons else 0)
        return atom

    def remedies(self) -> list[Remedy]:
        """As given; for tblite also with more iterations and a weaker mixing; with more time."""
        more_time = Remedy("more time", ("timeout",), patience=4.0)
        if not self._counts_electrons:
            return [Remedy("as given"), more_time]
        helps = ("unconverged",)
        return [
            Remedy("as given"),
            Remedy("more iterations", helps),
            Remedy("strong damping", helps),
            more_time,
        ]

    def run(self, atoms: Atoms, attempt: int) -> Label:
        """Label one structure.

        Raises:
            Failure: the calculator raised an error or left something out.
        """
        work = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        try:
            work.calc = make_calculator(self.reference.calculator, **self._arguments(atoms, attempt))
            energy = float(work.get_potential_energy())
            forces = np.array(work.get_forces(), dtype=float)
            stress = stress_matrix(work.get_stress()) if all(work.pbc) else None
        except (InputError, MissingDependencyError):
            raise
        except Exception as error:  # a calculator may raise anything
            raise Failure(
                _failure_class(error), f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        return Label(energy, forces, stress)

    @property
    def _counts_electrons(self) -> bool:
        return self.reference.calculator == "tblite"

    def _arguments(self, atoms: Atoms, attempt: int) -> dict[str, Any]:
        arguments = dict(self.reference.kwargs)
        if self._counts_electrons:
            charge, spin = self.charge_and_spin(atoms)
            arguments = {"charge": charge, "multiplicity": spin + 1, **arguments}
            if attempt >= 1:
                arguments["max_iterations"] = 4 * int(arguments.get("max_iterations", 250))
            if attempt == 2:
                arguments["mixer_damping"] = 0.1
        return arguments


def _failure_class(error: Exception) -> str:
    """The class of a calculator's error; calculators raise what they like, so its words decide."""
    words = str(error).lower()
    if isinstance(error, MemoryError):
        return "memory"
    if "converge" in words or "scf" in words:
        return "unconverged"
    if "diagonali" in words or "eigenvalue" in words or isinstance(error, np.linalg.LinAlgError):
        return "diagonalisation"
    return "geometry" if "atoms overlap" in words or "too close" in words else "error"


def _elements_of(calculator: str) -> set[str]:
    """Elements a known calculator can treat; empty: unknown, let it speak for itself."""
    if calculator == "tersoff-si":
        return {"Si"}
    if calculator == "emt":
        return {"Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt", "H", "C", "N", "O"}
    if calculator == "tblite":
        from ase.data import chemical_symbols

        return set(chemical_symbols[1:87])
    return set()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
