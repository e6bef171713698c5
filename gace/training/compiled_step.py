"""Loss and gradients of a batch by compiled code, one piece of code per shape of batch.

On a GPU nothing is compiled: the step is recorded as a CUDA graph and replayed, for the same reason, that
thousands of small operations cost more to be launched than to be done.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from gace.errors import InputError
from gace.potential.compilation import CompiledFunction, compiler_available
from gace.potential.graph_ace import AtomicOutput, GraphACE
from gace.potential.recorded import CudaGraphs, RecordedFunction, wanted
from gace.structures.graph import Graph
from gace.training.batches import Batch, Packed
from gace.training.config import TrainConfig
from gace.training.losses import Weights, loss_terms
from gace.training.sampler import Sampler

MAX_SHAPES = 8
"""Shapes of batches that are compiled; batches of further shapes are evaluated operation by operation."""

LEAST_SHARE = 1 / 16
"""Share of the batches that have a shape, from which on the minute its code takes is well spent."""


COMPILE_FROM_STEPS, COMPILE_FROM_MINUTES = 10_000, 10
"""Planned steps, and minutes if they are limited, from which compiling pays where nobody decided."""

Make = Callable[[Callable[..., list[Tensor]], list[Tensor], int], CompiledFunction | RecordedFunction]
"""From a function, an example of its arguments, and how many at the front never move."""


class Largest(NamedTuple):
    """Size of a typical large batch, to which others are padded."""

    atoms: int
    slots: int
    """Neighbour slots of an atom."""
    structures: int

    def shape(self, atoms: int, slots: int) -> tuple[int, int]:
        """Atoms and neighbour slots of a padded batch."""
        return _bucket(atoms, self.atoms), _bucket(slots, self.slots)


class CompiledStep:
    """Loss terms and gradients of a batch, as :func:`gace.training.losses.loss_terms` defines them.

    Batches of unequal size are padded to few shapes with atoms that interact with nothing and have
    no labels. What is compiled when depends on the batches alone, so that a resumed run does the same.

    Args:
        model: the potential; its parameters are read at every call.
        kind: penalty of a residual.
        complete: True if no energy or force label of the data set is missing.
        largest: what batches are padded to; None if all structures have equally many atoms and
            neighbour slots, so that batches need no padding.
        shapes: padded atoms and slots that are worth compiling; None: all.
        make: makes the code of one shape.

    Attributes:
        seconds: wall time spent on compiling so far.
    """

    def __init__(
        self,
        model: GraphACE,
        kind: Callable[[Tensor], Tensor],
        *,
        complete: bool,
        largest: Largest | None,
        shapes: frozenset[tuple[int, int]] | None = None,
        make: Make | None = None,
    ) -> None:
        self.model, self.kind, self.shapes, self.make = model, kind, shapes, make or _compiled
        self.complete, self.largest = complete and largest is None, largest
        self.trainable = [name for name, one in model.named_parameters() if one.requires_grad]
        self.constant = [name for name, one in model.named_parameters() if not one.requires_grad]
        self.constant += [name for name, _ in model.named_buffers()]
        self.compiled: dict[tuple[int, ...], CompiledFunction | RecordedFunction] = {}
        self.seconds, self.failed = 0.0, False

    def __call__(self, batch: Batch, weights: Weights) -> tuple[Tensor, list[Tensor]]:
        """Terms ``(4,)`` and one gradient per trainable parameter."""
        if self.largest is not None:
            batch = pad(batch, self.model.cutoff, self.largest)
        values = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        state = [values[name] for name in (*self.trainable, *self.constant)]
        graph, *labels = batch
        amounts = [batch.energy.new_tensor(weight) for weight in weights]
        arguments = [*state, *graph, *labels, *amounts]
        key = (*graph.neighbour.shape, graph.n_structures, weights.forces > 0, weights.stress > 0)
        found = self.compiled.get(key)
        if found is None:
            step = self._flat(weights)
            atoms, slots = graph.neighbour.shape
            worth = self.shapes is None or (atoms, slots) in self.shapes
            if worth and len(self.compiled) < MAX_SHAPES and not self.failed:
                found = self._make(key, step, arguments)
            if found is None:
                terms, *gradients = step(*arguments)
                return terms, gradients
        terms, *gradients = found(*arguments)
        return terms, gradients

    def _make(
        self, key: tuple[int, ...], step: Callable[..., list[Tensor]], arguments: list[Tensor]
    ) -> CompiledFunction | RecordedFunction | None:
        """Code for one shape; None if the compiler fails, which does not end a training."""
        try:
            made = self.make(step, arguments, len(self.trainable) + len(self.constant))
        except Exception as error:  # whatever the compiler says, there is a slower way
            self.failed = True
            warnings.warn(
                f"the step could not be compiled or recorded, going on without: {error}", stacklevel=2
            )
            return None
        self.compiled[key] = made
        self.seconds += made.seconds
        return made

    def _flat(self, present: Weights) -> Callable[..., list[Tensor]]:
        """The step as a function of tensors alone; weights that are zero now stay zero."""
        n_trainable, n_state = len(self.trainable), len(self.trainable) + len(self.constant)
        n_graph = len(Graph._fields)

        def step(*arguments: Tensor) -> list[Tensor]:
            parameters = [one.detach().requires_grad_() for one in arguments[:n_trainable]]
            state = [*parameters, *arguments[n_trainable:n_state]]
            rest = arguments[n_state:]
            batch = Batch(Graph(*rest[:n_graph]), *rest[n_graph:-3])
            weights = Weights(*rest[-3:])  # type: ignore[arg-type]
            names = (*self.trainable, *self.constant)
            evaluate = _Functional(self.model, dict(zip(names, state, strict=True)))
            terms = loss_terms(evaluate, batch, weights, self.kind, self.complete, present)
            gradients = torch.autograd.grad(terms[0], parameters, allow_unused=True)
            filled = [
                torch.zeros_like(one) if gradient is None else gradient
                for one, gradient in zip(parameters, gradients, strict=True)
            ]
            return [terms.detach(), *filled]

        return step


def _compiled(step: Callable[..., list[Tensor]], arguments: list[Tensor], fixed: int) -> CompiledFunction:
    return CompiledFunction(step, arguments)


def compiled_step(
    config: TrainConfig, model: GraphACE, train: Packed, sampler: Sampler, kind: Callable[..., Tensor]
) -> CompiledStep | None:
    """The compiled step where it is asked for, or pays: decided by the plan, never by the clock.

    On a GPU the recorded step, unless ``training.compile`` is false.

    Raises:
        InputError: asked for, and there is no compiler.
    """
    settings = config.training
    recorded = wanted(train.device)
    if settings.compile is False or (train.device.type == "cuda" and not recorded):
        return None
    if not recorded and not compiler_available():
        if settings.compile is True:
            raise InputError("training.compile needs a C++ compiler (c++, g++ or clang++) on the PATH")
        return None
    if settings.compile is None and not recorded:
        planned = settings.max_steps or settings.max_epochs * sampler.steps_per_epoch
        if planned < COMPILE_FROM_STEPS or (settings.max_minutes or math.inf) < COMPILE_FROM_MINUTES:
            return None
    largest, shapes = None, None
    if not train.uniform:
        batches = [one for epoch in range(4) for one in sampler.batches(epoch)]
        largest = Largest(
            max(int(train.sizes[one].sum()) for one in batches),
            int(train.slots.max()),
            max(len(one) for one in batches),
        )
        seen = Counter(
            largest.shape(int(train.sizes[one].sum()), int(train.slots[one].max())) for one in batches
        )
        shapes = frozenset(shape for shape, n in seen.items() if n >= LEAST_SHARE * len(batches))
    make = partial(RecordedFunction, record=CudaGraphs()) if recorded else None
    return CompiledStep(model, kind, complete=train.complete, largest=largest, shapes=shapes, make=make)


class _Functional:
    """A model with its parameters and buffers replaced by given tensors."""

    def __init__(self, model: GraphACE, state: dict[str, Tensor]) -> None:
        self.model, self.state = model, state

    def __call__(self, graph: Graph) -> AtomicOutput:
        return functional_call(self.model, self.state, (graph,))  # type: ignore[no-any-return]


def pad(batch: Batch, cutoff: float, largest: Largest, *, whole: bool = False) -> Batch:
    """The batch with atoms, neighbour slots and structures added, up to a coarse grid of shapes.

    ``whole``: up to the largest shape itself.

    Added atoms belong to an added structure, have no neighbours within ``cutoff`` (Å) and no
    labels, so that neither loss nor gradients change.
    """
    graph, n_atoms, energy, forces, virial, weight = batch
    N, J = graph.neighbour.shape
    atoms, slots = (largest.atoms, largest.slots) if whole else largest.shape(N, J)
    more, slots = atoms - N, slots - J
    added = max(largest.structures - graph.n_structures, 0) + 1
    device, vector = graph.neighbour.device, graph.edge_vector
    index = torch.arange(N + more, device=device)[:, None]
    neighbour = index.repeat(1, J + slots)
    neighbour[:N, :J] = graph.neighbour
    edge_vector = vector.new_zeros(N + more, J + slots, 3)
    edge_vector[..., 0] = 2 * cutoff
    edge_vector[:N, :J] = vector
    structure = torch.nn.functional.pad(graph.structure, (0, more), value=graph.n_structures)
    padded = Graph(
        torch.nn.functional.pad(graph.species, (0, more)),
        neighbour,
        edge_vector,
        structure,
        torch.nn.functional.pad(graph.volume, (0, added), value=math.nan),
    )
    return Batch(
        padded,
        torch.nn.functional.pad(n_atoms, (0, added), value=1.0),
        torch.nn.functional.pad(energy, (0, added), value=math.nan),
        torch.nn.functional.pad(forces, (0, 0, 0, more), value=math.nan),
        torch.nn.functional.pad(virial, (0, 0, 0, 0, 0, added), value=math.nan),
        torch.nn.functional.pad(weight, (0, 0, 0, added)),
    )


def _bucket(n: int, largest: int) -> int:
    """``n`` rounded up to a quarter, a half, three quarters or the whole of ``largest``."""
    quarter = max(1, -(-largest // 4))
    return -(-n // quarter) * quarter
