"""The conformance suite: what any potential on the graph must satisfy, in one call.

    def test_physics():
        check_potential(lambda: MyModel(elements=["Si", "O"], cutoff=4.0))

Each check is also a function of its own and raises :class:`ConformanceError` with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from ase import Atoms

from gace.errors import GaceError
from gace.randomness import generator
from gace.structures.neighbours import build_graph, find_edges

if TYPE_CHECKING:
    from gace.potential.derivatives import Prediction
    from gace.potential.graph_ace import GraphACE

TOLERANCE = 1e-10
"""Largest difference relative to the largest value: a few hundred roundings in float64."""


class ConformanceError(GaceError, AssertionError):
    """A potential breaks a law it must obey; the message says which and by how much."""


class Subject(NamedTuple):
    """A model under test and structures made of its elements."""

    model: GraphACE
    """In float64."""

    structures: list[Atoms]
    """Molecules, slabs and crystals."""

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.model.cutoff

    def predict(self, *structures: Atoms) -> Prediction:
        """Energies and derivatives of structures in one batch."""
        from gace.potential.derivatives import energy_and_gradients

        graph = build_graph(structures, self.model.elements, self.model.cutoff)
        return energy_and_gradients(self.model, graph)


def check_potential(
    make_model: Callable[[], GraphACE],
    structures: Sequence[Atoms] | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> None:
    """Run every check on a fresh model.

    Args:
        make_model: gives a model in float64 with ``elements`` and ``cutoff``.
        structures: of its elements; by default :func:`sample_structures`.
        tolerance: relative to the largest value compared.

    Raises:
        ConformanceError: the first law broken.
    """
    model = make_model()
    own = list(structures) if structures is not None else sample_structures(model.elements, model.cutoff)
    subject = Subject(model, own)
    for check in CHECKS:
        check(subject, tolerance)


def sample_structures(elements: Sequence[str], cutoff: float, seed: int = 0) -> list[Atoms]:
    """A molecule, a slab periodic in two directions and a small skewed crystal, at random.

    Atoms keep at least 0.25 ``cutoff`` apart, so that no core repulsion swamps the rest.
    """
    rng = generator(seed, "conformance", *elements)
    skewed = 0.9 * cutoff * np.array([[1.0, 0.0, 0.0], [0.3, 0.9, 0.0], [-0.2, 0.25, 1.1]])
    found = []
    for count, pbc in ((6, False), (4, (True, True, False)), (3, True)):
        scaled = _spread_points(rng, count, skewed, pbc, 0.25 * cutoff)
        symbols = [elements[index % len(elements)] for index in range(count)]
        found.append(Atoms(symbols, scaled_positions=scaled, cell=skewed, pbc=pbc))
    return found


def check_rotation(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """Energies stay, forces and virials turn with the structure."""
    turn = _random_rotation()
    _compare_turned(subject, turn, "rotation", tolerance)


def check_inversion(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """A mirrored structure has the same energy and mirrored forces."""
    _compare_turned(subject, -np.eye(3), "inversion", tolerance)


def check_translation(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """A shifted structure, wrapped into its cell or not, is the same."""
    for atoms in subject.structures:
        moved = atoms.copy()
        moved.positions += np.array([1.7, -23.1, 6.3])
        wrapped = moved.copy()
        wrapped.wrap()
        start = subject.predict(atoms)
        for other in (moved, wrapped):
            found = subject.predict(other)
            _close("translation", "energy", found.energy, start.energy, tolerance)
            _close("translation", "forces", found.forces, start.forces, tolerance)


def check_permutation(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """Atoms in another order have the same energy, and the same force each."""
    for atoms in subject.structures:
        order = np.arange(len(atoms))[::-1].copy()
        start, found = subject.predict(atoms), subject.predict(atoms[order])
        _close("permutation", "energy", found.energy, start.energy, tolerance)
        _close("permutation", "forces", found.forces, start.forces[torch.from_numpy(order)], tolerance)


def check_net_force(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """The forces on a structure sum to zero."""
    for atoms in subject.structures:
        forces = subject.predict(atoms).forces
        scale = float(forces.abs().max())
        _close("net force", "sum", forces.sum(0), torch.zeros(3, dtype=forces.dtype), tolerance, scale)


def check_forces(subject: Subject, tolerance: float = 1e-6) -> None:
    """Forces are minus the derivative of the energy, by central differences of fourth order.

    The tolerance is that of the difference formula (steps of 2e-4 Å), not of the model; second order would
    not tell the third derivative of an untrained model from a fault.
    """
    step = 2e-4
    for atoms in subject.structures:
        forces = subject.predict(atoms).forces
        moved = []
        for multiple in (1, -1, 2, -2):
            one = atoms.copy()
            one.positions[0] += multiple * step * np.array([0.6, -0.64, 0.48])
            moved.append(one)
        energy = subject.predict(*moved).energy
        direction = torch.tensor([0.6, -0.64, 0.48], dtype=forces.dtype)
        slope = -(8 * (energy[0] - energy[1]) - (energy[2] - energy[3])) / (12 * step)
        _close(
            "forces", "slope", forces[0] @ direction, slope, max(tolerance, 1e-6), float(forces.abs().max())
        )


def check_virial(subject: Subject, tolerance: float = 1e-6) -> None:
    """The virial is the derivative of the energy by strain, by central differences."""
    step = 1e-5
    shape = np.array([[0.7, 0.2, -0.1], [0.2, -0.4, 0.3], [-0.1, 0.3, 0.5]])
    for atoms in subject.structures:
        strained = []
        for sign in (1, -1):
            one = atoms.copy()
            deformation = np.eye(3) + sign * step * shape
            one.set_cell(atoms.cell.array @ deformation, scale_atoms=False)
            one.positions = atoms.positions @ deformation
            strained.append(one)
        virial = subject.predict(atoms).virial[0]
        energy = subject.predict(*strained).energy
        slope = (energy[0] - energy[1]) / (2 * step)
        found = (virial * torch.from_numpy(shape)).sum()
        _close("virial", "slope", found, slope, max(tolerance, 1e-6), float(virial.abs().max()))


def check_batch(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """Structures computed together give what each gives alone."""
    together = subject.predict(*subject.structures)
    first = 0
    for index, atoms in enumerate(subject.structures):
        alone, own = subject.predict(atoms), slice(first, first + len(atoms))
        _close("batch", "energy", together.energy[index], alone.energy[0], tolerance)
        _close("batch", "forces", together.forces[own], alone.forces, tolerance)
        _close("batch", "virial", together.virial[index], alone.virial[0], tolerance)
        first += len(atoms)


def check_fragments(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """Molecules out of each other's reach add up."""
    molecule = subject.structures[0].copy()
    molecule.set_pbc(False)
    other = molecule[: max(len(molecule) // 2, 1)]
    far = other.copy()
    far.positions += np.array([0.0, 0.0, 20 * subject.cutoff])
    pair, parts = subject.predict(molecule + far), subject.predict(molecule, other)
    _close("fragments", "energy", pair.energy[0], parts.energy.sum(), tolerance)
    _close("fragments", "forces", pair.forces, parts.forces, tolerance)


def check_cutoff(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """Energy and forces fade to nothing as a bond reaches the cutoff, with no step there."""
    elements = (subject.model.elements * 2)[:2]
    gap = 1e-4 * subject.cutoff
    distances = (subject.cutoff - gap, subject.cutoff + gap)
    pairs = [Atoms(elements, positions=[[0, 0, 0], [0, 0, r]]) for r in (0.5 * subject.cutoff, *distances)]
    energies = [subject.predict(pair).energy[0] for pair in pairs]
    forces = [subject.predict(pair).forces for pair in pairs]
    size = max(float((energies[0] - energies[2]).abs()), float(forces[0].abs().max()), 1e-12)
    # a function with two continuous derivatives is O(gap³) from its end: 1e-6 is far above that
    _close("cutoff", "energy", energies[1], energies[2], 1e-6, size)
    _close("cutoff", "forces", forces[1], torch.zeros_like(forces[1]), 1e-4, size)
    _close("cutoff", "forces beyond", forces[2], torch.zeros_like(forces[2]), tolerance, size)


def check_one_atom_cell(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """A crystal of one atom feels its own images: its supercell has twice the energy, no force."""
    length = 0.8 * subject.cutoff
    unit = Atoms(subject.model.elements[:1], cell=length * np.eye(3), pbc=True)
    double = unit.repeat((2, 1, 1))
    one, two = subject.predict(unit), subject.predict(double)
    _close("one-atom cell", "energy", 2 * one.energy[0], two.energy[0], tolerance)
    _close("one-atom cell", "virial", 2 * one.virial[0], two.virial[0], tolerance)
    # each force cancels between images: the scale is the virial's
    scale = max(float(one.virial.abs().max()) / length, float(one.energy.abs().max()))
    _close("one-atom cell", "forces", two.forces, torch.zeros_like(two.forces), tolerance, scale)


def check_lone_atom(subject: Subject, tolerance: float = TOLERANCE) -> None:
    """An atom without neighbours has finite energy, no force, and does not disturb a batch."""
    lone = Atoms(subject.model.elements[:1], positions=[[0.0, 0.0, 0.0]])
    found = subject.predict(lone)
    if not bool(torch.isfinite(found.energy).all() and torch.isfinite(found.features).all()):
        raise ConformanceError("lone atom: energy or features are not finite")
    _close("lone atom", "forces", found.forces, torch.zeros_like(found.forces), tolerance)
    molecule = subject.structures[0]
    together, alone = subject.predict(lone, molecule), subject.predict(molecule)
    _close("lone atom", "energy beside it", together.energy[1], alone.energy[0], tolerance)


CHECKS: tuple[Callable[[Subject, float], None], ...] = (
    check_rotation,
    check_inversion,
    check_translation,
    check_permutation,
    check_net_force,
    check_forces,
    check_virial,
    check_batch,
    check_fragments,
    check_cutoff,
    check_one_atom_cell,
    check_lone_atom,
)
"""All checks, in the order run."""


def _compare_turned(subject: Subject, turn: np.ndarray, law: str, tolerance: float) -> None:
    """Compare each structure with itself turned by an orthogonal matrix (rows are vectors)."""
    matrix = torch.from_numpy(np.ascontiguousarray(turn))
    for atoms in subject.structures:
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ turn, scale_atoms=False)
        turned.positions = atoms.positions @ turn
        start, found = subject.predict(atoms), subject.predict(turned)
        _close(law, "energy", found.energy, start.energy, tolerance)
        _close(law, "forces", found.forces, start.forces @ matrix, tolerance)
        _close(law, "virial", found.virial, matrix.T @ start.virial @ matrix, tolerance)


def _close(
    law: str, what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float, scale: float = 0.0
) -> None:
    """Raise unless two tensors agree relative to ``scale`` or the largest expected value."""
    size = max(scale, float(expected.abs().max()), 1e-12)
    difference = float((found - expected).abs().max())
    if not difference <= tolerance * size:
        raise ConformanceError(
            f"{law}: {what} differs by {difference:.3g} where {tolerance * size:.3g} is allowed"
        )


def _random_rotation() -> np.ndarray:
    """A proper rotation without special axes."""
    matrix, _ = np.linalg.qr(generator(0, "rotation").normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def _spread_points(
    rng: np.random.Generator, count: int, cell: np.ndarray, pbc: bool | tuple[bool, ...], least: float
) -> np.ndarray:
    """Fractional coordinates of points at least ``least`` Å apart, periodic images included."""
    points: list[np.ndarray] = []
    while len(points) < count:
        trial = Atoms(f"H{len(points) + 1}", scaled_positions=[*points, rng.random(3)], cell=cell, pbc=pbc)
        if len(find_edges(trial, least).centre) == 0:
            points.append(trial.get_scaled_positions(wrap=False)[-1])
    return np.array(points)
