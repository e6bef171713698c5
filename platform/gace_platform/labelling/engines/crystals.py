"""What the engines that label crystals share: refusals, the atom in a box, and what AiiDA runs for them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any, ClassVar

from ase import Atoms

from gace.errors import InputError
from gace.files import tells_of_full_disk
from gace_platform.labelling.engines.atoms import unpaired_electrons
from gace_platform.labelling.engines.base import Label
from gace_platform.labelling.ladder import Remedy

MACHINE_WORDS = (
    ("error allocating", "memory"),
    ("cannot allocate memory", "memory"),
    ("bad_alloc", "memory"),
    ("oom-kill", "memory"),
    ("oom_kill", "memory"),
    ("due to time limit", "timeout"),
)
"""What the Fortran library, the system or Slurm writes to standard error when a program is ended, whose own
output then breaks off without a word."""


def failure_by_machine(errors: str) -> str | None:
    """Class of a failure by what stands in standard error, or None where that tells nothing."""
    return next((name for words, name in MACHINE_WORDS if words in errors.lower()), None)


def disk_is_full(output: str) -> bool:
    """Whether a program could not write, by what it or the library it was built with printed."""
    # pw.x says which file it was, and not why
    return tells_of_full_disk(output) or "error writing file" in output


def check_cell(number: int, atoms: Atoms) -> str:
    """How to name a structure in a message, after refusing what is no crystal.

    Raises:
        InputError: not periodic in three directions, or a cell without a volume.
    """
    where = f"structure {number} ({atoms.get_chemical_formula()})"
    if not all(atoms.pbc):
        raise InputError(f"{where} is not periodic in three directions: the engine labels crystals")
    if atoms.get_volume() < 1.0:
        raise InputError(f"{where}: a cell of {atoms.get_volume():.2g} Å³ is none")
    return where


def atom_in_box(symbol: str, edges: Sequence[float]) -> Atoms:
    """A neutral atom in a box of these edges, Å, with as many unpaired electrons as Hund's rule asks for."""
    atom = Atoms(symbol, positions=[[0.0, 0.0, 0.0]], cell=list(edges), pbc=True)
    atom.info.update(charge=0, spin=unpaired_electrons(symbol), config_type="isolated_atom")
    return atom


class ProgramOfAiiDA:
    """What engines share whose program AiiDA runs: where it is, its remedies, and that it is not run here."""

    name: ClassVar[str]
    """As in ``reference.engine``."""
    absent: ClassVar[str]
    """What to tell and to do where the program is missing; ``{}`` is its name."""
    ladder: ClassVar[Sequence[tuple[Remedy, dict[str, Any]]]]
    """Each remedy with what it changes in the program's input."""
    reference: Any

    def executable(self) -> str:
        """Absolute path of the program.

        Raises:
            InputError: it is not installed.
        """
        found = shutil.which(self.reference.executable)
        if found is None:
            raise InputError(f"{self.absent.format(self.reference.executable)} set reference.executable")
        return found

    def isolated_atom(self, symbol: str) -> Atoms:
        """A neutral atom in a cubic cell, with as many unpaired electrons as Hund's rule asks for."""
        return atom_in_box(symbol, [self.reference.isolated_box] * 3)

    def remedies(self) -> list[Remedy]:
        """The remedies of :attr:`ladder`: another way to the solution, never another theory."""
        return [remedy for remedy, _ in self.ladder]

    def run(self, atoms: Atoms, attempt: int) -> Label:
        """Refused: AiiDA runs the program.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the engine {self.name} is run by AiiDA: use it in a campaign (gace campaign run), "
            "or submit the work chain gace.label"
        )
