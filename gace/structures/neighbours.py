"""From ASE structures to the dense graph: neighbour search and batching.

The search sees every periodic image within the cutoff, an atom's own images included, whatever
the shape or size of the cell. Bonds are ordered by centre, neighbour and image, so that the
same structure always gives the same arrays, on any machine. PyTorch is loaded where tensors are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gace.errors import InputError

if TYPE_CHECKING:
    import torch

    from gace.structures.graph import Graph

MAX_BOXES = 1e5
"""Boxes of the cutoff's size into which vesin divides space at most; there are larger ones from there on."""

FARTHEST = 1e8
"""Å from the origin up to which vesin may count in cells: it does so in 32 bits."""


class Neighbourhood(NamedTuple):
    """The graph of one structure as NumPy arrays, to be computed once and batched often."""

    species: NDArray[np.int64]
    """Index of each atom's element ``(N,)``."""

    neighbour: NDArray[np.int64]
    """Atom index of each neighbour; a padding slot holds its own atom ``(N, J)``."""

    edge_vector: NDArray[np.float64]
    """Neighbour minus centre, Å ``(N, J, 3)``; padding: ``(2 r_cut, 0, 0)``."""

    volume: float
    """Cell volume, Å³; NaN unless periodic in three directions."""


class Edges(NamedTuple):
    """All directed edges of one structure, ordered by centre, neighbour and image."""

    centre: NDArray[np.int64]
    """Atom at the origin of the edge ``(E,)``."""

    neighbour: NDArray[np.int64]
    """Atom at its end ``(E,)``."""

    image: NDArray[np.int64]
    """Cell of the neighbour relative to the centre's, in lattice vectors ``(E, 3)``."""

    vector: NDArray[np.float64]
    """Neighbour minus centre, Å ``(E, 3)``."""


Pairs = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], float],
    tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
]
"""Positions, cell, periodicity, cutoff: centres ``(E,)``, neighbours ``(E,)`` and images ``(E, 3)``."""


def find_edges(atoms: Atoms, cutoff: float, pairs: Pairs | None = None) -> Edges:
    """All pairs less than ``cutoff`` (Å) apart, both directions, all periodic images.

    Args:
        atoms: a structure.
        cutoff: Å.
        pairs: the search; None: vesin's Python module.

    Raises:
        InputError: a position or cell vector is not finite, or a periodic direction has no cell vector.
    """
    positions, cell, periodic = np.asarray(atoms.positions), complete_cell(atoms), np.asarray(atoms.pbc)
    if not np.isfinite(positions).all():
        raise InputError("a position is NaN or infinite")
    if np.abs(positions).max(initial=0.0) < FARTHEST and _divisible(positions, cell, periodic, cutoff):
        centre, neighbour, image = (pairs or _by_vesin)(positions, cell, periodic, float(cutoff))
        order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], neighbour, centre))
        centre, neighbour, image = centre[order], neighbour[order], image[order]
    else:
        import torch

        from gace.structures.search import search

        along = tuple(map(bool, periodic))
        found = search(torch.tensor(positions), torch.tensor(cell), along, cutoff)  # type: ignore[arg-type]
        centre, neighbour, image = (one.numpy() for one in found)
    return Edges(centre, neighbour, image, edge_vectors(positions, cell, centre, neighbour, image))


