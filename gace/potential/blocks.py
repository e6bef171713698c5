"""Energies and gradients block by block: memory and time per atom do not grow with the structure.

All atoms at once need arrays that no cache holds; on a CPU that costs a factor of three at a few
thousand bonds. Here every layer runs over blocks of a fixed number of atoms. The first pass keeps
messages and scalar densities; the pass back evaluates each block again with gradients, from the last
layer to the first, and adds up what neighbours are owed. One more evaluation of all layers but the last
is the price. Blocks have one shape whatever the structure, so that code compiled for one serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import pad

from gace.potential.derivatives import Prediction
from gace.potential.graph_ace import GraphACE, faded, features
from gace.structures.graph import Graph, forces_from_edges, sum_structures, virial_from_edges

if TYPE_CHECKING:
    from gace.potential.tables import RadialTable

Run = Callable[[str, Callable[..., list[Tensor]], Sequence[Tensor]], Sequence[Tensor]]
"""Evaluates a named function of tensors; what is compiled is decided here."""


def run_plainly(
    name: str, function: Callable[..., list[Tensor]], arguments: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Evaluate operation by operation."""
    return function(*arguments)


class Block(NamedTuple):
    """Some atoms and their bonds, padded to the size of all blocks."""

    species: Tensor
    """``(b,)``."""
    neighbour_species: Tensor
    """``(b, J)``."""
    edge_vector: Tensor
    """Å ``(b, J, 3)``."""


