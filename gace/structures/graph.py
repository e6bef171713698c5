"""The one immutable graph that every potential sees, and the verbs on it.

Alphabet: ``N`` atoms, ``J`` slots for neighbours of one atom (dense, padded), ``B`` structures.
The neighbour axis is dense so that sums over neighbours are batched matrix products. A padding
slot points at its own atom and lies at twice the cutoff, where every radial function is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Graph(NamedTuple):
    """Atoms of one or more structures and the bonds from each atom to its neighbours."""

    species: Tensor
    """Index of each atom's element in the potential's element order ``(N,)`` int64."""

    neighbour: Tensor
    """Atom index of each neighbour; a padding slot holds its own atom ``(N, J)`` int64."""

    edge_vector: Tensor
    """Neighbour minus centre, periodic image taken, Å ``(N, J, 3)``; padding: ``(2 r_cut, 0, 0)``."""

    structure: Tensor
    """Index of the structure each atom belongs to, ascending ``(N,)`` int64."""

    volume: Tensor
    """Cell volume, Å³ ``(B,)``; NaN where the structure is not periodic in three directions."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms ``N``."""
        return self.species.shape[0]

    @property
    def n_structures(self) -> int:
        """Number of structures ``B``."""
        return self.volume.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """The same graph on ``device``, with floating-point fields in ``dtype``."""
        return Graph(
            self.species.to(device),
            self.neighbour.to(device),
            self.edge_vector.to(device, dtype),
            self.structure.to(device),
            self.volume.to(device, dtype),
        )


def gather_neighbours(x: Tensor, graph: Graph) -> Tensor:
    """Values of the neighbours: ``(N, ...) -> (N, J, ...)``."""
    flat = x.index_select(0, graph.neighbour.reshape(-1))
    return flat.reshape(*graph.neighbour.shape, *x.shape[1:])


def sum_structures(x: Tensor, graph: Graph) -> Tensor:
    """Sum over the atoms of each structure: ``(N, ...) -> (B, ...)``."""
    return x.new_zeros(graph.n_structures, *x.shape[1:]).index_add(0, graph.structure, x)


def forces_from_edges(gradient: Tensor, graph: Graph) -> Tensor:
    """Forces from the derivative of the energy by edge vectors: ``(N, J, 3) -> (N, 3)``, eV/Å."""
    on_neighbour = gradient.new_zeros(graph.n_atoms, 3)
    on_neighbour = on_neighbour.index_add(0, graph.neighbour.reshape(-1), gradient.reshape(-1, 3))
    return gradient.sum(1) - on_neighbour


def virial_from_edges(gradient: Tensor, graph: Graph) -> Tensor:
    """Strain derivative of the energy, symmetrised: ``(N, J, 3) -> (B, 3, 3)``, eV.

    Divided by the volume it is the stress in ASE's sign (tension positive).
    """
    per_atom = torch.einsum("nja,njb->nab", graph.edge_vector, gradient)
    per_structure = sum_structures(per_atom, graph)
    return 0.5 * (per_structure + per_structure.transpose(1, 2))
