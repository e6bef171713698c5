"""Trace a function of tensors, its derivatives included, into one graph and compile it.

A potential's step is thousands of small operations, and on small systems their bookkeeping costs
more than their arithmetic. ``torch.compile`` alone cannot differentiate twice through compiled
code, so the whole step — energies, forces, loss and gradients — is first recorded as one flat
graph without autograd, and that is compiled. The generated code is kept in the compiler's own
cache on disk, keyed by the graph: a second process with the same architecture and shapes finds it.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Flat = Callable[..., Sequence[Tensor]]
"""A function of tensors that gives a sequence of tensors."""


def compiler_available() -> bool:
    """Whether generated C++ can be built on this machine."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


class CompiledFunction:
    """A function compiled for the shapes of its example; calls with other shapes are errors.

    Args:
        function: of tensors alone; may differentiate internally. Python branches are frozen as the
            example takes them.
        example: arguments with the shapes, types and devices of later calls.

    Attributes:
        seconds: wall time that tracing and compiling took.
    """

    def __init__(self, function: Flat, example: Sequence[Tensor]) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        started = time.monotonic()
        example = [one.detach() for one in example]
        graph = make_fx(function)(*example)
        with torch.no_grad(), _compiling() as placeholder:
            self._call: Callable[..., Any] = torch._inductor.compile(graph, [placeholder(x) for x in example])
            self._call(*example)  # what is left to be built is built at the first call
        self.seconds = time.monotonic() - started

    def __call__(self, *arguments: Tensor) -> Sequence[Tensor]:
        """The function's values; not differentiable any further."""
        with torch.no_grad():
            return self._call(*arguments)  # type: ignore[no-any-return]


@contextmanager
def _compiling() -> Iterator[Callable[[Tensor], Tensor]]:
    """Compiler settings, and a function that gives a tensor without content for one with."""
    import torch._inductor
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # the cache on disk is used only where a shape environment is present, though all shapes are fixed
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    settings = {"cpp.threads": torch.get_num_threads(), "compile_threads": 1}
    with config.patch(settings), tracing(TracingContext(fake)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda tensor: fake.from_tensor(tensor, static_shapes=True)
