"""Evaluation on a processor with the pass back written out: no graph of operations is recorded.

For some dozen atoms an operation of PyTorch costs more than the numbers it makes, and recording it for
differentiation as much again. Here the kernels are called one after the other, forwards and back, with what
is made of parameters alone prepared once. Values and derivatives are those of
:func:`gace.potential.derivatives.energy_and_gradients` with the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gace.potential.derivatives import Prediction
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels.coupling import backward as coupling_backward
from gace.potential.kernels.coupling import forward as coupling_forward
from gace.potential.kernels.forces import forces
from gace.potential.kernels.geometry import backward as geometry_backward
from gace.potential.kernels.geometry import forward as geometry_forward
from gace.potential.kernels.mixed import backward as mixed_backward
from gace.potential.kernels.mixed import forward as mixed_forward
from gace.potential.kernels.splined import backward as splined_backward
from gace.potential.kernels.splined import forward as splined_forward
from gace.potential.kernels.sums import backward as sums_backward
from gace.potential.kernels.sums import forward as sums_forward
from gace.potential.layer import Layer
from gace.potential.readout import Readout
from gace.potential.tables import RadialTable
from gace.structures.graph import Graph, sum_structures


class _Bonds(NamedTuple):
    """What the layers ask of the bonds."""

    harmonics: Tensor
    """``(N, J, lm)``."""
    distance: Tensor
    """Å ``(N, J)``, stretched where the pair has a cutoff of its own."""
    neighbour: Tensor
    """Atom ``(N, J)``."""
    species: Tensor
    """Element index of the atoms ``(N,)``."""
    neighbour_species: Tensor
    """Of the neighbours ``(N, J)``."""


class _Pass(NamedTuple):
    """What a layer's pass back asks of its pass forwards."""

    incoming: Tensor
    """Message it was given ``(N, c, K)``, or the first layer's ``(1 or more, 1, K)``."""
    index: Tensor
    """Row of it for each neighbour ``(N, J)``."""
    A: Tensor
    """Densities ``(N, dim, K)``."""
    rows: Tensor
    """Result of the expansion."""


