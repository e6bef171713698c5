"""CUDA C++ to kernels that can be launched: once per machine, kept in the user's cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gace.errors import InputError
from gace.files import write_atomic

Launch = Callable[..., None]
"""From ``grid``, ``block`` and ``args`` (tensors and integers) to work on the current stream."""

BLOCK = 128
"""Threads of a block, as the sources have it."""


@functools.cache
def supported() -> bool:
    """Whether this PyTorch compiles CUDA C++ (2.9 and later; ``GACE_CUDA_SOURCE=off`` says no)."""
    if torch.version.cuda is None or os.environ.get("GACE_CUDA_SOURCE", "").lower() == "off":
        return False
    try:
        from torch.cuda._utils import _cuda_load_module, _nvrtc_compile  # noqa: F401
    except ImportError:
        return False
    return True


def compiled(name: str, source: str, device: torch.device, options: tuple[str, ...] = ()) -> Launch | None:
    """The kernel ``name``; None where it cannot be made, which is said once.

    Args:
        name: of an ``extern "C"`` function.
        source: CUDA C++ that includes nothing.
        device: the GPU it is for.
        options: of the compiler.
    """
    from torch.cuda._utils import _cuda_load_module, _nvrtc_compile

    try:
        capability = "".join(map(str, torch.cuda.get_device_capability(device)))
        key = hashlib.sha256(f"{torch.__version__} {capability} {options} {source}".encode()).hexdigest()[:20]
        path = _cache() / f"{name}-{key}.cubin"
        with torch.cuda.device(device):
            if path.exists():
                # a file that a full disk or a crash has cut short is made anew
                with contextlib.suppress(OSError, RuntimeError, KeyError):
                    kept: Any = _cuda_load_module(path.read_bytes(), [name])
                    return kept[name]  # type: ignore[no-any-return]
            code, _ = _nvrtc_compile(source, name, capability, nvcc_options=list(options))
            made: Any = _cuda_load_module(code, [name])
            _keep(path, code)
            return made[name]  # type: ignore[no-any-return]
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        warnings.warn(f"{name} could not be compiled, the general kernel does it: {error}", stacklevel=2)
        return None


def launch(kernel: Launch, threads: int, arguments: list[Tensor | int]) -> None:
    """Run a kernel with one thread for each of ``threads`` elements, on the device of the first argument."""
    assert isinstance(arguments[0], Tensor)
    with torch.cuda.device(arguments[0].device):
        kernel(grid=(-(-threads // BLOCK), 1, 1), block=(BLOCK, 1, 1), args=arguments)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gace"


def _keep(path: Path, code: bytes) -> None:
    """Write to a file of its own, then move it into place: others may be doing the same.

    Where there is no room the kernel in hand does as well.
    """
    with contextlib.suppress(OSError, InputError):
        write_atomic(path, code)
