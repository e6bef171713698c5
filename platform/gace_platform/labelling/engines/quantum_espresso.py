"""Quantum ESPRESSO as an engine: its settings, what it refuses, its remedies, how its output becomes a label.

The program is run by AiiDA (``aiida_gace.adapters.quantum_espresso``); nothing here knows of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase import Atoms

from gace.errors import InputError, nearest
from gace_platform.labelling.config import QuantumEspressoReference
from gace_platform.labelling.engines.base import stated_integer
from gace_platform.labelling.engines.crystals import (
    ProgramOfAiiDA,
    check_cell,
    disk_is_full,
    failure_by_machine,
)
from gace_platform.labelling.ladder import Remedy

RECIPE = 1
"""Version of how Quantum ESPRESSO is driven; part of the label key, to be raised when labels would move."""

FOLDERS = ("/usr/share/espresso/pseudo",)
"""Where distributions put pseudopotentials."""

REMEDIES: tuple[tuple[Remedy, dict[str, Any]], ...] = (
    (Remedy("as asked"), {}),
    (
        Remedy("careful mixing", ("unconverged",)),
        {"mixing_beta": 0.2, "mixing_ndim": 12, "electron_maxstep": 3},
    ),
    (
        Remedy("local Thomas-Fermi mixing", ("unconverged",)),
        {"mixing_mode": "local-TF", "mixing_beta": 0.15, "electron_maxstep": 4},
    ),
    (
        Remedy("conjugate gradients", ("diagonalisation", "unconverged")),
        {"diagonalization": "cg", "mixing_beta": 0.3, "electron_maxstep": 2},
    ),
    (
        Remedy("random start", ("unconverged", "diagonalisation", "crashed")),
        {"startingwfc": "random", "mixing_beta": 0.1, "mixing_ndim": 16, "electron_maxstep": 5},
    ),
    (Remedy("less memory", ("memory",)), {"diagonalization": "cg", "mixing_ndim": 4}),
    (Remedy("more time", ("timeout",), patience=4.0), {}),
)
"""Each remedy with what it changes in &ELECTRONS; ``electron_maxstep`` is a factor on ``max_cycle``."""

EXIT_CODES = {
    340: "timeout", 400: "timeout", 120: "timeout", 110: "memory", 140: "killed", 100: "killed",
    410: "unconverged", 510: "unconverged", 511: "unconverged", 710: "unconverged",
    360: "geometry", 461: "diagonalisation", 462: "diagonalisation", 463: "diagonalisation",
    464: "diagonalisation", 465: "diagonalisation", 466: "diagonalisation", 467: "diagonalisation",
    468: "diagonalisation", 531: "geometry", 541: "diagonalisation", 301: "parser", 303: "parser",
    304: "parser", 320: "parser", 321: "parser", 322: "parser", 350: "parser",
}  # fmt: skip
"""Failure class by the exit code of AiiDA's ``PwCalculation``; others by the words of the output."""

WORDS = (
    ("allocat", "memory"),
    ("out of memory", "memory"),
    ("convergence NOT achieved", "unconverged"),
    ("Maximum CPU time exceeded", "timeout"),
    ("too many bands are not converged", "diagonalisation"),
    ("cdiaghg", "diagonalisation"),
    ("rdiaghg", "diagonalisation"),
    ("S matrix not positive definite", "diagonalisation"),
    ("check_atoms (", "geometry"),
    ("some atoms are too close", "geometry"),
    ("charge is wrong", "geometry"),
    ("Error in routine", "crashed"),
)
"""What the program prints when it fails, in the order in which it decides."""


