"""Kohn–Sham density functional theory of molecules with PySCF: energies and analytic forces.

Results are reproducible bit for bit on one kind of processor: one thread, a start guess that depends on the
structure alone, blocks of fixed size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from gace.errors import InputError, missing, nearest
from gace_platform.labelling.config import PySCFReference
from gace_platform.labelling.engines.atoms import unpaired_electrons
from gace_platform.labelling.engines.base import Failure, Label, stated_integer
from gace_platform.labelling.engines.pyscf_speed import (
    blocked_integration,
    coarse_density,
    use_numpy_products,
)
from gace_platform.labelling.ladder import Remedy

LOG_LINES = 15
"""Lines of the program's log kept with a failure."""

INVERSION = 1e-3
"""Overlap of filled and empty orbitals, Hartree, above which a solution is no ground state."""

RECIPE = 1
"""Version of how this module drives PySCF; part of the label key, to be raised when labels would move."""


class PySCFEngine:
    """Restricted (closed shell) or unrestricted Kohn–Sham calculations of molecules."""

    def __init__(self, reference: PySCFReference) -> None:
        self.reference = reference

    def settings(self) -> dict[str, Any]:
        """The level of theory and every numerical setting that moves a label."""
        reference = self.reference
        settings: dict[str, Any] = {
            "engine": "pyscf",
            "code_version": package_version("pyscf"),
            "recipe": RECIPE,
            "functional": reference.functional.lower(),
            "basis": canonical_name(reference.basis),
            "density_fit": reference.density_fit,
            "auxiliary_basis": reference.auxiliary_basis and canonical_name(reference.auxiliary_basis),
            "dispersion": reference.dispersion,
            "grid_level": reference.grid_level,
            "grid_response": reference.grid_response,
            "conv_tol": reference.conv_tol,
        }
        if reference.dispersion is not None or any(one in settings["functional"] for one in ("-d3", "-d4")):
            settings["dispersion_version"] = package_version("pyscf-dispersion", "dispersion")
        return settings

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """A structure's own charge and spin, else the reference's, else the lowest spin possible."""
        charge = stated_integer(atoms, "charge")
        spin = stated_integer(atoms, "spin")
        charge = self.reference.charge if charge is None else charge
        spin = self.reference.spin if spin is None else spin
        if spin is None:
            spin = (int(atoms.numbers.sum()) - charge) % 2
        return charge, spin

    def check(self, structures: Sequence[Atoms]) -> None:
        """Refuse unknown methods, periodic structures, elements without basis, impossible spins.

        Raises:
            InputError: see above; the message names the structure.
            MissingDependencyError: PySCF (or its dispersion package) is not installed.
        """
        try:
            import pyscf  # noqa: F401
        except ImportError:
            raise missing("pyscf", "dft") from None
        self._check_functional()
        self._check_basis(sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}))
        for number, atoms in enumerate(structures):
            where = f"structure {number} ({atoms.get_chemical_formula()})"
            if any(atoms.pbc):
                raise InputError(f"{where} is periodic; the pyscf engine labels molecules: set pbc to F F F")
            self._check_spin(atoms, where)

    def isolated_atom(self, symbol: str) -> Atoms:
        """A neutral atom with as many unpaired electrons as Hund's rule asks for."""
        atom = Atoms(symbol, positions=[[0.0, 0.0, 0.0]])
        atom.info.update(charge=0, spin=unpaired_electrons(symbol))
        return atom

    def remedies(self) -> list[Remedy]:
        """DIIS as configured; damped with a level shift; second order; from another guess; more time."""
        return [
            Remedy("diis"),
            Remedy("damping and level shift", ("unconverged",)),
            Remedy("second order", ("unconverged",)),
            Remedy("second order from a Hückel guess", ("unconverged", "diagonalisation")),
            Remedy("more time", ("timeout",), patience=4.0),
        ]

    def run(self, atoms: Atoms, attempt: int) -> Label:
        """Energy and forces of one molecule.

        Raises:
            Failure: the self-consistent field did not converge, or PySCF raised an error.
        """
        log = io.StringIO()
        with failures_told(log):
            field = self._self_consistent_field(atoms, attempt, log)
            energy = float(field.kernel(coarse_density(field) if attempt in (0, 4) else None))
            if not field.converged:
                raise Failure(
                    "unconverged",
                    f"no self-consistency in {field.max_cycle} cycles ({self.remedies()[attempt].name})",
                    last_lines(log),
                )
            inverted = inversion(field)
            if inverted > INVERSION:
                raise Failure(
                    "unconverged",
                    f"an excited state: an empty orbital lies {inverted * Hartree:.2f} eV below a filled one "
                    f"({self.remedies()[attempt].name})",
                    last_lines(log),
                )
            forces = np.zeros((1, 3)) if len(atoms) == 1 else self._forces(field)
        evidence = {"converged": bool(field.converged), "cycles": int(getattr(field, "cycles", 0))}
        return Label(energy * Hartree, forces, None, evidence)

    def _self_consistent_field(self, atoms: Atoms, attempt: int, log: io.StringIO) -> Any:
        """A prepared PySCF mean-field object, with the remedy of this attempt."""
        from pyscf import dft, gto

        use_numpy_products()
        reference = self.reference
        charge, spin = self.charge_and_spin(atoms)
        molecule = gto.Mole(verbose=4, stdout=log, max_memory=reference.memory_mb)
        molecule.atom = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
        molecule.unit, molecule.basis, molecule.ecp = (
            "Angstrom",
            reference.basis,
            _core_potential(reference, atoms),
        )
        molecule.charge, molecule.spin = charge, spin
        molecule.build(dump_input=False, parse_arg=False)
        field = (dft.UKS if spin else dft.RKS)(molecule, xc=reference.functional)
        if reference.density_fit:
            field = field.density_fit(auxbasis=reference.auxiliary_basis)
            field.with_df.build()
        if reference.dispersion is not None:
            field.disp = reference.dispersion
        field._numint = blocked_integration()
        field.grids.level = reference.grid_level
        field.conv_tol = reference.conv_tol
        field.max_cycle = reference.max_cycle
        field.chkfile = None
        if attempt == 1:
            field.damp, field.level_shift, field.diis_start_cycle = 0.5, 0.3, 8
            field.max_cycle = 4 * reference.max_cycle
        elif attempt in (2, 3):
            if attempt == 3:
                field.init_guess = "huckel"
            field = field.newton()
            field.conv_tol = reference.conv_tol
        return field

    def _forces(self, field: Any) -> np.ndarray:
        """Analytic forces, eV/Å ``(N, 3)``."""
        gradient = field.nuc_grad_method()
        gradient.grid_response = self.reference.grid_response
        return -np.asarray(gradient.kernel()) * Hartree / Bohr

    def _check_functional(self) -> None:
        from pyscf.dft import libxc
        from pyscf.scf.dispersion import parse_dft

        name = self.reference.functional
        try:
            plain, _, dispersion = parse_dft(name)
            libxc.parse_xc(plain)
        except NotImplementedError:
            raise InputError(f"PySCF does not have the functional '{name}'") from None
        except (KeyError, ValueError, AttributeError):
            known = [key for key in libxc.XC_CODES if isinstance(key, str)]
            raise InputError(f"unknown functional '{name}'{nearest(name.upper(), known)}") from None
        if dispersion or self.reference.dispersion:
            try:
                import pyscf.dispersion  # noqa: F401
            except ImportError:
                raise missing("pyscf-dispersion", "dispersion") from None
            _refuse_missing_parameters(name, self.reference.dispersion)

    def _check_basis(self, symbols: Sequence[str]) -> None:
        reference = self.reference
        _refuse_missing_functions(reference.basis, symbols, "basis")
        if reference.density_fit and reference.auxiliary_basis is not None:
            _refuse_missing_functions(reference.auxiliary_basis, symbols, "auxiliary basis")

    def _check_spin(self, atoms: Atoms, where: str) -> None:
        charge, spin = self.charge_and_spin(atoms)
        electrons = int(atoms.numbers.sum()) - charge
        if electrons < 1:
            raise InputError(f"{where}: a charge of {charge} leaves no electrons")
        if spin > electrons or (electrons - spin) % 2:
            raise InputError(
                f"{where}: {spin} unpaired among {electrons} electrons is impossible; set spin to "
                f"{electrons % 2} or charge to {charge + 1} or {charge - 1}"
            )


