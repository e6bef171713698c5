"""Where tensors live and how precise they are, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from gace.errors import InputError, nearest

Function = TypeVar("Function", bound=Callable[..., Any])

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve_device(device: str | torch.device) -> torch.device:
    """A torch device by name; ``auto`` is the GPU where there is one.

    Raises:
        InputError: an unknown device, or a GPU asked for where none is.
    """
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(
            f"no device called '{device}'{nearest(str(device), ['auto', 'cpu', 'cuda'])}"
        ) from None
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("device 'cuda' was asked for, but torch sees no GPU; use device 'cpu'")
        return torch.device("cuda", found.index or 0)
    return found


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``float32`` or ``float64`` as torch's dtype.

    Raises:
        InputError: anything else.
    """
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InputError(f"no dtype called '{dtype}'{nearest(dtype, DTYPES)}")
    return DTYPES[dtype]


def differentiating(function: Function) -> Function:
    """Let a function differentiate, whatever its caller has switched off.

    Tensors made in PyTorch's inference mode can never be differentiated through, and forces are derivatives.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


MATMUL = {"ieee": "highest", "tf32": "high"}
"""Names of PyTorch for the precision of matrix products in float32 on a GPU."""


@contextmanager
def matmul_precision(name: str, device: torch.device) -> Iterator[None]:
    """Matrix products of float32 on a GPU: ``ieee``, or ``tf32``, whose factors have 10 bits after the point.

    Whatever the process has set holds again afterwards; on a processor nothing is changed.

    Raises:
        InputError: another name.
    """
    if name not in MATMUL:
        raise InputError(f"no precision of matrix products called '{name}'{nearest(name, MATMUL)}")
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MATMUL[name])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
