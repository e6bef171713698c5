"""Neighbour lists that stay on the device: searched there, kept there, bond vectors formed there."""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor

from gace.engines.verlet import checked_skin, still_valid
from gace.structures.graph import Graph
from gace.structures.neighbours import complete_cell, species_indices, volume_of
from gace.structures.search import search

SLOTS = 4
"""Neighbour slots are padded to a multiple of this, so that shapes repeat."""


class DeviceList:
    """As :class:`gace.engines.verlet.VerletList`, for a potential on a GPU.

    Only positions travel at each step. Candidates between cutoff and skin stay in the graph, where all radial
    functions are zero: nothing is looked at by the processor between two searches, and shapes do not change.
    """

    def __init__(
        self,
        elements: tuple[str, ...],
        cutoff: float,
        skin: float,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """See the class; ``cutoff`` and ``skin`` in Å, a skin of 0 searches every time.

        Raises:
            InputError: a skin that is negative or not finite.
        """
        self.elements, self.cutoff, self.skin = elements, cutoff, checked_skin(skin)
        self.device, self.dtype = device, dtype
        self.searches = 0
        self._start: Atoms | None = None
        self._graph: Graph
        self._offset: Tensor

    def graph(self, atoms: Atoms) -> Graph:
        """The graph of ``atoms`` on the device.

        Raises:
            InputError: an unknown element, an impossible cell, or a position that is not finite.
        """
        # bond vectors are differences of far larger numbers: in double precision, then rounded
        positions = torch.from_numpy(atoms.get_positions()).to(self.device)
        if not still_valid(self._start, atoms, self.skin):
            self._search(atoms, positions)
        vector = positions[self._graph.neighbour] - positions[:, None] + self._offset
        return self._graph._replace(edge_vector=vector.to(self.dtype))

    def _search(self, atoms: Atoms, positions: Tensor) -> None:
        species = torch.from_numpy(species_indices(atoms, self.elements)).to(self.device)
        cell = torch.from_numpy(complete_cell(atoms)).to(self.device)
        periodic = tuple(map(bool, atoms.pbc))
        edges = search(positions, cell, periodic, self.cutoff + self.skin)  # type: ignore[arg-type]
        N = len(atoms)
        count = torch.bincount(edges.centre, minlength=N)
        slots = max(1, -(-int(count.max()) // SLOTS)) * SLOTS
        slot = torch.arange(len(edges.centre), device=self.device) - (count.cumsum(0) - count)[edges.centre]
        neighbour = torch.arange(N, device=self.device)[:, None].repeat(1, slots)
        neighbour[edges.centre, slot] = edges.neighbour
        offset = positions.new_zeros(N, slots, 3)
        offset[..., 0] = 2 * self.cutoff  # a padding slot lies there, seen from its own atom
        offset[edges.centre, slot] = edges.image.double() @ cell
        volume = torch.tensor([volume_of(atoms)], device=self.device, dtype=self.dtype)
        empty = positions.new_empty(0, dtype=self.dtype)
        self._graph = Graph(species, neighbour, empty, torch.zeros_like(species), volume)
        self._offset = offset
        self._start = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self.searches += 1