def inversion(field: Any) -> float:
    """How far, in Hartree, the lowest empty orbital lies below the highest filled one of its spin.

    At most zero where orbitals are filled from below, as diagonalisation does. Second-order steps follow
    the gradient alone and may converge to an excited state.
    """
    worst = -np.inf
    for energies, filled in zip(
        np.atleast_2d(field.mo_energy), np.atleast_2d(np.asarray(field.mo_occ) > 0), strict=True
    ):
        if filled.any() and not filled.all():
            worst = max(worst, float(energies[filled].max() - energies[~filled].min()))
    return worst


def _refuse_missing_functions(name: str, symbols: Sequence[str], role: str) -> None:
    """Refuse a basis that PySCF does not know, or that lacks one of these elements."""
    import warnings

    from pyscf import gto
    from pyscf.gto.basis import ALIAS

    lacking = []
    for symbol in symbols:
        try:
            with warnings.catch_warnings(action="ignore"):
                gto.basis.load(name, symbol)
        except Exception:  # PySCF raises a dozen kinds here
            lacking.append(symbol)
    if lacking == list(symbols) and canonical_name(name) not in ALIAS:
        raise InputError(f"unknown {role} '{name}'{nearest(canonical_name(name), ALIAS)}")
    if lacking:
        raise InputError(f"{role} '{name}' has no functions for {', '.join(lacking)}; choose another one")