class _LayerAdjoint:
    """A layer forwards and back."""

    def __init__(self, layer: Layer, table: RadialTable) -> None:
        self.sparse, self.table = layer.sparse, table
        self.expansion = layer.sparse.expansion(layer)
        self.weights = layer.sparse.weights(layer)
        self.indicator = layer.indicator.unsqueeze(1).clone() if layer.incoming is None else None
        self.mixing = layer.message_mixing.clone() if layer.message_irreps is not None else None
        self.leaf = layer.leaf.clone() if layer.message_irreps is not None else None

    def forward(self, bonds: _Bonds, message: Tensor | None) -> tuple[_Pass, Tensor | None]:
        """What is kept, and the message before it fades."""
        if message is None:
            assert self.indicator is not None
            incoming, index = self.indicator, bonds.neighbour_species
        else:
            incoming, index = message, bonds.neighbour
        rows = splined_forward(
            bonds.harmonics, bonds.distance, incoming, index, bonds.species, bonds.neighbour_species,
            self.table.values, self.table.range, self.table.degrees, self.table.channels,
        )  # fmt: skip
        if (raw := self.sparse.raw) is not None:
            ones = rows.new_ones(len(rows), 1, rows.shape[2])
            rows = coupling_forward(
                rows, ones, self.weights.one, bonds.species, raw.index, raw.value, raw.size, False
            )
        dims, paths = self.sparse.density_dims, self.sparse.density_paths
        A, _ = mixed_forward(rows, self.weights.density, None, None, dims, paths, 0)
        found = self.expansion.forward(A, bonds.species)
        kept = _Pass(incoming, index, A, found)
        if self.mixing is None:
            return kept, None
        first = self.expansion.invariants
        summed = found[:, first : first + self.expansion.message]
        dims = self.sparse.outgoing_dims
        made, _ = mixed_forward(summed, self.mixing, self.leaf, bonds.species, dims, [1] * len(dims), 0)
        return kept, made

    def backward(
        self, bonds: _Bonds, kept: _Pass, of_invariants: Tensor, of_message: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is owed to harmonics, distances and the incoming message (nothing in the first layer)."""
        nothing = kept.A.new_empty(len(kept.A), 0, kept.A.shape[2])
        if of_message is not None:
            assert self.mixing is not None
            dims = self.sparse.outgoing_dims
            of_message = mixed_backward(of_message, nothing, self.mixing, dims, [1] * len(dims))
        slope = self.expansion.backward(of_invariants, of_message, kept.A, kept.rows, bonds.species)
        dims, paths = self.sparse.density_dims, self.sparse.density_paths
        slope = mixed_backward(slope, nothing, self.weights.density, dims, paths)
        if (raw := self.sparse.raw) is not None:
            ones = slope.new_ones(len(slope), 1, slope.shape[2])
            x = slope.new_empty(len(slope), raw.size[2], slope.shape[2])  # linear: its values do not matter
            slope, _, _ = coupling_backward(
                slope, x, ones, self.weights.one, bonds.species, raw.index, raw.value, raw.size,
                False, False, False,
            )  # fmt: skip
        return splined_backward(
            slope, bonds.harmonics, bonds.distance, kept.incoming, kept.index, bonds.species,
            bonds.neighbour_species, self.table.values, self.table.range, self.table.degrees,
            self.table.channels, True,
        )  # fmt: skip


class Adjoint:
    """Evaluates a graph ACE with tabulated radial functions, as its parameters are now.

    Args:
        model: on a processor, with kernels for its precision.
        tables: of its radial functions.
    """

    max_bonds: float = 1_500_000
    """Bonds, padding included, that are evaluated at once: 1.3 GB in single precision."""

    def __init__(self, model: GraphACE, tables: Sequence[RadialTable]) -> None:
        with torch.no_grad():
            self.model = model
            self.layers = [
                _LayerAdjoint(layer, table) for layer, table in zip(model.layers, tables, strict=True)
            ]
            self.readout = Readout(model)

    @torch.no_grad()
    def __call__(self, graph: Graph) -> Prediction:
        """Energies and derivatives of a graph in the model's precision."""
        model = self.model
        vector, species = graph.edge_vector, graph.species
        of_neighbours = species.index_select(0, graph.neighbour.reshape(-1)).view(graph.neighbour.shape)
        r, Y = geometry_forward(vector, model.harmonics.l_max + 1)
        stretch = model.pair_stretch
        if stretch is not None:
            stretch = stretch[species.unsqueeze(1), of_neighbours]
        stretched = r if stretch is None else r * stretch
        bonds = _Bonds(Y, stretched, graph.neighbour, species, of_neighbours)
        constants = (
            r, species, of_neighbours, model.pair_constants, model.cutoff_power,
            model.repulsion is not None, model.inner is not None,
        )  # fmt: skip
        of_distance = sums_forward(*constants)
        fading = None if model.inner is None else model.inner.fading(of_distance[:, 2], species)
        passes: list[_Pass] = []
        whole: list[Tensor | None] = []  # messages before they fade
        message: Tensor | None = None
        for layer in self.layers:
            kept, made = layer.forward(bonds, message)
            passes.append(kept)
            whole.append(made)
            message = made if made is None or fading is None else made * fading.remains[:, None, None]
        invariants = [
            one.rows[:, : layer.expansion.invariants] for layer, one in zip(self.layers, passes, strict=True)
        ]
        energy, slopes = self.readout(invariants, of_distance, species, fading)
        of_message: Tensor | None = None
        of_remains = slopes.remains
        of_Y = of_stretched = None
        for layer, kept, made, owed in reversed(
            list(zip(self.layers, passes, whole, slopes.invariants, strict=True))
        ):
            if made is not None and fading is not None and of_message is not None:
                of_remains = of_remains + (of_message * made).sum((1, 2))
                of_message = of_message * fading.remains[:, None, None]
            more_Y, more_distance, of_message = layer.backward(bonds, kept, owed, of_message)
            of_Y = more_Y if of_Y is None else of_Y.add_(more_Y)
            of_stretched = more_distance if of_stretched is None else of_stretched.add_(more_distance)
        assert of_Y is not None
        assert of_stretched is not None
        of_sums = slopes.sums
        if fading is not None:
            of_sums[:, 2] += fading.slope * of_remains
        of_r = sums_backward(of_sums, *constants)
        of_r += of_stretched if stretch is None else of_stretched * stretch
        slope = geometry_backward(of_r, of_Y, vector, model.harmonics.l_max + 1)
        force, virial = forces(slope, graph)
        features = torch.cat([one.flatten(1) for one in invariants], dim=1)
        return Prediction(sum_structures(energy, graph), force, virial, energy, features)
