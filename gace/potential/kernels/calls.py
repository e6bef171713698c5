"""What all kernels share: when they run, and how arrays are handed to C."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from gace.potential.kernels.build import library

_NAMES = {torch.float32: "float", torch.float64: "double"}

operators = torch.library.Library("gace", "DEF")
"""The namespace of the operators, ``torch.ops.gace``."""


_wanted = ContextVar("kernels", default=True)


def available(x: Tensor) -> bool:
    """Whether the kernels run on ``x``: on the processor, in single or double precision."""
    return x.device.type == "cpu" and x.dtype in _NAMES and _wanted.get() and library() is not None


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


def no_third_derivative(ctx: object, *gradients: Tensor | None) -> None:
    """Backward formula of operators that are second derivatives themselves."""
    raise NotImplementedError("third derivatives of the potential are not implemented on the processor")
