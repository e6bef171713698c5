"""What the data say before training: energies of the isolated atoms, and the scale of the labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from gace.errors import InputError, nearest
from gace.potential.inner_cutoff import LONGEST, InnerCutoff
from gace.structures.io import Labels, labels_of, read_structures
from gace.training.dataset import LARGEST_LABEL

if TYPE_CHECKING:
    from gace.potential.potential import Potential
    from gace.training.batches import Packed

MOVED_BY = 500
"""Structures, about, on which the isolated-atom energies of a start model are compared with new labels."""
UNSEEN_SHARE = 0.65
"""Inner cutoff of pairs that the data do not have, as a share of the sum of their covalent radii."""
CLOSER = 1.0
"""Atoms may be closer than the closest ones of the data, by this much of close density: one more bond as
short as the shortest. Hydrogen, with one bond, may have it 15 % shorter, crystals all of them by some 5 %."""


def read_isolated_atoms(source: Path | dict[str, float]) -> dict[str, float]:
    """Energies of isolated atoms, eV, by element.

    Args:
        source: a file with labelled one-atom structures, or the energies themselves.

    Raises:
        InputError: an unknown element, a structure with several atoms or no energy, or two energies
            for one element.
    """
    if isinstance(source, dict):
        for element in source:
            if element not in atomic_numbers:
                raise InputError(
                    f"data.isolated_atoms: no element '{element}'{nearest(element, atomic_numbers)}"
                )
            if not abs(source[element]) < LARGEST_LABEL:
                raise InputError(f"data.isolated_atoms: {element} cannot have {source[element]:g} eV")
        return dict(source)
    energies: dict[str, float] = {}
    for atoms in read_structures(source):
        element, energy = atoms.get_chemical_symbols()[0], labels_of(atoms).energy
        if len(atoms) != 1 or energy is None:
            raise InputError(f"{source}: every structure must be one atom with REF_energy")
        if energies.setdefault(element, energy) != energy:
            raise InputError(f"{source}: two different energies for {element}")
    return energies


def fit_isolated_atoms(
    structures: Sequence[Atoms],
    labels: Sequence[Labels],
    elements: Sequence[str],
    start: Potential | None = None,
) -> tuple[dict[str, float], str]:
    """Energy per element by least squares over the total energies, and a warning that says so.

    Where the compositions do not tell the elements apart (one molecule only, say) the solution of
    least norm is taken: differences between structures are unaffected, atomisation energies mean nothing.
    With a start model its energies are kept but for what its predictions are off, so that elements and
    compositions that the new data lack stay as they are.

    Returns:
        Energies in eV of the elements that occur in ``structures`` or in ``start``.
    """
    if start is not None:
        return _moved_isolated_atoms(structures, labels, elements, start)
    present = {symbol for atoms in structures for symbol in atoms.symbols}
    elements = [element for element in elements if element in present]
    known = [
        (atoms, label.energy)
        for atoms, label in zip(structures, labels, strict=True)
        if label.energy is not None
    ]
    if not known:
        return dict.fromkeys(
            elements, 0.0
        ), "no energies in the training data: isolated-atom energies set to zero"
    counts = np.array(
        [[atoms.symbols.count(element) for element in elements] for atoms, _ in known], dtype=float
    )
    energies = np.array([energy for _, energy in known])
    solution, _, rank, _ = np.linalg.lstsq(counts, energies, rcond=1e-10)
    warning = "no isolated-atom energies given: fitted per element by least squares"
    if rank < len(elements):
        warning += f" (underdetermined, rank {rank} of {len(elements)}: least-norm solution)"
    return {element: float(value) for element, value in zip(elements, solution, strict=True)}, warning


def _moved_isolated_atoms(
    structures: Sequence[Atoms], labels: Sequence[Labels], elements: Sequence[str], start: Potential
) -> tuple[dict[str, float], str]:
    """The start model's energies, moved by what the least squares over its errors say."""
    before = start.isolated_atom_energies
    labelled = [number for number, label in enumerate(labels) if label.energy is not None]
    # some are enough, if every element is among them
    chosen = set(np.linspace(0, len(labelled) - 1, min(len(labelled), MOVED_BY)).round().astype(int).tolist())
    chosen = {labelled[number] for number in chosen}
    for element in elements:
        chosen.update([number for number in labelled if element in structures[number].symbols][:1])
    numbers = sorted(chosen)
    within = [number for number in numbers if set(structures[number].symbols) <= set(before)]
    predicted = dict(
        zip(within, (one.energy for one in start.predict([structures[i] for i in within])), strict=True)
    )
    counts = np.array([[structures[i].symbols.count(one) for one in elements] for i in numbers], dtype=float)
    base = np.array([before.get(element, 0.0) for element in elements])
    errors = [
        float(labels[i].energy or 0.0) - predicted.get(i, float(row @ base))
        for i, row in zip(numbers, counts, strict=True)
    ]
    moved = np.zeros(len(elements))
    if numbers:
        moved = np.linalg.lstsq(counts, np.array(errors), rcond=1e-10)[0]
    present = {symbol for atoms in structures for symbol in atoms.symbols} | set(before)
    # rounded, since predictions differ in their last digits from one machine to another, and a run that goes
    # on elsewhere is the same run
    energies = {
        element: float(value) + round(float(change), 4)
        for element, value, change in zip(elements, base, moved, strict=True)
        if element in present
    }
    return energies, (
        "no isolated-atom energies given: the start model's, moved per element by what its energies are off"
    )