class QuantumEspressoEngine(ProgramOfAiiDA):
    """Plane-wave density functional theory of periodic structures."""

    name = "quantum-espresso"
    absent = "Quantum ESPRESSO's {} is not installed (Debian: apt-get install quantum-espresso), or"
    ladder = REMEDIES

    def __init__(self, reference: QuantumEspressoReference) -> None:
        self.reference = reference

    def settings(self) -> dict[str, Any]:
        """Program version, pseudopotentials by content, and every setting that moves a label."""
        reference = self.reference
        return {
            "engine": "quantum-espresso",
            "code_version": program_version(self.executable()),
            "recipe": RECIPE,
            "pseudopotentials": {
                symbol: hashlib.md5(self.file(symbol).read_bytes(), usedforsecurity=False).hexdigest()
                for symbol in sorted(reference.pseudopotentials)
            },
            "cutoff_rho": self.cutoff_rho,
            **reference.model_dump(
                include={
                    "protocol", "cutoff_wfc", "kpoints_distance", "smearing", "degauss",
                    "conv_thr_per_atom", "magnetisation", "dispersion", "isolated_box",
                }
            ),
        }  # fmt: skip

    @property
    def cutoff_rho(self) -> float:
        """Cutoff of the density, Ry."""
        return self.reference.cutoff_rho or 4 * self.reference.cutoff_wfc

    def folder(self) -> Path:
        """Where the pseudopotentials lie.

        Raises:
            InputError: nowhere.
        """
        if self.reference.pseudopotential_folder is not None:
            return self.reference.pseudopotential_folder
        for name in (os.environ.get("ESPRESSO_PSEUDO"), *FOLDERS):
            if name and Path(name).is_dir():
                return Path(name)
        raise InputError("no folder of pseudopotentials: set reference.pseudopotential_folder")

    def file(self, symbol: str) -> Path:
        """Pseudopotential file of an element.

        Raises:
            InputError: the reference names none, or it does not exist.
        """
        name = self.reference.pseudopotentials.get(symbol)
        if name is None:
            raise InputError(f"reference.pseudopotentials names no file for {symbol}")
        path = self.folder() / name
        if not path.is_file():
            near = [one.name for one in self.folder().iterdir() if one.name.startswith(f"{symbol}.")]
            raise InputError(f"no pseudopotential {path}{nearest(name, near)}")
        return path

    def charge_and_spin(self, atoms: Atoms) -> tuple[int, int]:
        """A structure's own charge and spin, else the reference's charge and 0."""
        charge = stated_integer(atoms, "charge")
        return (self.reference.charge if charge is None else charge), stated_integer(atoms, "spin") or 0

    def check(self, structures: Sequence[Atoms]) -> None:
        """Refuse molecules, elements without a pseudopotential, and cells without a volume.

        Raises:
            InputError: see above, or the program or a file is missing.
        """
        self.executable()
        for symbol in self.reference.pseudopotentials:
            self.file(symbol)
        for number, atoms in enumerate(structures):
            where = check_cell(number, atoms)
            for symbol in sorted(set(atoms.get_chemical_symbols())):
                if symbol not in self.reference.pseudopotentials:
                    raise InputError(f"{where}: reference.pseudopotentials names no file for {symbol}")

    def parameters(self, atoms: Atoms, remedy: int) -> dict[str, dict[str, Any]]:
        """What differs from the protocol's namelists, with the remedy at this position."""
        reference = self.reference
        system: dict[str, Any] = {"ecutwfc": reference.cutoff_wfc, "ecutrho": self.cutoff_rho}
        if reference.dispersion is not None:
            system["vdw_corr"] = reference.dispersion
        if charge := self.charge_and_spin(atoms)[0]:
            system["tot_charge"] = charge
        alone = is_isolated(atoms)
        if reference.smearing is not None or alone:
            # an atom's open shell needs fractional occupations whatever the crystal needs
            width = reference.degauss if reference.smearing is not None else 0.005
            system |= {"occupations": "smearing", "smearing": reference.smearing or "gaussian"}
            system["degauss"] = width
        if spin := self.charge_and_spin(atoms)[1]:
            system |= {"nspin": 2, "tot_magnetization": spin}
        if alone:
            system["nosym"] = True
        elif reference.magnetisation is not None:
            present = sorted(set(atoms.get_chemical_symbols()))
            moments = {symbol: reference.magnetisation.get(symbol, 0.0) for symbol in present}
            system |= {"nspin": 2, "starting_magnetization": moments}
        electrons: dict[str, Any] = {"conv_thr": self.threshold(atoms)}
        electrons["electron_maxstep"] = reference.max_cycle
        for name, value in REMEDIES[remedy][1].items():
            electrons[name] = value * reference.max_cycle if name == "electron_maxstep" else value
        return {"SYSTEM": system, "ELECTRONS": electrons, "CONTROL": {"tprnfor": True, "tstress": True}}

    def threshold(self, atoms: Atoms) -> float:
        """Convergence threshold of a structure, Ry."""
        return self.reference.conv_thr_per_atom * len(atoms)


def is_isolated(atoms: Atoms) -> bool:
    """Whether a structure is one of the engine's own isolated atoms."""
    return len(atoms) == 1 and atoms.info.get("config_type") == "isolated_atom"


def failure_class(exit_status: int | None, output: str, errors: str = "") -> str:
    """The class of a failed calculation by AiiDA's exit code, else by what was printed.

    Args:
        exit_status: of AiiDA's ``PwCalculation``.
        output: what the program printed.
        errors: its standard error, where a lack of memory is told.
    """
    if disk_is_full(f"{output}\n{errors}"):
        return "disk"
    if exit_status in EXIT_CODES:
        return EXIT_CODES[exit_status]
    for words, name in WORDS:
        if words.lower() in output.lower():
            return name
    if (by_machine := failure_by_machine(errors)) is not None:
        return by_machine
    # an output that breaks off without a word of the program's own was cut off from outside
    return "killed" if exit_status in (None, 302, 305, 312) else "error"


@lru_cache
def program_version(executable: str) -> str:
    """Version that pw.x states in its banner, such as ``6.7``.

    Raises:
        InputError: it prints none.
    """
    environment = {**os.environ, **MPI_AS_ROOT, "OMP_NUM_THREADS": "1"}
    # without an input the program ends with an error, and leaves a file CRASH where it was started
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [executable],
            input="\n",
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            timeout=300,
            check=False,
        )
    match = re.search(r"Program PWSCF v\.([\w.]+?)(?:MaX)? ", done.stdout)
    if match is None:
        raise InputError(f"{executable} does not answer as Quantum ESPRESSO's pw.x does")
    return match[1]


MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""What Open MPI wants to be told when it is started by root, as in a container."""
