"""What the Triton kernels share: whether they can run, and sizes of their blocks."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os

import torch
from torch import Tensor

PROGRAMS = 8192
"""Programs that keep a large GPU busy; work on few atoms is cut finer until there are so many."""


@functools.cache
def installed() -> bool:
    """Whether Triton is there (PyTorch's packages for CUDA bring it)."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether arrays on the processor go through the kernels too, in Triton's interpreter.

    Asked for by ``GACE_KERNELS=triton`` together with ``TRITON_INTERPRET=1``, for tests: it is slow.
    """
    return (
        os.environ.get("GACE_KERNELS", "").lower() == "triton"
        and os.environ.get("TRITON_INTERPRET") == "1"
        and installed()
    )


def runs_on(x: Tensor) -> bool:
    """Whether the Triton kernels are those for the device of ``x``."""
    if x.device.type == "cuda":
        return installed() and os.environ.get("GACE_KERNELS", "").lower() != "off"
    return x.device.type == "cpu" and interpreted()


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()


def channel_block(channels: int) -> int:
    """Channels that one program takes."""
    return min(power_of_two(channels), 32)


def warps(elements: int) -> int:
    """Warps for a tile, 32 elements a thread: most tiles are one warp's, which waits for no other."""
    return max(1, min(8, elements // 1024))


def cuts(programs: int, most: int, x: Tensor) -> int:
    """Into how many parts the work of each of so many programs is cut."""
    return 1 if x.device.type == "cpu" else max(1, min(most, PROGRAMS // max(1, programs)))


def device_of(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Context in which kernels on ``x`` are launched."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()
