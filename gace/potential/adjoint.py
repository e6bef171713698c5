"""Evaluation on a processor with the pass back written out: no graph of operations is recorded.

For some dozen atoms an operation of PyTorch costs more than the numbers it makes, and recording it for
differentiation as much again. Here the kernels are called one after the other, forwards and back, with what
is made of parameters alone prepared once. Values and derivatives are those of
:func:`gace.potential.derivatives.energy_and_gradients` with the same tables.

Many atoms go through a layer part by part, so that what a part needs stays in the caches. In the last layer
readout and pass back follow at once; of the layers before, densities and invariants are kept, while bonds
and products of the density are made again (a tenth of the time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gace.potential.derivatives import Prediction
from gace.potential.graph_ace import GraphACE
from gace.potential.inner_cutoff import Fading
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

MOST_BONDS = 400_000
"""Bonds, padding included, up to which nothing is made twice."""

PART_BONDS = 150_000
"""Of a part where there are more."""


class _Bonds(NamedTuple):
    """The bonds of some atoms."""

    vector: Tensor
    """Å ``(n, J, 3)``."""
    length: Tensor
    """Å ``(n, J)``."""
    harmonics: Tensor
    """``(n, J, lm)``."""
    distance: Tensor
    """The length, stretched where the pair has a cutoff of its own, Å ``(n, J)``."""
    stretch: Tensor | None
    """By how much ``(n, J)``."""
    neighbour: Tensor
    """Atom ``(n, J)``."""
    species: Tensor
    """Element index of the atoms ``(n,)``."""
    neighbour_species: Tensor
    """Of the neighbours ``(n, J)``."""


class _Pass(NamedTuple):
    """What a layer's pass back asks of its pass forwards."""

    incoming: Tensor
    """Message it was given ``(N, c, K)``, or the first layer's ``(1 or more, 1, K)``."""
    index: Tensor
    """Row of it for each neighbour ``(n, J)``."""
    A: Tensor
    """Densities ``(n, dim, K)``."""
    rows: Tensor
    """Result of the expansion."""


class _LayerAdjoint:
    """A layer forwards and back."""

    def __init__(self, layer: Layer, table: RadialTable) -> None:
        self.sparse, self.table, self.channels = layer.sparse, table, layer.channels
        self.expansion = layer.sparse.expansion(layer)
        self.weights = layer.sparse.weights(layer)
        self.indicator = layer.indicator.unsqueeze(1).clone() if layer.incoming is None else None
        self.mixing = layer.message_mixing.clone() if layer.message_irreps is not None else None
        self.leaf = layer.leaf.clone() if layer.message_irreps is not None else None

    def given(self, bonds: _Bonds, message: Tensor | None) -> tuple[Tensor, Tensor]:
        """The message, and its row for each neighbour; of the first layer that of the elements."""
        if message is not None:
            return message, bonds.neighbour
        assert self.indicator is not None
        return self.indicator, bonds.neighbour_species

    def again(self, bonds: _Bonds, message: Tensor | None, A: Tensor) -> _Pass:
        """What is kept of a pass forwards, from the densities."""
        return _Pass(*self.given(bonds, message), A, self.expansion.forward(A, bonds.species))

    def forward(self, bonds: _Bonds, message: Tensor | None) -> tuple[_Pass, Tensor | None]:
        """What is kept, and the message before it fades."""
        incoming, index = self.given(bonds, message)
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
        return _Evaluation(self, graph).prediction()


