"""Energies and gradients by compiled code, with the plain evaluation while code is being made."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from gace.errors import InputError
from gace.potential.compilation import CompiledFunction, compiler_available
from gace.potential.derivatives import Prediction, energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.structures.graph import Graph, forces_from_edges, sum_structures, virial_from_edges

Path = Literal["eager", "compiled", "auto"]
"""``eager``: operation by operation; ``compiled``: wait for the code of each new shape; ``auto``:
evaluate operation by operation until the code is there (results change in the last digits then)."""

Evaluate = Callable[[Graph], Prediction]

MAX_SHAPES = 16
"""Shapes for which code is made; graphs of further shapes are evaluated operation by operation."""


def evaluators(members: list[GraphACE], path: str) -> list[Evaluate]:
    """One function from graph to prediction per member; members of one architecture share their code.

    Raises:
        InputError: an unknown path, or ``compiled`` without a C++ compiler.
    """
    if path not in ("eager", "compiled", "auto"):
        raise InputError(f"no path called '{path}': choose eager, compiled or auto")
    if path == "compiled" and not compiler_available():
        raise InputError("the compiled path needs a C++ compiler (c++, g++ or clang++) on the PATH")
    if path == "eager" or not compiler_available():
        return [partial(energy_and_gradients, member) for member in members]
    codes: dict[str, Code] = {}
    result: list[Evaluate] = []
    for member in members:
        code = codes.setdefault(_architecture(member), Code(member, wait=path == "compiled"))
        result.append(partial(code, member))
    return result


class Code:
    """Compiled energy and gradients of one architecture, one function per shape of graph.

    Neighbour slots are padded to a coarse grid, so that lists that breathe keep their shape.

    Args:
        model: any model of the architecture; parameters are taken from the model of each call.
        wait: whether a call waits for missing code or evaluates the model operation by operation.

    Attributes:
        seconds: time spent on making code so far.
    """

    def __init__(self, model: GraphACE, *, wait: bool) -> None:
        self.names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
        self.cutoff, self.wait = model.cutoff, wait
        self.functions: dict[tuple[int, ...], CompiledFunction] = {}
        self.seconds = 0.0
        self._making: set[tuple[int, ...]] = set()
        self._failed = False

    def __call__(self, model: GraphACE, graph: Graph) -> Prediction:
        """Evaluate ``model``, by compiled code if it is there."""
        graph = pad_slots(graph, self.cutoff)
        key = (*graph.neighbour.shape, graph.n_structures)
        function = self.functions.get(key)
        if function is None and not self._failed and len(self._making) < MAX_SHAPES:
            if self.wait:
                self._make(key, model, graph)
            elif key not in self._making:
                threading.Thread(target=self._make, args=(key, model, graph), daemon=True).start()
            self._making.add(key)
            function = self.functions.get(key)
        if function is None:
            return energy_and_gradients(model, graph)
        return Prediction(*function(*self._state(model), *graph))

    def _state(self, model: GraphACE) -> list[Tensor]:
        return [one.detach() for one in (*model.parameters(), *model.buffers())]

    def _make(self, key: tuple[int, ...], model: GraphACE, graph: Graph) -> None:
        """Make the code for one shape; a failure leaves the plain evaluation in place."""

        def evaluate(*arguments: Tensor) -> list[Tensor]:
            state = dict(zip(self.names, arguments[: len(self.names)], strict=True))
            graph = Graph(*arguments[len(self.names) :])
            edge_vector = graph.edge_vector.detach().requires_grad_()
            graph = graph._replace(edge_vector=edge_vector)
            with torch.enable_grad():
                output = functional_call(model, state, (graph,))
                (gradient,) = torch.autograd.grad(output.energy.sum(), edge_vector)
            values = Prediction(
                sum_structures(output.energy, graph),
                forces_from_edges(gradient, graph),
                virial_from_edges(gradient, graph),
                output.energy,
                output.features,
            )
            return [one.detach() for one in values]

        try:
            made = CompiledFunction(evaluate, [*self._state(model), *graph])
        except Exception as error:  # whatever the compiler says, there is a slower way
            self._failed = True
            warnings.warn(f"no compiled code could be made, going on without: {error}", stacklevel=2)
            return
        self.seconds += made.seconds
        self.functions[key] = made


def pad_slots(graph: Graph, cutoff: float) -> Graph:
    """The graph with its neighbour axis padded to a multiple of about a sixteenth of its length."""
    N, J = graph.neighbour.shape
    step = max(1, 2 ** (J.bit_length() - 4))
    more = -J % step
    if more == 0:
        return graph
    own = torch.arange(N, device=graph.neighbour.device)[:, None].expand(N, more)
    far = graph.edge_vector.new_zeros(N, more, 3)
    far[..., 0] = 2 * cutoff
    return graph._replace(
        neighbour=torch.cat([graph.neighbour, own], dim=1),
        edge_vector=torch.cat([graph.edge_vector, far], dim=1),
    )


def _architecture(model: GraphACE) -> str:
    """What compiled code depends on."""
    values = model.hyperparameters()
    kept = {k: v for k, v in values.items() if k not in ("seed", "scale", "mean_neighbours")}
    return repr(sorted(kept.items()))
