"""Small systems on a GPU: a whole evaluation recorded once as a CUDA graph and replayed.

Below some thousand atoms a GPU waits for several hundred kernels to be launched one by one. An evaluation
whose shapes have been seen is recorded with its inputs and outputs at fixed places; later ones copy
their inputs there and launch everything at once. The numbers are those of the evaluation that was recorded.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gace.potential.derivatives import Prediction
from gace.structures.graph import Graph

MAX_RECORDINGS = 16
"""Shapes that are recorded at most; each keeps the memory of an evaluation."""

SEEN = 3
"""A shape is recorded when it comes for this time: what comes once or twice is not worth it."""

Evaluate = Callable[[Graph], Prediction]


class Recorder(Protocol):
    """Runs a function once and gives a function that runs the same again on the same memory."""

    def __call__(
        self, function: Callable[[], Sequence[Tensor]]
    ) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """The function that runs it again, and where the results lie."""
        ...


def wanted(device: torch.device) -> bool:
    """Whether evaluations on this device are recorded."""
    return device.type == "cuda" and os.environ.get("GACE_CUDA_GRAPHS", "").lower() != "off"


class CudaGraphs:
    """The recorder of GPUs. What one of them records shares memory: it is replayed one at a time."""

    def __init__(self) -> None:
        self._first: torch.cuda.CUDAGraph | None = None  # its memory is there as long as it is

    def __call__(
        self, function: Callable[[], Sequence[Tensor]]
    ) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """See :class:`Recorder`."""
        # libraries choose their algorithms and take their memory at the first calls, apart from the recording
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=None if self._first is None else self._first.pool()):
            results = function()
        self._first = self._first or graph
        return graph.replay, results


class Recorded:
    """An evaluation of graphs, by recordings of the shapes that come again and again.

    A copy begins with no recordings: they are bound to the memory of this one.

    Args:
        evaluate: what is recorded; nothing in it may depend on values that the processor looks at.
        record: the recorder; default: CUDA graphs.
        max_bonds: bonds, padding included, up to which evaluations are recorded.

    Attributes:
        recordings: by shape.
        replays: how many evaluations were replayed.
    """

    def __init__(
        self, evaluate: Evaluate, record: Recorder | None = None, max_bonds: int = 1_000_000
    ) -> None:
        self.evaluate, self.record, self.max_bonds = evaluate, record or CudaGraphs(), max_bonds
        self.recordings: dict[tuple[int, ...], _Recording] = {}
        self.replays = 0
        self._seen: dict[tuple[int, ...], int] = {}
        self._failed = False

    def __reduce__(self) -> tuple[type[Recorded], tuple[Evaluate, Recorder | None, int]]:
        record = None if isinstance(self.record, CudaGraphs) else self.record
        return type(self), (self.evaluate, record, self.max_bonds)

    def __call__(self, graph: Graph) -> Prediction:
        """As ``evaluate`` says."""
        shape = (*graph.neighbour.shape, graph.n_structures)
        found = self.recordings.get(shape)
        if found is None and self._wanted(shape):
            found = self._make(shape, graph)
        if found is None:
            return self.evaluate(graph)
        self.replays += 1
        return found(graph)

    def _wanted(self, shape: tuple[int, ...]) -> bool:
        if self._failed or shape[0] * shape[1] > self.max_bonds or len(self.recordings) >= MAX_RECORDINGS:
            return False
        self._seen[shape] = self._seen.get(shape, 0) + 1
        return self._seen[shape] >= SEEN

    def _make(self, shape: tuple[int, ...], graph: Graph) -> _Recording | None:
        """A recording; a failure leaves the plain evaluation in place."""
        try:
            self.recordings[shape] = _Recording(self.evaluate, graph, self.record)
        except RuntimeError as error:  # an operation that cannot be recorded, or no memory
            self._failed = True
            warnings.warn(f"no evaluation could be recorded, going on without: {error}", stacklevel=3)
        return self.recordings.get(shape)


class _Recording:
    """One evaluation on inputs at fixed places."""

    def __init__(self, evaluate: Evaluate, example: Graph, record: Recorder) -> None:
        self.inputs = Graph(*(one.detach().clone() for one in example))
        self.replay, self.outputs = record(lambda: tuple(evaluate(self.inputs)))

    def __call__(self, graph: Graph) -> Prediction:
        for place, value in zip(self.inputs, graph, strict=True):
            place.copy_(value)
        self.replay()
        # the next replay writes to the same places
        return Prediction(*(one.clone() for one in self.outputs))


class RecordedFunction:
    """A function of tensors, recorded for the shapes of its example; calls with other shapes are errors.

    Args:
        function: of tensors alone; may differentiate internally.
        example: arguments with the shapes, types and devices of later calls.
        fixed: number of arguments at the front that stay where they are in memory (parameters); the rest
            is copied.
        record: the recorder; default: CUDA graphs.

    Attributes:
        seconds: wall time that recording took.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        example: Sequence[Tensor],
        fixed: int = 0,
        record: Recorder | None = None,
    ) -> None:
        started = time.monotonic()
        self._arguments = [
            one.detach() if position < fixed else one.detach().clone() for position, one in enumerate(example)
        ]
        record = record or CudaGraphs()
        self._replay, self._results = record(lambda: tuple(function(*self._arguments)))
        self.seconds = time.monotonic() - started

    def __call__(self, *arguments: Tensor) -> Sequence[Tensor]:
        """The function's values, which the next call overwrites; not differentiable any further."""
        for place, value in zip(self._arguments, arguments, strict=True):
            if place.data_ptr() != value.data_ptr():
                place.copy_(value.detach())
        self._replay()
        return self._results
