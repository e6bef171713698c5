"""CP2K as an engine: its settings, what it refuses, its remedies, its input.

The program is run by AiiDA (``aiida_gace.adapters.cp2k``); nothing here knows of it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase import Atoms

from gace.errors import InputError
from gace_platform.labelling.config import CP2KReference
from gace_platform.labelling.engines.base import stated_integer
from gace_platform.labelling.engines.cp2k_data import Entry, entry
from gace_platform.labelling.engines.cp2k_input import REMEDIES, Input, mesh
from gace_platform.labelling.engines.crystals import ProgramOfAiiDA, check_cell
from gace_platform.labelling.engines.quantum_espresso import MPI_AS_ROOT

RECIPE = 2
"""Version of how CP2K is driven; part of the label key, to be raised when labels would move."""

FOLDERS = ("/usr/share/cp2k", "/usr/local/share/cp2k/data")
"""Where distributions put CP2K's data."""

POTENTIALS = {
    "PBE": "GTH-PBE",
    "revPBE": "GTH-PBE",
    "PBEsol": "GTH-PBE",
    "BLYP": "GTH-BLYP",
    "PADE": "GTH-PADE",
}
"""Pseudopotentials made for each functional; revPBE and PBEsol take those of PBE, as is usual."""


class CP2KEngine(ProgramOfAiiDA):
    """Density functional theory of periodic structures in Gaussians and plane waves."""

    name = "cp2k"
    absent = "CP2K's {} is not installed (Debian: apt-get install cp2k cp2k-data), or"
    ladder = REMEDIES

    def __init__(self, reference: CP2KReference) -> None:
        self.reference = reference

    def settings(self) -> dict[str, Any]:
        """Program version, data files, and every setting that moves a label.

        Basis sets and pseudopotentials count by name and file here; their content counts through
        ``data`` (the hash of both files).
        """
        reference = self.reference
        return {
            "engine": "cp2k",
            "code_version": program_version(self.executable()),
            "recipe": RECIPE,
            "data": {name: file_digest(self.folder() / name) for name in self.files()},
            "potential": reference.potential or POTENTIALS[reference.functional],
            **reference.model_dump(
                include={
                    "functional", "basis", "cutoff", "rel_cutoff", "kpoints_distance", "smearing", "eps_scf",
                    "eps_default", "magnetisation", "dispersion", "isolated_box",
                }
            ),
        }  # fmt: skip

    def folder(self) -> Path:
        """Where CP2K's data files lie.

        Raises:
            InputError: nowhere.
        """
        if self.reference.data_folder is not None:
            return self.reference.data_folder
        for name in (os.environ.get("CP2K_DATA_DIR"), *FOLDERS):
            if name and Path(name).is_dir():
                return Path(name)
        raise InputError("no folder of CP2K's data files: set reference.data_folder")

    def files(self) -> list[str]:
        """Data files the calculations read."""
        names = [self.reference.basis_file, self.reference.potential_file]
        return names + (["dftd3.dat"] if self.reference.dispersion else [])

    def basis(self, symbol: str) -> Entry:
        """Basis set of an element.

        Raises:
            InputError: there is none of this name.
        """
        return self._entry("basis", self.reference.basis, self.reference.basis_file, symbol)

    def potential(self, symbol: str) -> Entry:
        """Pseudopotential of an element.

        Raises:
            InputError: there is none of this name.
        """
        asked = self.reference.potential or POTENTIALS[self.reference.functional]
        return self._entry("potential", asked, self.reference.potential_file, symbol)

    def _entry(self, key: str, asked: str | dict[str, str], file: str, symbol: str) -> Entry:
        name = asked if isinstance(asked, str) else asked.get(symbol)
        if name is None:
            raise InputError(f"reference.{key} names nothing for {symbol}")
        return entry(self.folder() / file, symbol, name)

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """A structure's own charge and spin, else the reference's charge and the lowest spin."""
        charge = stated_integer(atoms, "charge")
        charge = self.reference.charge if charge is None else charge
        spin = stated_integer(atoms, "spin")
        return charge, self.electrons(atoms, charge) % 2 if spin is None else spin

    def electrons(self, atoms: Atoms, charge: int) -> int:
        """Number of valence electrons."""
        return sum(self.potential(symbol).valence for symbol in atoms.get_chemical_symbols()) - charge

    def check(self, structures: Sequence[Atoms]) -> None:
        """Refuse molecules, elements without basis or pseudopotential, impossible spins, flat cells.

        Raises:
            InputError: see above, or the program or a file is missing.
        """
        self.executable()
        self.folder()
        for number, atoms in enumerate(structures):
            where = check_cell(number, atoms)
            for symbol in sorted(set(atoms.get_chemical_symbols())):
                self.basis(symbol)
                self.potential(symbol)
            charge, spin = self.charge_and_spin(atoms)
            electrons = self.electrons(atoms, charge)
            if electrons <= 0 or spin > electrons or (electrons - spin) % 2:
                raise InputError(
                    f"{where}: {electrons} valence electrons cannot leave {spin} unpaired: charge or spin?"
                )

    def parameters(self, atoms: Atoms, remedy: int, time_limit: float | None = None) -> dict[str, Any]:
        """The input as nested sections (see :class:`~gace_platform.labelling.engines.cp2k_input.Input`)."""
        return Input(self, atoms, remedy).sections(time_limit)

    def mesh(self, atoms: Atoms) -> tuple[int, int, int]:
        """Divisions of the reciprocal cell; Γ alone without ``kpoints_distance``, and for isolated atoms."""
        return mesh(atoms, self.reference.kpoints_distance)


@lru_cache(maxsize=16)
def file_digest(path: Path) -> str:
    """MD5 of a data file.

    Raises:
        InputError: it cannot be read.
    """
    import hashlib

    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read CP2K's data file {path}: {error.strerror or error}") from None


@lru_cache
def program_version(executable: str) -> str:
    """Version that CP2K states, such as ``2023.1``.

    Raises:
        InputError: it states none.
    """
    environment = {**os.environ, **MPI_AS_ROOT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [executable, "--version"], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    match = re.search(r"CP2K version (\S+)", done.stdout)
    if match is None:
        raise InputError(f"{executable} does not answer as CP2K does")
    return match[1]
