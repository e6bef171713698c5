"""A pair potential fitted to data, which repels at distances that the data do not have."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gace.linear.config import LeastSquares
from gace.linear.fit import fit
from gace.linear.model import LinearACE
from gace.potential.zbl import CoreRepulsion
from gace.structures.graph import Graph, sum_structures
from gace.training.batches import Packed
from gace.training.statistics import shortest_bonds

RADIAL_FUNCTIONS = 6
"""For each pair of elements: few, so that it is smooth."""
FAR = 100.0
"""Reach of the core repulsion beyond which it would be switched off, in sums of covalent radii."""


class PairPotential:
    """A linear ACE of order 1, continued below the shortest distance of each pair of elements.

    There it goes on straight (level, if it was falling inwards) and takes the curvature of the core repulsion
    of Ziegler, Biersack and Littmark (:mod:`gace.potential.zbl`): convex, and steep soon.

    Args:
        model: whose elements, cutoff and ``shift`` are taken over.
        data: what it is fitted to.
        settings: weights of the fit.

    Raises:
        InputError: as :func:`gace.linear.fit.fit`.
    """

    def __init__(self, model: LinearACE, data: Packed, settings: LeastSquares) -> None:
        self.pairs = LinearACE(
            elements=model.elements,
            cutoff=model.cutoff,
            order=1,
            order_cost=1.0,
            level=float(RADIAL_FUNCTIONS),
            max_degree=0,
            core_repulsion=False,
        )
        with torch.no_grad():
            self.pairs.shift.copy_(model.shift)
        # what is set for the model's own prior is not meant for this one
        chosen = {"ridge": "auto", "smoothness": "auto", "order_decay": "auto"}
        fit(self.pairs, data, settings.model_copy(update=chosen))
        self.core = CoreRepulsion(model.elements, FAR)
        shortest = shortest_bonds(data, len(model.elements))
        # of pairs that are not in the data the sum of the covalent radii
        self.shortest = torch.where(shortest < model.cutoff, shortest, self.pairs.bond_length)

    def energies(self, data: Packed) -> NDArray[np.float64]:
        """Energies less those of the isolated atoms, eV ``(S,)``."""
        found = [self._energy(batch.graph) for _, batch in data.in_order(512)]
        return np.asarray(torch.cat(found))

    def _energy(self, graph: Graph) -> Tensor:
        edges = graph.edge_vector
        r = edges.norm(dim=-1)
        neighbours = self.pairs.neighbour_species(graph)
        shortest = self.shortest[graph.species.unsqueeze(1), neighbours]
        outside = torch.maximum(r, shortest).requires_grad_(True)
        lengthened = graph._replace(edge_vector=edges * (outside / r).unsqueeze(-1))
        energy = self.pairs(lengthened).energy
        (slope,) = torch.autograd.grad(energy.sum(), outside)
        inwards = (shortest - r).clamp(min=0.0)
        straight = (-slope).clamp(min=0.0) * inwards
        beyond = (straight + self._curvature(graph, neighbours, r, outside.detach())).sum(1)
        return sum_structures(energy.detach() + beyond, graph)

    def _curvature(self, graph: Graph, neighbours: Tensor, r: Tensor, outside: Tensor) -> Tensor:
        """What half of each core repulsion exceeds its tangent at ``outside`` by, eV ``(N, J)``."""
        centre = graph.species.unsqueeze(1).expand_as(neighbours).reshape(-1)
        neighbour = neighbours.reshape(-1, 1)
        end = outside.reshape(-1, 1).clone().requires_grad_(True)
        at_end = self.core(end, centre, neighbour)
        (slope,) = torch.autograd.grad(at_end.sum(), end)
        here = self.core(r.reshape(-1, 1), centre, neighbour)
        return (here - at_end.detach() - (slope * (r.reshape(-1, 1) - end.detach())).squeeze(1)).view_as(r)