class _Evaluation:
    """One evaluation, part by part; what belongs to atoms is held for all of them."""

    def __init__(self, adjoint: Adjoint, graph: Graph) -> None:
        self.model, self.layers, self.readout = adjoint.model, adjoint.layers, adjoint.readout
        self.graph = graph
        N, J = graph.neighbour.shape
        size = max(1, N if N * J <= MOST_BONDS else PART_BONDS // J)
        self.parts = [slice(first, first + size) for first in range(0, N, size)]
        self.several = len(self.parts) > 1
        self.bonds = [None if self.several else self._made(own) for own in self.parts]
        self.shapes = [(one.expansion.invariants, one.channels) for one in self.layers]
        widths = [n * K for n, K in self.shapes]
        self.columns = [slice(sum(widths[:t]), sum(widths[: t + 1])) for t in range(len(widths))]
        x = graph.edge_vector
        self.features, self.energy = x.new_empty(N, sum(widths)), x.new_empty(N)
        self.slope = torch.empty_like(x) if self.several else x
        # to harmonics and distances of the only part, by the layers above
        self.owed: tuple[Tensor, Tensor] | None = None
        every = range(len(self.parts))
        self.sums = _joined([sums_forward(*self._constants(part)) for part in every])
        self.fading = None
        if self.model.inner is not None:
            self.fading = self.model.inner.fading(self.sums[:, 2], graph.species)
        self.of_sums = torch.empty_like(self.sums)
        self.of_remains = x.new_empty(N)

    def prediction(self) -> Prediction:
        """Forwards, through the readout, and back."""
        kept: list[list[_Pass]] = []  # of each layer but the last, part by part
        messages: list[Tensor] = []  # of the same, before they fade
        given: list[Tensor | None] = [None]  # to each layer
        last = len(self.layers) - 1
        for t in range(last):
            found = [self._forward(t, part, given[t]) for part in range(len(self.parts))]
            kept.append([one for one, _ in found])
            messages.append(_joined([made for _, made in found]))
            given.append(self._faded(messages[t]))
        of_message: Tensor | None = None
        owed: list[list[Tensor]] = []  # to the invariants of each part, layer by layer, but of the last
        for part, own in enumerate(self.parts):
            one, _ = self._forward(last, part, given[last])
            *before, of_last = self._read(own)
            owed.append(before)
            of_message = self._back(last, part, one, of_last, None, of_message)
        for t in reversed(range(last)):
            assert of_message is not None
            if self.fading is not None:
                self.of_remains += (of_message * messages[t]).sum((1, 2))
            of_outgoing, of_message = self._faded(of_message), None
            for part, own in enumerate(self.parts):
                one = kept[t][part]
                if self.several:
                    one = self.layers[t].again(self._of(part), given[t], one.A)
                of_message = self._back(t, part, one, owed[part][t], of_outgoing[own], of_message)
        force, virial = forces(self.slope, self.graph)
        energy = sum_structures(self.energy, self.graph)
        return Prediction(energy, force, virial, self.energy, self.features)

    def _made(self, own: slice) -> _Bonds:
        """The bonds of some atoms."""
        model, graph = self.model, self.graph
        vector, neighbour, species = graph.edge_vector[own], graph.neighbour[own], graph.species[own]
        of_neighbours = self._neighbours(own)
        r, Y = geometry_forward(vector, model.harmonics.l_max + 1)
        stretch = model.pair_stretch
        if stretch is not None:
            stretch = stretch[species.unsqueeze(1), of_neighbours]
        stretched = r if stretch is None else r * stretch
        return _Bonds(vector, r, Y, stretched, stretch, neighbour, species, of_neighbours)

    def _of(self, part: int) -> _Bonds:
        """The bonds of a part: kept if it is the only one."""
        found = self.bonds[part]
        return self._made(self.parts[part]) if found is None else found

    def _constants(self, part: int) -> tuple[Any, ...]:
        """What coordination, repulsion and closeness are sums of."""
        model, bonds, own = self.model, self.bonds[part], self.parts[part]
        if bonds is None:
            length, of_neighbours = self.graph.edge_vector[own].norm(dim=-1), self._neighbours(own)
        else:
            length, of_neighbours = bonds.length, bonds.neighbour_species
        return (
            length, self.graph.species[own], of_neighbours, model.pair_constants, model.cutoff_power,
            model.repulsion is not None, model.inner is not None,
        )  # fmt: skip

    def _neighbours(self, own: slice) -> Tensor:
        """Element index of the neighbours of some atoms ``(n, J)``."""
        neighbour = self.graph.neighbour[own]
        return self.graph.species.index_select(0, neighbour.reshape(-1)).view(neighbour.shape)

    def _faded(self, message: Tensor) -> Tensor:
        """What is left of it ``(N, c, K)``."""
        return message if self.fading is None else message * self.fading.remains[:, None, None]

    def _forward(self, t: int, part: int, message: Tensor | None) -> tuple[_Pass, Tensor | None]:
        """A layer of a part; its invariants are written down."""
        layer, own = self.layers[t], self.parts[part]
        kept, made = layer.forward(self._of(part), message)
        self.features[own, self.columns[t]] = kept.rows[:, : layer.expansion.invariants].flatten(1)
        if self.several and t < len(self.layers) - 1:
            kept = kept._replace(rows=kept.rows.new_empty(0))
        return kept, made

    def _read(self, own: slice) -> list[Tensor]:
        """Energies of some atoms; what is owed to the invariants of each layer, sums and what is left."""
        invariants = [
            self.features[own, columns].unflatten(1, shape)
            for columns, shape in zip(self.columns, self.shapes, strict=True)
        ]
        fading = None if self.fading is None else Fading(*(one[own] for one in self.fading))
        self.energy[own], slopes = self.readout(invariants, self.sums[own], self.graph.species[own], fading)
        self.of_sums[own], self.of_remains[own] = slopes.sums, slopes.remains
        return slopes.invariants

    def _back(
        self,
        t: int,
        part: int,
        kept: _Pass,
        of_invariants: Tensor,
        of_message: Tensor | None,
        before: Tensor | None,
    ) -> Tensor:
        """What is owed to the incoming message, that ``before`` of other parts included."""
        bonds, own = self._of(part), self.parts[part]
        of_Y, of_distance, of_incoming = self.layers[t].backward(bonds, kept, of_invariants, of_message)
        of_length = of_distance if bonds.stretch is None else of_distance * bonds.stretch
        if t == 0:  # what is left of an atom is owed by all its messages
            of_sums = self.of_sums[own]
            if self.fading is not None:
                of_sums[:, 2] += self.fading.slope[own] * self.of_remains[own]
            of_length = of_length + sums_backward(of_sums, *self._constants(part))
        if self.owed is not None:
            of_Y, of_length = of_Y.add_(self.owed[0]), of_length.add_(self.owed[1])
        if t > 0 and not self.several:
            self.owed = of_Y, of_length
        else:
            slope = geometry_backward(of_length, of_Y, bonds.vector, self.model.harmonics.l_max + 1)
            if not self.several:
                self.slope = slope
            elif t == len(self.layers) - 1:
                self.slope[own] = slope
            else:
                self.slope[own] += slope
        return of_incoming if before is None else before.add_(of_incoming)


def _joined(parts: Sequence[Tensor | None]) -> Tensor:
    """Along the atoms."""
    found = [one for one in parts if one is not None]
    return found[0] if len(found) == 1 else torch.cat(found)
