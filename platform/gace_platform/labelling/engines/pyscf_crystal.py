"""Density functional theory of insulating crystals with PySCF: energies, forces and stress.

Gaussians with GTH pseudopotentials, everything on one uniform grid: the one path of PySCF on which energy,
forces and stress are derivatives of each other. Metals, charged cells and spin at k-points are refused.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree, Ry

from gace.errors import InputError, missing
from gace_platform.labelling.config import PySCFCrystalReference
from gace_platform.labelling.engines.base import Failure, Label, stated_integer
from gace_platform.labelling.engines.cp2k_input import mesh
from gace_platform.labelling.engines.crystals import atom_in_box, check_cell
from gace_platform.labelling.engines.pyscf import (
    canonical_name,
    failures_told,
    last_lines,
    package_version,
    use_numpy_products,
)
from gace_platform.labelling.ladder import Remedy

RECIPE = 1
"""Version of how this module drives PySCF; part of the label key, to be raised when labels would move."""

FUNCTIONALS = {"PBE": ("pbe", "gth-pbe"), "BLYP": ("blyp", "gth-blyp"), "PADE": ("lda,vwn", "gth-pade")}
"""PySCF's name and the pseudopotential of each functional."""


class PySCFCrystalEngine:
    """Restricted or unrestricted Kohn–Sham calculations at k-points."""

    def __init__(self, reference: PySCFCrystalReference) -> None:
        self.reference = reference

    def settings(self) -> dict[str, Any]:
        """The level of theory and every numerical setting that moves a label."""
        reference = self.reference
        return {
            "engine": "pyscf-gth",
            "code_version": package_version("pyscf"),
            "recipe": RECIPE,
            "basis": canonical_name(reference.basis),
            **reference.model_dump(
                include={"functional", "cutoff", "kpoints_distance", "conv_tol", "isolated_box"}
            ),
        }

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """Charge 0 unless the structure states one, and its own spin, else the lowest possible."""
        charge, spin = stated_integer(atoms, "charge") or 0, stated_integer(atoms, "spin")
        return charge, (int(atoms.numbers.sum()) - charge) % 2 if spin is None else spin

    def check(self, structures: Sequence[Atoms]) -> None:
        """Refuse molecules, charged cells, elements without basis or pseudopotential, impossible spins.

        Raises:
            InputError: see above; the message names the structure.
            MissingDependencyError: PySCF is not installed.
        """
        try:
            import pyscf  # noqa: F401
        except ImportError:
            raise missing("pyscf", "dft") from None
        self._check_elements(
            sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
        )
        for number, atoms in enumerate(structures):
            where = check_cell(number, atoms)
            charge, spin = self.charge_and_spin(atoms)
            if charge:
                raise InputError(f"{where}: a charge of {charge}; the engine labels neutral cells")
            if (int(atoms.numbers.sum()) - spin) % 2:
                raise InputError(f"{where}: {spin} unpaired electrons are impossible")
            if spin and self.mesh(atoms) != (1, 1, 1):
                # PySCF would share them out over the k-points
                raise InputError(f"{where}: unpaired electrons at more than one k-point; set spin to 0")

    def isolated_atom(self, symbol: str) -> Atoms:
        """A neutral atom in a cubic cell, with as many unpaired electrons as Hund's rule asks for."""
        return atom_in_box(symbol, [self.reference.isolated_box] * 3)

    def is_alone(self, atoms: Atoms) -> bool:
        """Whether a structure is one of the engine's own isolated atoms: what is computed tells no more."""
        box = self.reference.isolated_box * np.eye(3)
        return len(atoms) == 1 and np.allclose(atoms.cell.array, box, rtol=0, atol=1e-6)

    def mesh(self, atoms: Atoms) -> tuple[int, int, int]:
        """Divisions of the reciprocal cell; Γ alone without ``kpoints_distance``, and for isolated atoms."""
        return (1, 1, 1) if self.is_alone(atoms) else mesh(atoms, self.reference.kpoints_distance)

    def remedies(self) -> list[Remedy]:
        """As configured; damped with a level shift; with a longer memory; more time."""
        return [
            Remedy("diis"),
            Remedy("damping and level shift", ("unconverged",)),
            Remedy("long diis", ("unconverged", "diagonalisation")),
            Remedy("more time", ("timeout",), patience=4.0),
        ]

    def run(self, atoms: Atoms, attempt: int) -> Label:
        """Energy, forces and stress of one crystal.

        Raises:
            Failure: the field did not converge, the structure has no gap, or PySCF raised an error.
        """
        log = io.StringIO()
        with failures_told(log):
            field = self._field(atoms, attempt, log)
            energy = float(field.kernel())
            if not field.converged:
                name = self.remedies()[attempt].name
                message = f"no self-consistency in {field.max_cycle} cycles ({name})"
                raise Failure("unconverged", message, last_lines(log))
            if not self.is_alone(atoms) and (found := gap(field)) < self.reference.gap_min:
                message = f"a band gap of {found:.2f} eV is below gap_min {self.reference.gap_min:g}"
                raise Failure("geometry", f"{message}: metals want smearing (cp2k, quantum-espresso)")
            gradient = field.nuc_grad_method()
            forces = -np.asarray(gradient.kernel()) * Hartree / Bohr
            stress = np.asarray(gradient.get_stress()) * Hartree / Bohr**3
        evidence = {"converged": bool(field.converged), "cycles": int(getattr(field, "cycles", 0))}
        return Label(energy * Hartree, forces, (stress + stress.T) / 2, evidence)

    def _field(self, atoms: Atoms, attempt: int, log: io.StringIO) -> Any:
        """A prepared PySCF mean-field object, with the remedy of this attempt."""
        from pyscf.pbc import dft, gto

        use_numpy_products()
        reference = self.reference
        functional, potential = FUNCTIONALS[reference.functional]
        cell = gto.Cell(verbose=4, stdout=log, max_memory=reference.memory_mb)
        cell.atom = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
        cell.a, cell.unit, cell.basis, cell.pseudo = atoms.cell.array, "Angstrom", reference.basis, potential
        cell.ke_cutoff, cell.spin = reference.cutoff * Ry / Hartree, self.charge_and_spin(atoms)[1]
        cell.build(dump_input=False, parse_arg=False)
        points = cell.make_kpts(self.mesh(atoms))
        # one k-point too: PySCF has no stress for its Γ-point objects
        field = (dft.KUKS if cell.spin else dft.KRKS)(cell, points, xc=functional)
        field.conv_tol, field.max_cycle, field.chkfile = reference.conv_tol, reference.max_cycle, None
        if attempt == 1:
            field.damp, field.level_shift, field.diis_start_cycle = 0.5, 0.3, 8
            field.max_cycle = 4 * reference.max_cycle
        elif attempt == 2:
            field.diis_space, field.max_cycle = 16, 3 * reference.max_cycle
        return field

    def _check_elements(self, symbols: Sequence[str]) -> None:
        from pyscf.pbc import gto

        potential = FUNCTIONALS[self.reference.functional][1]
        for what, load, name in (
            ("basis", gto.basis.load, self.reference.basis),
            ("pseudopotential", gto.pseudo.load, potential),
        ):
            lacking = []
            for symbol in symbols:
                try:
                    load(name, symbol)
                except Exception:  # PySCF raises a dozen kinds here
                    lacking.append(symbol)
            if lacking:
                raise InputError(
                    f"the {what} '{name}' has nothing for {', '.join(lacking)}; choose another one"
                )


def gap(field: Any) -> float:
    """Band gap over all k-points, of the spin where it is smallest, eV.

    Negative where levels are not filled from below.
    """
    energies, filled = np.asarray(field.mo_energy), np.asarray(field.mo_occ) > 0
    if energies.ndim == 2:
        energies, filled = energies[None], filled[None]
    gaps = [
        float(one[~full].min() - one[full].max()) * Hartree
        for one, full in zip(energies, filled, strict=True)
        if full.any() and not full.all()
    ]
    return min(gaps, default=np.inf)


__all__ = ["PySCFCrystalEngine", "gap"]
