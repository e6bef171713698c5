"""What all kernels share: when they run, and how arrays are handed to C."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gace.potential.kernels.build import library
from gace.potential.kernels.triton.launch import runs_on

_NAMES = {torch.float32: "float", torch.float64: "double"}

operators = torch.library.Library("gace", "DEF")
"""The namespace of the operators, ``torch.ops.gace``."""


_wanted = ContextVar("kernels", default=True)


def available(x: Tensor) -> bool:
    """Whether there are kernels for ``x``: in single or double precision, on a processor or a GPU."""
    if x.dtype not in _NAMES or not _wanted.get():
        return False
    return runs_on(x) or (x.device.type == "cpu" and library() is not None)


def in_c(x: Tensor) -> bool:
    """Whether the kernels for ``x`` are those in C++, which can be called without PyTorch's operators."""
    return x.device.type == "cpu" and available(x) and library() is not None and not runs_on(x)


def fused(name: str, x: Tensor) -> ModuleType | None:
    """The Triton kernels called ``name`` where they are those for ``x``; None: the C++ kernels are."""
    return importlib.import_module(f"gace.potential.kernels.triton.{name}") if runs_on(x) else None


def implement(name: str, function: Callable[..., Any]) -> None:
    """Make ``function`` the operator ``name`` on processors and GPUs."""
    for device in ("CPU", "CUDA"):
        operators.impl(name, function, device)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Evaluate by plain PyTorch, for code that must run where the kernels are not."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def call(name: str, dtype: torch.dtype, *arguments: Tensor | Sequence[int] | None) -> None:
    """Call the C function ``name``; contiguous tensors go as pointers, None as null, numbers as int64."""
    function = getattr(library(), f"{name}_{_NAMES[dtype]}")
    function(*map(_c, arguments), ctypes.c_int(torch.get_num_threads()))


def _c(argument: Tensor | Sequence[int] | None) -> object:
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return (ctypes.c_int64 * len(argument))(*argument)


def folded(x: Tensor, dim: int | None, members: int) -> Tensor:
    """Members side by side along the first axis ``(M, n, …) -> (M n, …)``; what they share is repeated.

    The kernels treat every atom by itself, so a batch of evaluations (``torch.vmap``) is one of more atoms.
    """
    if x.numel() == 0:  # stands for nothing
        return x.reshape(0)
    x = x.expand(members, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def no_third_derivative(ctx: object, *gradients: Tensor | None) -> None:
    """Backward formula of operators that are second derivatives themselves."""
    raise NotImplementedError("third derivatives of the potential are not implemented in the kernels")
