"""What moves the walkers: a potential for all of them at once, or a calculator for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.errors import GaceError, InputError
from gace_platform.exploration.config import Teacher

if TYPE_CHECKING:
    from gace.potential.potential import Potential


class Answer(NamedTuple):
    """What a drive says about one structure."""

    forces: NDArray[np.float64]
    """eV/Å ``(N, 3)``; NaN where the drive failed."""
    energy: float
    """eV."""
    gamma: float | None
    """Largest γ of an atom; None when it was not asked for or is not known."""
    problem: str = ""
    """Why the drive failed."""


class Drive(Protocol):
    """Forces for walkers, by walker number, so that each may have a state of its own."""

    def __call__(self, numbers: Sequence[int], structures: Sequence[Atoms], gamma: bool) -> list[Answer]:
        """Forces of each structure, and its γ if asked for and known."""


class PotentialDrive:
    """All walkers' forces in one batch; neighbour lists are kept from step to step."""

    def __init__(self, potential: Potential, mean: bool = False) -> None:
        """Drive by the first member, or by the mean of all.

        Args:
            potential: Where and in the precision it shall run.
            mean: All members, at their price.
        """
        from gace.engines.verlet import VerletList
        from gace.potential.potential import Potential

        self._lists: dict[int, VerletList] = {}
        self._new_list = lambda: VerletList(potential.elements, potential.cutoff)
        members = potential.members if mean else potential.members[:1]
        for member in members:
            member.requires_grad_(False).eval()
        self._potential = Potential(
            members,
            isolated_atom_energies=potential.isolated_atom_energies,
            uncertainty=potential.uncertainty,
        ).evaluated_by("tabulated")

    def __call__(self, numbers: Sequence[int], structures: Sequence[Atoms], gamma: bool) -> list[Answer]:
        """See :class:`Drive`."""
        from gace.structures.neighbours import collate

        potential = self._potential
        parts = [
            self._lists.setdefault(number, self._new_list()).neighbourhood(atoms)
            for number, atoms in zip(numbers, structures, strict=True)
        ]
        graph = collate(parts, potential.cutoff, potential.dtype, potential.device)
        result = potential.evaluate_graph(graph, gamma and potential.has_novelty)
        return [
            Answer(one.forces, one.energy, None if one.gamma is None else float(one.gamma.max()))
            for one in potential.split(graph, result)
        ]


class TeacherDrive:
    """One ASE calculator per walker, so that none depends on what another did."""

    def __init__(self, teacher: Teacher) -> None:
        """Drive by ``teacher``."""
        self._teacher = teacher
        self._working: dict[int, Atoms] = {}

    def __call__(self, numbers: Sequence[int], structures: Sequence[Atoms], gamma: bool) -> list[Answer]:
        """See :class:`Drive`; a teacher has no γ, and its failure is an answer."""
        return [self._one(number, atoms) for number, atoms in zip(numbers, structures, strict=True)]

    def _one(self, number: int, structure: Atoms) -> Answer:
        if number not in self._working:
            self._working[number] = with_teacher(structure, self._teacher)
        work = self._working[number]
        work.set_positions(structure.positions)
        try:
            return Answer(np.array(work.get_forces(), dtype=float), float(work.get_potential_energy()), None)
        except InputError:
            raise
        except Exception as error:  # a calculator may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Answer(np.full((len(work), 3), np.nan), np.nan, None, reason)


def with_teacher(structure: Atoms, teacher: Teacher) -> Atoms:
    """A bare copy of ``structure`` with a fresh calculator for its charge and spin.

    Raises:
        InputError: unknown calculator or arguments.
        MissingDependencyError: its package is not installed.
    """
    from gace.engines.named import make_calculator

    engine, arguments = _engine(teacher), dict(teacher.kwargs)
    if teacher.calculator == "tblite":
        charge, spin = engine.charge_and_spin(structure)
        arguments = {"charge": charge, "multiplicity": spin + 1, **arguments}
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    atoms.calc = make_calculator(teacher.calculator, **arguments)
    return atoms


def check_teacher(teacher: Teacher, structures: Sequence[Atoms]) -> dict[str, object]:
    """Refuse what the teacher cannot treat, before anything runs; its settings, with code version.

    Raises:
        InputError: unknown calculator or arguments, unknown element, impossible spin.
        MissingDependencyError: its package is not installed.
    """
    engine = _engine(teacher)
    engine.check(structures)
    return {**engine.settings(), "charge": teacher.charge, "spin": teacher.spin}


def check_potential(source: str, structures: Sequence[Atoms]) -> str:
    """Hash of a bundle's content, after checking that it knows all elements of ``structures``.

    Raises:
        InputError: damaged or foreign bundle, or an element it does not know.
    """
    from gace.files import sha256_file
    from gace.potential.bundle import CHECKSUMS, read_config
    from gace.potential.uri import fetched

    with fetched(source) as folder:
        known = read_config(folder)["elements"]
        digest = sha256_file(folder / CHECKSUMS)
    unknown = sorted({symbol for atoms in structures for symbol in atoms.symbols} - set(known))
    if unknown:
        raise InputError(
            f"start holds {', '.join(unknown)}, which {source} does not know ({', '.join(known)})"
        )
    return digest


def _engine(teacher: Teacher):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """The labelling engine of the same calculator, which knows about charge, spin and elements."""
    from gace_platform.labelling.config import TeacherReference
    from gace_platform.labelling.engines.teacher import TeacherEngine

    return TeacherEngine(TeacherReference(engine="teacher", **teacher.model_dump()))


__all__ = [
    "Answer",
    "Drive",
    "GaceError",
    "PotentialDrive",
    "TeacherDrive",
    "check_potential",
    "check_teacher",
]