def _by_vesin(
    positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Centres, neighbours and images of all edges."""
    from vesin import NeighborList

    vesin = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    found = vesin.compute(points=positions, box=cell, periodic=periodic, quantities="ijS")
    centre, neighbour, image = (array.astype(np.int64) for array in found)
    return centre, neighbour, image


def _divisible(
    positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> bool:
    """Whether vesin (0.6.2) can divide space into its boxes.

    Where there would be more than :data:`MAX_BOXES`, it makes fewer in the same proportions, which in a flat
    or long space rounds to none in some direction: a division by zero, which ends the process.
    """
    along = periodic.tolist()
    # bounds first, in plain numbers: this is called at every search
    lengths = [0.0, 0.0, 0.0] if all(along) else _spread(positions)
    if any(along):
        extent = math.hypot(*lengths)
        lengths = [math.hypot(*row) if one else extent for row, one in zip(cell.tolist(), along, strict=True)]
    if _boxes(lengths, cutoff) < MAX_BOXES:
        return True
    if all(along):
        lengths = (1 / np.linalg.norm(np.linalg.inv(cell), axis=0)).tolist()
    elif any(along):
        if sum(along) == 2:
            normal = np.cross(*cell[periodic])
            (lengths[along.index(False)],) = _spread((positions @ normal)[:, None] / np.linalg.norm(normal))
        return _boxes(lengths, cutoff) < MAX_BOXES  # vesin has axes of its own here
    boxes = _boxes(lengths, cutoff)
    # two and not one: numbers of boxes are rounded down before and after they are made fewer
    return boxes < MAX_BOXES or bool(
        max(min(lengths) / cutoff, 1.0) // 1 * (MAX_BOXES / boxes) ** (1 / 3) >= 2
    )


def _spread(positions: NDArray[np.float64]) -> list[float]:
    """Largest less least coordinate along each axis ``(N, d) -> (d,)``; infinite where that is no float."""
    low = positions.min(axis=0, initial=np.inf).tolist()
    high = positions.max(axis=0, initial=-np.inf).tolist()
    return [h - lo for h, lo in zip(high, low, strict=True)]


def _boxes(lengths: Sequence[float], cutoff: float) -> float:
    """Number of boxes of the cutoff's size, with the margin of a hundredth that vesin leaves around atoms."""
    return 1.01**3 * math.prod(max(one / cutoff, 1.0) for one in lengths)


def edge_vectors(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    centre: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    image: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Neighbour minus centre, Å ``(E, 3)``, from positions ``(N, 3)`` and the rows of ``cell``."""
    return positions[neighbour] - positions[centre] + image @ cell


def complete_cell(atoms: Atoms) -> NDArray[np.float64]:
    """The 3×3 cell (Å, rows), unit vectors standing in for absent non-periodic directions.

    Raises:
        InputError: a periodic direction has no cell vector, or the cell is flat or not finite.
    """
    cell = np.asarray(atoms.cell.array, dtype=float)
    if not np.isfinite(cell).all():
        raise InputError("a cell vector is NaN or infinite")
    absent = ~cell.any(axis=1)
    if (absent & atoms.pbc).any():
        raise InputError("the structure is periodic in a direction without a cell vector")
    if not np.any(atoms.pbc):
        return np.eye(3)
    full = np.asarray(atoms.cell.complete().array)
    if abs(np.linalg.det(full)) < 1e-8 * np.prod(np.linalg.norm(full, axis=1)):
        raise InputError("the cell vectors are linearly dependent: the cell has no volume")
    return full


def species_indices(atoms: Atoms, elements: Sequence[str]) -> NDArray[np.int64]:
    """Index of each atom's element in ``elements`` ``(N,)``.

    Raises:
        InputError: the structure holds an element that is not in ``elements``.
    """
    numbers = atoms.numbers
    table = np.full(len(chemical_symbols), -1, dtype=np.int64)
    known = {symbol: number for number, symbol in enumerate(chemical_symbols)}
    for index, symbol in enumerate(elements):
        table[known[symbol]] = index
    species = table[numbers]
    if (species < 0).any():
        absent = sorted({chemical_symbols[number] for number in numbers[species < 0]})
        raise InputError(
            f"no parameters for element{'s' if len(absent) > 1 else ''} {', '.join(absent)}: "
            f"this potential knows {', '.join(elements)}"
        )
    return species


def neighbourhood(atoms: Atoms, elements: Sequence[str], cutoff: float) -> Neighbourhood:
    """The dense graph of one structure; see :class:`Neighbourhood`.

    Raises:
        InputError: no atoms, an unknown element, or a cell as :func:`find_edges` refuses it.
    """
    if len(atoms) == 0:
        raise InputError("the structure has no atoms")
    species = species_indices(atoms, elements)
    edges = find_edges(atoms, cutoff)
    neighbour, edge_vector = dense(edges.centre, edges.neighbour, edges.vector, len(atoms), cutoff)
    return Neighbourhood(species, neighbour, edge_vector, volume_of(atoms))


def volume_of(atoms: Atoms) -> float:
    """Cell volume, Å³; NaN unless periodic in three directions."""
    return float(atoms.cell.volume) if atoms.pbc.all() else float("nan")


def dense(
    centre: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    vector: NDArray[np.float64],
    n_atoms: int,
    cutoff: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Edges ordered by centre ``(E,)``, ``(E,)``, ``(E, 3)`` as padded arrays ``(N, J)``, ``(N, J, 3)``."""
    count = np.bincount(centre, minlength=n_atoms)
    slots = max(int(count.max(initial=0)), 1)
    slot = np.arange(len(centre)) - (np.cumsum(count) - count)[centre]
    dense_neighbour = np.repeat(np.arange(n_atoms)[:, None], slots, axis=1)
    dense_neighbour[centre, slot] = neighbour
    dense_vector = np.zeros((n_atoms, slots, 3))
    dense_vector[..., 0] = 2 * cutoff
    dense_vector[centre, slot] = vector
    return dense_neighbour, dense_vector


def collate(
    neighbourhoods: Sequence[Neighbourhood],
    cutoff: float,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Graph:
    """Batch structures into one graph; ``J`` is the largest among them.

    Args:
        neighbourhoods: one per structure, all made with the same elements and ``cutoff``.
        cutoff: Å; a padding slot lies at twice this distance.
        dtype: of the floating-point fields; None: float64.
        device: where the graph lives.
    """
    from gace.structures.graph import Graph

    species, neighbour, edge_vector, structure, volume = joined(neighbourhoods, cutoff)
    return Graph(
        _tensor(species, device),
        _tensor(neighbour, device),
        _tensor(edge_vector, device, dtype),
        _tensor(structure, device),
        _tensor(volume, device, dtype),
    )


def joined(
    neighbourhoods: Sequence[Neighbourhood], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """The fields of :class:`gace.structures.graph.Graph` as NumPy arrays; see :func:`collate`."""
    sizes = [len(one.species) for one in neighbourhoods]
    n_atoms, slots = sum(sizes), max((one.neighbour.shape[1] for one in neighbourhoods), default=1)
    neighbour = np.repeat(np.arange(n_atoms)[:, None], slots, axis=1)
    edge_vector = np.zeros((n_atoms, slots, 3))
    edge_vector[..., 0] = 2 * cutoff
    first = 0
    for one, size in zip(neighbourhoods, sizes, strict=True):
        own = one.neighbour.shape[1]
        neighbour[first : first + size, :own] = one.neighbour + first
        edge_vector[first : first + size, :own] = one.edge_vector
        first += size
    empty = np.zeros(0, dtype=np.int64)
    species = np.concatenate([one.species for one in neighbourhoods] or [empty])
    structure = np.repeat(np.arange(len(sizes)), sizes)
    volume = np.array([one.volume for one in neighbourhoods], dtype=float)
    return species, neighbour, edge_vector, structure, volume


def build_graph(
    structures: Sequence[Atoms],
    elements: Sequence[str],
    cutoff: float,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Graph:
    """The graph of one or more structures.

    Args:
        structures: any mixture of molecules and periodic cells.
        elements: element symbols in the potential's order.
        cutoff: Å.
        dtype: of the floating-point fields; None: float64.
        device: where the graph lives.

    Raises:
        InputError: an unknown element, no atoms, or an impossible cell.
    """
    return collate([neighbourhood(one, elements, cutoff) for one in structures], cutoff, dtype, device)


def _tensor(
    array: NDArray[Any], device: torch.device | str, dtype: torch.dtype | None = None
) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(device=device, dtype=dtype)
