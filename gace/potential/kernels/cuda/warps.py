"""Kernels in which lanes of a warp work together: the code that is compiled for each shape.

The sources are ``*.cu`` beside this file; numbers that loops run over are defined in front of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

HERE = Path(__file__).parent

REGISTERS = {1: 192, 2: 64, 4: 64}
"""Numbers of 4 bytes of the density that a lane may hold if it has so many channels. More channels a lane
mean fewer instructions, fewer registers that more warps hide each other's waiting (measured on an H200)."""

SHARED = 48 << 10
"""Bytes of shared memory that a block has without asking."""

_REAL = {torch.float32: "float", torch.float64: "double"}


def source(name: str, dtype: torch.dtype, **numbers: int) -> str:
    """``name``.cu for a precision, with these numbers defined in front."""
    suffix = "f" if dtype == torch.float32 else ""
    lines = [
        (HERE / "warp.cuh").read_text(),
        f"typedef {_REAL[dtype]} real;",
        f"#define SQRT sqrt{suffix}",
        f"#define EXP exp{suffix}",
        *(f"constexpr int {key} = {value};" for key, value in numbers.items()),
        (HERE / f"{name}.cu").read_text(),
    ]
    return "\n".join(lines)


class Shape(NamedTuple):
    """How the work on a density is shared out."""

    lane: int
    """Channels of a lane."""
    warp: int
    """Channels of a warp."""
    warps: int
    """Warps of a block."""
    blocks: int
    """Blocks that shall fit a multiprocessor."""


def shape(degrees: int, components: int, channels: int, dtype: torch.dtype) -> Shape | None:
    """The most channels a lane can have; None where no warp can do such work."""
    size = torch.finfo(dtype).bits // 8
    held = degrees**2 * components * size // 4
    # as many warps as shared memory is there for
    each = 32 * (stride(degrees**2 + 1, size) + stride(11, size)) * size + 3 * 32 * 4
    warps = min(4, SHARED // each)
    for lane in (4, 2, 1):
        warp = min(channels, 32 * lane)
        lanes = warp // lane
        if (
            warps > 0
            and lane * size <= 16
            and warp % lane == 0
            and channels % warp == 0
            and lanes & (lanes - 1) == 0
            and lanes > 0
            and lane * held <= REGISTERS[lane]
        ):
            fit = 65536 // (32 * warps) / (lane * held + 65 * size // 4)
            return Shape(lane, warp, warps, max(1, min(4, round(fit))))
    return None


def stride(numbers: int, size: int) -> int:
    """As in ``splined.cu``."""
    unit = 16 // size
    return (-(-numbers // unit) | 1) * unit


@functools.cache
def splined(
    degrees: int,
    harmonics: int,
    components: int,
    channels: int,
    dtype: torch.dtype,
    carried: bool,
    gathered: bool,
    mode: int,
) -> tuple[str, Shape] | None:
    """Code of both kernels of ``splined.cu``, and how the work is shared out."""
    found = shape(degrees, components, channels, dtype)
    if found is None:
        return None
    code = source(
        "splined", dtype, L=degrees, LM=harmonics, C=components, K=channels, KB=found.warp, V=found.lane,
        WARPS=found.warps, BLOCKS=found.blocks, CARRIED=int(carried), GATHERED=int(gathered), MODE=mode,
    )  # fmt: skip
    return code, found


@functools.cache
def geometry(degrees: int, dtype: torch.dtype) -> tuple[str, int] | None:
    """Code of both kernels of ``geometry.cu``, and warps of a block."""
    size = torch.finfo(dtype).bits // 8
    warps = min(4, SHARED // (32 * (degrees**2 | 1) * size))
    if warps == 0:
        return None

    def rows(of: Sequence[Sequence[float]]) -> str:
        return "{" + ", ".join("{" + ", ".join(f"real({x!r})" for x in row) + "}" for row in of) + "}"

    factors = [[_raise(l, m) if l > m else (0.0, 0.0) for m in range(degrees)] for l in range(degrees)]
    top = [((2 * m + 1) / (2 if m > 1 else 1) / m) ** 0.5 if m else 1.0 for m in range(degrees)]
    tables = (
        f"constexpr real RAISE[{degrees}][{degrees}] = {rows([[a for a, _ in row] for row in factors])};\n"
        f"constexpr real LOWER[{degrees}][{degrees}] = {rows([[b for _, b in row] for row in factors])};\n"
        f"constexpr real TOP[{degrees}] = {rows([top])[1:-1]};\n"
    )
    code = source("geometry", dtype, L=degrees, WARPS=warps)
    return code.replace("\nconstexpr int LL", "\n" + tables + "constexpr int LL", 1), warps


def _raise(l: int, m: int) -> tuple[float, float]:
    """Factors of ``Q[l, m] = a (z Q[l-1, m] - b Q[l-2, m])``."""
    a = ((4 * l * l - 1) / (l * l - m * m)) ** 0.5
    b = (((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) ** 0.5
    return float(a), float(b)


@functools.cache
def sums(power: int, repulsion: bool, inner: bool, dtype: torch.dtype) -> str:
    """Code of both kernels of ``sums.cu``; four warps a block."""
    numbers = dict(POWER=power, REPULSION=int(repulsion), INNER=int(inner), CONSTANTS=6, WARPS=4)
    return source("sums", dtype, **numbers)


@functools.cache
def mixed(
    dims: tuple[int, ...],
    counts: tuple[int, ...],
    channels: tuple[int, int],
    dtype: torch.dtype,
    transposed: bool,
) -> tuple[str, int, int] | None:
    """Code of ``mixed.cu`` for ``(N, rows, channels[0]) -> (N, rows', channels[1])``.

    Returns:
        The code, number of jobs and channels of a block; None where a block cannot do it. With ``transposed``
        what is read has a row per component, what is written one per component and path.
    """
    size = torch.finfo(dtype).bits // 8
    jobs, rows, components, path = [], 0, 0, 0
    for dim, count in zip(dims, counts, strict=True):
        if transposed:
            jobs += [(dim, components, 1, 1, rows + p, count, path + p) for p in range(count)]
        else:
            jobs.append((dim, rows, count, count, components, 1, path))
        rows, components, path = rows + dim * count, components + dim, path + count
    block, most = min(32, channels[1]), 1 if transposed else max(counts)
    if (
        channels[0] * size % 16
        or channels[1] % block
        or 32 % block
        or most * channels[0] * block * size > SHARED
    ):
        return None
    given, made = (components, rows) if transposed else (rows, components)
    code = source(
        "mixed", dtype, KIN=channels[0], KOUT=channels[1], KB=block, WARPS=4, IN=given, OUT=made, MOST=most,
        TRANSPOSED=int(transposed),
    )  # fmt: skip
    table = ", ".join("{" + ", ".join(map(str, job)) + "}" for job in jobs)
    table = f"__constant__ int JOBS[{len(jobs)}][7] = {{{table}}};\n"
    return code.replace("\nconstexpr int WIDE", "\n" + table + "constexpr int WIDE", 1), len(jobs), block
