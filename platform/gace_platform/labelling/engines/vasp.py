"""VASP as an engine: its settings, what it refuses, its remedies, its INCAR.

The program is run by AiiDA (``aiida_gace.adapters.vasp``); nothing here knows of it. VASP and its potentials
are licensed: both are the user's own. The worked example of ``docs/adding-an-engine.md``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from gace.errors import InputError, nearest
from gace_platform.labelling.config import VaspReference
from gace_platform.labelling.engines.base import stated_integer
from gace_platform.labelling.engines.crystals import ProgramOfAiiDA, atom_in_box, check_cell
from gace_platform.labelling.engines.quantum_espresso import is_isolated
from gace_platform.labelling.ladder import Remedy

RECIPE = 1
"""Version of how VASP is driven; part of the label key, to be raised when labels would move."""

REMEDIES: tuple[tuple[Remedy, dict[str, Any]], ...] = (
    (Remedy("as asked"), {}),
    (Remedy("careful mixing", ("unconverged",)), {"amix": 0.1, "bmix": 0.01, "cycles": 3}),
    (Remedy("all bands at once", ("unconverged", "diagonalisation")), {"algo": "All", "cycles": 3}),
    (
        Remedy("damped, without symmetry", ("diagonalisation", "unconverged", "crashed")),
        {"algo": "Damped", "time": 0.2, "isym": 0, "cycles": 5},
    ),
    (Remedy("more time", ("timeout",), patience=4.0), {}),
)
"""Each remedy with the tags it changes; ``cycles`` is a factor on ``max_cycle``."""

SMEARING = {"gaussian": 0, "methfessel-paxton": 1, "fermi-dirac": -1, "tetrahedron": -5}
"""ISMEAR by name."""

DISPERSION = {"D3": 11, "D3BJ": 12, "TS": 20}
"""IVDW by name."""

FUNCTIONAL = {"PBE": "PE", "PBEsol": "PS", "revPBE": "RE", "AM05": "AM"}
"""GGA by name."""


class VaspEngine(ProgramOfAiiDA):
    """Density functional theory of periodic structures in plane waves with PAW potentials."""

    name = "vasp"
    absent = "VASP's {} is not here:"
    ladder = REMEDIES

    def __init__(self, reference: VaspReference) -> None:
        self.reference = reference

    def settings(self) -> dict[str, Any]:
        """Program version, potentials by content, and every setting that moves a label."""
        return {
            "engine": "vasp",
            "recipe": RECIPE,
            "potentials": {
                symbol: hashlib.sha256(self.file(symbol).read_bytes()).hexdigest()
                for symbol in sorted(self.reference.potentials)
            },
            **self.reference.model_dump(
                include={
                    "version", "functional", "encut", "kpoints_distance", "smearing", "sigma", "ediff",
                    "magnetisation", "dispersion", "isolated_box", "tags",
                }
            ),
        }  # fmt: skip

    def folder(self) -> Path:
        """Where the potentials lie, one folder each.

        Raises:
            InputError: nowhere.
        """
        given = self.reference.potential_folder or os.environ.get("VASP_PP_PATH")
        if given is None or not Path(given).is_dir():
            raise InputError("no folder of VASP's potentials: set reference.potential_folder")
        return Path(given)

    def file(self, symbol: str) -> Path:
        """POTCAR of an element.

        Raises:
            InputError: the reference names none, or it does not exist.
        """
        name = self.reference.potentials.get(symbol)
        if name is None:
            raise InputError(f"reference.potentials names none for {symbol}")
        path = self.folder() / name / "POTCAR"
        if not path.is_file():
            near = [one.name for one in self.folder().iterdir() if one.name.startswith(symbol)]
            raise InputError(f"no potential {path}{nearest(name, near)}")
        return path

    def valence(self, symbol: str) -> float:
        """Electrons that the potential of an element leaves outside its core.

        Raises:
            InputError: the file does not say.
        """
        found = re.search(r"ZVAL\s*=\s*([\d.]+)", self.file(symbol).read_text(errors="replace"))
        if found is None:
            raise InputError(f"{self.file(symbol)} states no ZVAL: is it a POTCAR?")
        return float(found.group(1))

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """A structure's own charge and spin, else the reference's charge and 0."""
        charge = stated_integer(atoms, "charge")
        return (self.reference.charge if charge is None else charge), stated_integer(atoms, "spin") or 0

    def check(self, structures: Sequence[Atoms]) -> None:
        """Refuse molecules, elements without a potential, and cells without a volume.

        Raises:
            InputError: see above, or the program or a file is missing.
        """
        self.executable()
        for symbol in self.reference.potentials:
            self.valence(symbol)
        for number, atoms in enumerate(structures):
            where = check_cell(number, atoms)
            for symbol in sorted(set(atoms.get_chemical_symbols())):
                if symbol not in self.reference.potentials:
                    raise InputError(f"{where}: reference.potentials names none for {symbol}")

    def isolated_atom(self, symbol: str) -> Atoms:
        """A neutral atom in a box, with as many unpaired electrons as Hund's rule asks for.

        The box has three different edges: VASP keeps the symmetry of the cell, and an open shell breaks it.
        """
        box = self.reference.isolated_box
        return atom_in_box(symbol, [box, box + 0.5, box + 1.0])

    def parameters(self, atoms: Atoms, remedy: int) -> dict[str, Any]:
        """INCAR of a single point with forces and stress; atoms in the order of the POSCAR.

        Args:
            atoms: the structure, equal elements together.
            remedy: position among :data:`REMEDIES`.
        """
        reference = self.reference
        changes = dict(REMEDIES[remedy][1])
        charge, spin = self.charge_and_spin(atoms)
        tags: dict[str, Any] = {
            "prec": "Accurate",
            "encut": reference.encut,
            "ediff": reference.ediff,
            "nelm": round(reference.max_cycle * changes.pop("cycles", 1)),
            "algo": "Normal",
            "ismear": SMEARING[reference.smearing],
            "sigma": reference.sigma,
            "lasph": True,
            "lreal": False,
            # a single point: energy, forces and the whole stress tensor, and no large files
            "ibrion": -1,
            "nsw": 0,
            "isif": 2,
            "lwave": False,
            "lcharg": False,
        }
        if reference.functional is not None:
            tags["gga"] = FUNCTIONAL[reference.functional]
        if reference.dispersion is not None:
            tags["ivdw"] = DISPERSION[reference.dispersion]
        if charge:
            tags["nelect"] = sum(self.valence(symbol) for symbol in atoms.get_chemical_symbols()) - charge
        if is_isolated(atoms):
            # partial occupations of an atom are an artefact of broad smearing
            tags |= {"ismear": 0, "sigma": 0.01}
            if spin:
                tags |= {"ispin": 2, "magmom": [float(spin)], "nupdown": spin}
        elif reference.magnetisation is not None or spin:
            moments = reference.magnetisation or {}
            start = [float(moments.get(symbol, 0.0)) for symbol in atoms.get_chemical_symbols()]
            tags |= {"ispin": 2, "magmom": start if np.any(start) else [spin / len(atoms)] * len(atoms)}
            if spin:
                tags["nupdown"] = spin
        return {**tags, **changes, **reference.tags}


__all__ = ["DISPERSION", "FUNCTIONAL", "REMEDIES", "SMEARING", "VaspEngine"]