def block_size(n_atoms: int, slots: int, bonds: int) -> int:
    """Atoms of a block: about ``bonds`` bonds, a multiple of four, one block if that is enough."""
    whole = -(-n_atoms // 4) * 4
    return min(whole, max(4, bonds // slots // 4 * 4))


def energy_and_gradients_by_blocks(
    model: GraphACE,
    graph: Graph,
    size: int,
    run: Run = run_plainly,
    tables: Sequence[RadialTable] | None = None,
) -> Prediction:
    """As :func:`gace.potential.derivatives.energy_and_gradients`, in blocks of ``size`` atoms.

    Args:
        model: the potential.
        graph: on the model's device and in its precision.
        size: atoms of a block.
        run: evaluates the functions of a block.
        tables: radial functions of each layer in the place of its network.
    """
    with torch.no_grad():
        return _Evaluation(model, graph, size, run, tables).prediction()


class _Evaluation:
    """One evaluation of one graph."""

    def __init__(
        self,
        model: GraphACE,
        graph: Graph,
        size: int,
        run: Run,
        tables: Sequence[RadialTable] | None,
    ) -> None:
        self.model, self.graph, self.run, self.tables = model, graph, run, tables
        self.names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
        self.state = [one.detach() for one in (*model.parameters(), *model.buffers())]
        N, J = graph.neighbour.shape
        self.blocks = [slice(first, min(first + size, N)) for first in range(0, N, size)]
        self.size, self.slots, self.T = size, J, len(model.layers)
        self.far = graph.edge_vector.new_tensor([2 * model.cutoff, 0.0, 0.0])
        self.neighbour_species = graph.species.index_select(0, graph.neighbour.reshape(-1)).view(N, J)

    def prediction(self) -> Prediction:
        """Forward through all layers but the last, then back through all."""
        graph, last = self.graph, self.T - 1
        messages: list[Tensor] = []
        densities: list[Tensor] = []
        invariants: list[Tensor] = []
        for t in range(last):
            parts = [
                self._call(f"forward {t}", self._forward(t), self._block(one), self._carried(messages, one))
                for one in self.blocks
            ]
            messages.append(self._joined(parts, 0))
            densities.append(self._joined(parts, 1))
            invariants.append(self._joined(parts, 2))
        gradient = torch.zeros_like(graph.edge_vector)
        owed = [torch.zeros_like(one) for one in messages]
        slopes = [torch.zeros_like(one) for one in densities]
        parts = []
        for one in self.blocks:
            known = [self._padded(rho[one]) for rho in densities]
            values = self._call("last", self._last, self._block(one), self._carried(messages, one), *known)
            self._return(values[2:], one, gradient, owed)
            for slope, value in zip(slopes, values[2 + 1 + (self.T > 1) :], strict=True):
                slope[one] = value[: one.stop - one.start]
            parts.append(values[:2])
        for t in reversed(range(last)):
            for one in self.blocks:
                weights = self._padded(owed[t][one]), self._padded(slopes[t][one])
                values = self._call(
                    f"backward {t}",
                    self._backward(t),
                    self._block(one),
                    self._carried(messages[:t], one),
                    *weights,
                )
                self._return(values, one, gradient, owed[:t])
        energy = self._joined(parts, 0)
        return Prediction(
            sum_structures(energy, graph),
            forces_from_edges(gradient, graph),
            virial_from_edges(gradient, graph),
            energy,
            torch.cat([*invariants, self._joined(parts, 1)], dim=1),
        )

    # ------------------------------------------------------------------ pieces of arrays

    def _padded(self, x: Tensor) -> Tensor:
        return pad(x, (0, 0) * (x.ndim - 1) + (0, self.size - len(x)))

    def _block(self, one: slice) -> Block:
        graph, missing = self.graph, self.size - (one.stop - one.start)
        vector = graph.edge_vector[one]
        if missing:
            vector = torch.cat([vector, self.far.expand(missing, self.slots, 3)])
        return Block(
            self._padded(graph.species[one]), self._padded(self.neighbour_species[one]), vector.contiguous()
        )

    def _carried(self, messages: list[Tensor], one: slice) -> list[Tensor]:
        """Messages of the neighbours ``(b, J, dim, K)``; nothing in the first layer."""
        if not messages:
            return []
        index = self._padded(self.graph.neighbour[one]).reshape(-1)
        found = messages[-1].index_select(0, index)
        return [found.view(self.size, self.slots, *found.shape[1:])]

    def _return(self, values: Sequence[Tensor], one: slice, gradient: Tensor, owed: list[Tensor]) -> None:
        """Store the derivative by the bonds and add the one by the neighbours' messages."""
        count = one.stop - one.start
        gradient[one] += values[0][:count]
        if owed:
            index = self.graph.neighbour[one].reshape(-1)
            owed[-1].index_add_(0, index, values[1][:count].flatten(0, 1))

    def _joined(self, parts: Sequence[Sequence[Tensor]], which: int) -> Tensor:
        return torch.cat(
            [part[which][: one.stop - one.start] for part, one in zip(parts, self.blocks, strict=True)]
        )

    # ------------------------------------------------------------------ functions of a block

    def _call(
        self,
        name: str,
        function: Callable[..., list[Tensor]],
        block: Block,
        carried: list[Tensor],
        *more: Tensor,
    ) -> Sequence[Tensor]:
        return self.run(name, function, [*self.state, *block, *carried, *more])

    def _inputs(
        self, arguments: Sequence[Tensor], first: bool
    ) -> tuple[_Stateful, Block, list[Tensor], list[Tensor]]:
        """Model, block, messages of the neighbours, and the rest of a function's arguments."""
        n = len(self.names)
        model = _Stateful(self.model, self.tables, dict(zip(self.names, arguments[:n], strict=True)))
        split = n + 3 + (0 if first else 1)
        return model, Block(*arguments[n : n + 3]), list(arguments[n + 3 : split]), list(arguments[split:])

    def _forward(self, t: int) -> Callable[..., list[Tensor]]:
        def forward(*arguments: Tensor) -> list[Tensor]:
            model, block, carried, _ = self._inputs(arguments, t == 0)
            message, rho, invariants = model("layer", t, block, carried)
            return [message, rho, features([invariants])]

        return forward

    def _backward(self, t: int) -> Callable[..., list[Tensor]]:
        def backward(*arguments: Tensor) -> list[Tensor]:
            model, block, carried, (owed, slope) = self._inputs(arguments, t == 0)
            with torch.enable_grad():
                block, carried = _differentiable(block, carried)
                message, rho, _ = model("layer", t, block, carried)
                objective = (message * owed).sum() + (rho * slope).sum()
                return list(torch.autograd.grad(objective, [block.edge_vector, *carried]))

        return backward

    def _last(self, *arguments: Tensor) -> list[Tensor]:
        model, block, carried, known = self._inputs(arguments, self.T == 1)
        with torch.enable_grad():
            block, carried = _differentiable(block, carried)
            known = [one.detach().requires_grad_() for one in known]
            energy, invariants = model("energy", self.T - 1, block, carried, known)
            slopes = torch.autograd.grad(energy.sum(), [block.edge_vector, *carried, *known])
        return [energy.detach(), features([invariants.detach()]), *slopes]


class _Stateful:
    """Calls parts of a model with its parameters and buffers replaced by given tensors."""

    def __init__(
        self, model: GraphACE, tables: Sequence[RadialTable] | None, state: dict[str, Tensor]
    ) -> None:
        self.parts = _Parts(model, tables)
        self.state = {f"model.{name}": one for name, one in state.items()}

    def __call__(self, *arguments: object) -> tuple[Tensor, ...]:
        return functional_call(self.parts, self.state, arguments)  # type: ignore[no-any-return]


class _Parts(torch.nn.Module):
    """What a block asks of a model."""

    def __init__(self, model: GraphACE, tables: Sequence[RadialTable] | None) -> None:
        super().__init__()
        self.model, self.tables = model, tables

    def forward(
        self, what: str, t: int, block: Block, carried: list[Tensor], known: Sequence[Tensor] = ()
    ) -> tuple[Tensor | None, ...]:
        model = self.model
        tables = self.tables
        r, bonds = model.bonds(
            block.edge_vector, block.species, block.neighbour_species, tabulated=tables is not None
        )
        if tables is not None:
            bonds = bonds._replace(table=tables[t])
        message, invariants = model.layers[t](
            bonds, carried[0].flatten(0, 1) if carried else None, block.species
        )
        rho = model.densities(t, invariants, block.species)
        closeness = model.closeness(r, bonds, block.species)
        if what == "layer":
            return faded(message, closeness), rho, invariants
        return model.energy([*known, rho], r, bonds, block.species, closeness), invariants


def _differentiable(block: Block, carried: list[Tensor]) -> tuple[Block, list[Tensor]]:
    block = block._replace(edge_vector=block.edge_vector.detach().requires_grad_())
    return block, [one.detach().requires_grad_() for one in carried]
