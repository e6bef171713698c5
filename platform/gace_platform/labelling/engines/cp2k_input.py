"""CP2K's input for one attempt at one structure, as nested sections; AiiDA adds cell and coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from gace_platform.labelling.engines.quantum_espresso import is_isolated
from gace_platform.labelling.ladder import Remedy

if TYPE_CHECKING:
    from gace_platform.labelling.engines.cp2k import CP2KEngine

SECTIONS: dict[str, dict[str, Any]] = {
    "PBE": {"PBE": {}},
    "revPBE": {"PBE": {"PARAMETRIZATION": "REVPBE"}},
    "PBEsol": {"PBE": {"PARAMETRIZATION": "PBESOL"}},
    "BLYP": {"BLYP": {}},
    "PADE": {"PADE": {}},
}
"""The XC_FUNCTIONAL section of each functional."""

ATOM_TEMPERATURE = 300.0
"""Electronic temperature of isolated atoms, K: open shells are filled evenly, as in a spherical atom."""

ATOM_EPS = 1e-5
"""Residual at which the field of an isolated atom counts as converged; its energy then is to 10⁻⁷ Ha."""

REMEDIES: tuple[tuple[Remedy, dict[str, Any]], ...] = (
    (Remedy("as asked"), {}),
    (Remedy("careful mixing", ("unconverged",)), {"alpha": 0.1, "cycles": 4}),
    (Remedy("Pulay mixing", ("unconverged",)), {"method": "PULAY_MIXING", "alpha": 0.15, "cycles": 4}),
    (Remedy("Kerker mixing", ("unconverged",)), {"method": "KERKER_MIXING", "alpha": 0.2, "cycles": 6}),
    (
        Remedy("Löwdin orthogonalisation", ("unconverged", "diagonalisation", "crashed")),
        {"cholesky": "OFF", "alpha": 0.15, "history": 16, "cycles": 6},
    ),
    (Remedy("less memory", ("memory",)), {"alpha": 0.3, "history": 4, "cycles": 3}),
    (Remedy("more time", ("timeout",), patience=4.0), {}),
)
"""Each remedy with what it changes in mixing and diagonalisation; ``cycles`` is a factor on ``max_cycle``.