def _refuse_missing_parameters(functional: str, dispersion: str | None) -> None:
    """Refuse a dispersion correction that nobody has fitted to this functional.

    Args:
        functional: name, which may itself ask for a correction (``b3lyp-d3bj``).
        dispersion: the correction that is asked for besides.
    """
    from pyscf import gto

    field = gto.M(atom="He", basis="sto-3g", verbose=0).RKS(xc=functional)
    field.disp = dispersion
    try:
        field.get_dispersion()
    except (RuntimeError, NotImplementedError, ValueError, KeyError):
        asked = f"{dispersion} " if dispersion else ""
        raise InputError(
            f"no dispersion correction {asked}is known for the functional '{functional}'"
        ) from None


def _core_potential(reference: PySCFReference, atoms: Atoms) -> dict[str, Any]:
    """Effective core potentials that belong to the basis, for the elements that have one."""
    from pyscf import gto

    potentials = {}
    for symbol in sorted(set(atoms.get_chemical_symbols())):
        try:
            potential = gto.basis.load_ecp(reference.basis, symbol)
        except Exception:  # most bases have none
            continue
        if potential:
            potentials[symbol] = potential
    return potentials


@contextmanager
def failures_told(log: io.StringIO) -> Iterator[None]:
    """Whatever PySCF raises becomes a :class:`Failure` with its class and the end of the log."""
    try:
        yield
    except Failure:
        raise
    except (np.linalg.LinAlgError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        raise Failure(failure_class(error), f"{type(error).__name__}: {error}", last_lines(log)) from error


def failure_class(error: Exception) -> str:
    """Class of what PySCF or NumPy raised."""
    if isinstance(error, MemoryError):
        return "memory"
    return "diagonalisation" if isinstance(error, np.linalg.LinAlgError) else "error"


def canonical_name(basis: str) -> str:
    """A basis name without the spellings that mean the same."""
    return basis.lower().replace("-", "").replace("_", "").replace(" ", "")


def package_version(package: str, extra: str = "dft") -> str:
    """Version of an installed package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise missing(package, extra) from None


def last_lines(log: io.StringIO) -> str:
    """The end of the program's log."""
    return "\n".join(log.getvalue().splitlines()[-LOG_LINES:])