def label_scale(
    structures: Sequence[Atoms], labels: Sequence[Labels], isolated_atoms: dict[str, float]
) -> float:
    """Natural size of the energy variations: RMS force component, eV/Å; else spread of energies per atom, eV.

    One is returned where the data show no variation (a single relaxed structure).
    """
    known = [label.forces[np.isfinite(label.forces)] for label in labels if label.forces is not None]
    components: NDArray[np.float64] = np.concatenate(known) if known else np.zeros(0)
    if components.size and (size := float(np.sqrt(np.mean(components**2)))) > 1e-6:
        return size
    per_atom = [
        (label.energy - sum(isolated_atoms[symbol] for symbol in atoms.symbols)) / len(atoms)
        for atoms, label in zip(structures, labels, strict=True)
        if label.energy is not None
    ]
    spread = float(np.std(per_atom)) if per_atom else 0.0
    return spread if spread > 1e-6 else 1.0


def bonding_energies(
    structures: Sequence[Atoms], labels: Sequence[Labels], isolated_atoms: dict[str, float]
) -> dict[str, float]:
    """Mean energy of a bonded atom relative to the isolated one, eV, by least squares (of least norm)."""
    elements = list(isolated_atoms)
    known = [
        (atoms, label.energy)
        for atoms, label in zip(structures, labels, strict=True)
        if label.energy is not None
    ]
    if not known:
        return dict.fromkeys(elements, 0.0)
    counts = np.array(
        [[atoms.symbols.count(element) for element in elements] for atoms, _ in known], dtype=float
    )
    bonding = np.array([energy for _, energy in known]) - counts @ np.array(list(isolated_atoms.values()))
    solution = np.linalg.lstsq(counts, bonding, rcond=1e-10)[0]
    return {element: float(value) for element, value in zip(elements, solution, strict=True)}


@torch.no_grad()
def shortest_bonds(data: Packed, n_elements: int) -> torch.Tensor:
    """Shortest distance of each pair of elements in graphs, Å ``(Z, Z)``, float64; inf where none is.

    Slots without neighbour count as their own atom at twice the cutoff.
    """
    found = torch.full((n_elements, n_elements), torch.inf, dtype=torch.float64, device=data.device)
    for _, batch in data.in_order(512):
        graph = batch.graph
        neighbours = graph.species[graph.neighbour]
        pair = graph.species.unsqueeze(1) * n_elements + neighbours
        # a slot without neighbour lies beyond the cutoff
        r = graph.edge_vector.norm(dim=-1).to(found)
        found.view(-1).scatter_reduce_(0, pair.reshape(-1), r.reshape(-1), "amin")
    return torch.minimum(found, found.T).cpu()


@torch.no_grad()
def inner_cutoffs(
    data: Packed, elements: Sequence[str], cutoff: float
) -> tuple[dict[str, float], dict[str, float]]:
    """How close the atoms of the data are; see :class:`gace.potential.inner_cutoff.InnerCutoff`.

    Returns:
        The shortest bond of each pair of elements (at most the sum of their covalent radii), Å, and the limit
        of the close density of each element.
    """
    shortest = shortest_bonds(data, len(elements))
    lengths = {}
    for a, b in itertools.combinations_with_replacement(range(len(elements)), 2):
        length = float(shortest[a, b])
        radii = sum(covalent_radii[atomic_numbers[elements[i]]] for i in (a, b))
        # atoms that never bonded in the data may come nearer: only what no bond is like is ruled out
        length = min(length if length < cutoff else UNSEEN_SHARE * radii, radii, LONGEST * cutoff)
        lengths[f"{elements[a]}-{elements[b]}"] = math.floor(length * 1e4) / 1e4
    inner = InnerCutoff(elements, cutoff, lengths).to(data.device)
    densest = torch.ones(len(elements), dtype=torch.float64, device=data.device)
    for _, batch in data.in_order(512):
        graph = batch.graph
        r = graph.edge_vector.norm(dim=-1).to(densest)
        found = inner.density(r, graph.species, graph.species[graph.neighbour])
        densest.scatter_reduce_(0, graph.species, found, "amax")
    limits = (densest + CLOSER).tolist()
    return lengths, {one: math.ceil(limit * 1e4) / 1e4 for one, limit in zip(elements, limits, strict=True)}