Orbital transformation (a direct minimiser) is none of them: it does not fill orbitals from below, and for two
silicon atoms at Γ it converged 1.4 eV above the ground state, with nothing in the output to tell.
"""


class Input:
    """The sections of one calculation; ``_`` holds a section's own value."""

    def __init__(self, engine: CP2KEngine, atoms: Atoms, remedy: int) -> None:
        self.engine = engine
        self.reference = engine.reference
        self.atoms = atoms
        self.remedy = remedy
        self.alone = is_isolated(atoms)

    def sections(self, time_limit: float | None = None) -> dict[str, Any]:
        """The input as nested sections, less cell and coordinates; ``_`` holds a section's own value.

        Args:
            time_limit: seconds after which the program ends by itself.
        """
        run: dict[str, Any] = {"RUN_TYPE": "ENERGY_FORCE", "PRINT_LEVEL": "MEDIUM"}
        if time_limit is not None:
            run["WALLTIME"] = max(int(0.95 * time_limit), 10)
        return {
            "GLOBAL": run,
            "FORCE_EVAL": {
                "METHOD": "QUICKSTEP",
                "STRESS_TENSOR": "ANALYTICAL",
                "PRINT": {"FORCES": {"_": "ON", "NDIGITS": 12}, "STRESS_TENSOR": {"_": "ON"}},
                "DFT": self._theory(),
                "SUBSYS": {
                    "KIND": [
                        {
                            "_": symbol,
                            "BASIS_SET": self.engine.basis(symbol).names[0],
                            "POTENTIAL": self.engine.potential(symbol).names[0],
                            **self._moment(symbol),
                        }
                        for symbol in sorted(set(self.atoms.get_chemical_symbols()))
                    ]
                },
            },
        }

    def _moment(self, symbol: str) -> dict[str, float]:
        moments = self.reference.magnetisation
        return {} if moments is None or self.alone else {"MAGNETIZATION": moments.get(symbol, 0.0)}

    def _theory(self) -> dict[str, Any]:
        """The DFT section."""
        reference = self.reference
        charge, spin = self.engine.charge_and_spin(self.atoms)
        section: dict[str, Any] = {
            "BASIS_SET_FILE_NAME": reference.basis_file,
            "POTENTIAL_FILE_NAME": reference.potential_file,
            "QS": {"METHOD": "GPW", "EPS_DEFAULT": reference.eps_default},
            "MGRID": {"CUTOFF": reference.cutoff, "REL_CUTOFF": reference.rel_cutoff},
            "SCF": self._field(),
            "XC": {"XC_FUNCTIONAL": SECTIONS[reference.functional]},
        }
        if charge:
            section["CHARGE"] = charge
        if spin or (reference.magnetisation is not None and not self.alone):
            section |= {"UKS": True, "MULTIPLICITY": spin + 1}
        if reference.dispersion is not None:
            pair: dict[str, str] = {
                "TYPE": reference.dispersion,
                "REFERENCE_FUNCTIONAL": reference.functional,
            }
            pair["PARAMETER_FILE_NAME"] = "dftd3.dat"
            section["XC"]["VDW_POTENTIAL"] = {"POTENTIAL_TYPE": "PAIR_POTENTIAL", "PAIR_POTENTIAL": pair}
        divisions = mesh(self.atoms, reference.kpoints_distance)
        if divisions != (1, 1, 1):
            section["KPOINTS"] = {
                "SCHEME": "MONKHORST-PACK {} {} {}".format(*divisions),
                "FULL_GRID": False,
                "SYMMETRY": False,
                "EPS_GEO": 1e-8,
            }
        return section

    def _field(self) -> dict[str, Any]:
        """The SCF section, with what a remedy changes."""
        reference, changes = self.reference, REMEDIES[self.remedy][1]
        alone = self.alone
        section: dict[str, Any] = {
            # degenerate orbitals of an atom leave its gradient restless long after its energy has settled
            "EPS_SCF": max(reference.eps_scf, ATOM_EPS) if alone else reference.eps_scf,
            "MAX_SCF": int(reference.max_cycle * changes.get("cycles", 1)),
            "SCF_GUESS": "ATOMIC",
            "PRINT": {"RESTART": {"_": "OFF"}},
        }
        temperature = ATOM_TEMPERATURE if alone else reference.smearing
        if "cholesky" in changes:
            # the overlap's root by its eigenvalues: holds where the basis is nearly linearly dependent
            section["CHOLESKY"] = changes["cholesky"]
        section["DIAGONALIZATION"] = {"ALGORITHM": "STANDARD"}
        section["MIXING"] = {
            "METHOD": changes.get("method", "DIRECT_P_MIXING" if alone else "BROYDEN_MIXING"),
            "ALPHA": changes.get("alpha", 0.3 if alone else 0.4),
            "NBROYDEN": changes.get("history", 8),
        }
        if temperature is not None:
            section |= self._smearing(temperature)
        return section

    def _smearing(self, temperature: float) -> dict[str, Any]:
        """Fermi–Dirac occupations; an atom keeps the spin it was given."""
        spin = self.engine.charge_and_spin(self.atoms)[1]
        polarised = bool(spin) or (self.reference.magnetisation is not None and not self.alone)
        smear: dict[str, Any] = {
            "_": True,
            "METHOD": "FERMI_DIRAC",
            "ELECTRONIC_TEMPERATURE": f"[K] {temperature:g}",
        }
        if self.alone and spin:
            smear["FIXED_MAGNETIC_MOMENT"] = spin
        return {"ADDED_MOS": "-1 -1" if polarised else -1, "SMEAR": smear}


def mesh(atoms: Atoms, distance: float | None) -> tuple[int, int, int]:
    """Divisions of the reciprocal cell; Γ alone without a distance (1/Å), and for isolated atoms."""
    if distance is None or is_isolated(atoms):
        return (1, 1, 1)
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(atoms.cell.array).T, axis=1)
    a, b, c = (max(1, int(np.ceil(length / distance - 1e-6))) for length in lengths)
    return a, b, c


__all__ = ["REMEDIES", "Input", "mesh"]
