"""Radial functions read off a table on a GPU, and the derivative by the distance.

The table is that of :class:`gace.potential.tables.RadialTable`: at each knot the functions, their slope
times the step, and their second derivative times its square. See ``splined.cpp``.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gace.potential.kernels.triton import density
from gace.potential.kernels.triton.launch import device_of, power_of_two

BONDS = 8
"""Bonds that one program takes."""


@triton.jit
def _place(centre, neighbour, distance, limits, e, bonds, slots, elements, intervals, F: tl.constexpr):
    """Row of the table at the knot before each bond, share of the interval, steps per Å, what counts."""
    inside = e < bonds
    r = tl.load(distance + e, mask=inside, other=0.0)
    first = tl.load(limits)
    per_step = tl.load(limits + 1)
    inside = inside & (r < tl.load(limits + 2))
    steps = (r - first) * per_step
    interval = tl.minimum(tl.maximum(steps.to(tl.int64), 0), intervals - 1)
    x = steps - interval.to(steps.dtype)
    a = tl.load(centre + e // slots, mask=inside, other=0)
    b = tl.load(neighbour + e, mask=inside, other=0)
    row = ((a * elements + b) * (intervals + 1) + interval) * (3 * F)
    return row, x, per_step, inside


@triton.jit(do_not_specialize=["bonds", "slots", "elements", "intervals"])
def _read(
    table, limits, centre, neighbour, distance, out, bonds, slots, elements, intervals,
    F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    row, x, _, inside = _place(centre, neighbour, distance, limits, e, bonds, slots, elements, intervals, F)
    here = inside[:, None] & (f < F)[None, :]
    at = table + row[:, None] + f[None, :]
    y = x * x
    w0 = (1 + y * x * (-10 + x * (15 - 6 * x)))[:, None]
    w1 = (x + y * x * (-6 + x * (8 - 3 * x)))[:, None]
    w2 = (y * (0.5 + x * (-1.5 + x * (1.5 - 0.5 * x))))[:, None]
    w3 = (y * x * (10 + x * (-15 + 6 * x)))[:, None]
    w4 = (y * x * (-4 + x * (7 - 3 * x)))[:, None]
    w5 = (y * x * (0.5 + x * (-1 + 0.5 * x)))[:, None]
    total = w0 * tl.load(at, mask=here, other=0.0) + w1 * tl.load(at + F, mask=here, other=0.0)
    total += w2 * tl.load(at + 2 * F, mask=here, other=0.0) + w3 * tl.load(at + 3 * F, mask=here, other=0.0)
    total += w4 * tl.load(at + 4 * F, mask=here, other=0.0) + w5 * tl.load(at + 5 * F, mask=here, other=0.0)
    stored = (e < bonds)[:, None] & (f < F)[None, :]
    tl.store(out + e[:, None] * F + f[None, :], total, mask=stored)


@triton.jit(do_not_specialize=["bonds", "slots", "elements", "intervals"])
def _slope(
    table, limits, centre, neighbour, distance, owed, out, bonds, slots, elements, intervals,
    F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    row, x, per_step, inside = _place(
        centre, neighbour, distance, limits, e, bonds, slots, elements, intervals, F
    )
    y = x * x
    w0 = (y * (-30 + x * (60 - 30 * x)))[:, None]
    w1 = (1 + y * (-18 + x * (32 - 15 * x)))[:, None]
    w2 = (x * (1 + x * (-4.5 + x * (6 - 2.5 * x))))[:, None]
    w4 = (y * (-12 + x * (28 - 15 * x)))[:, None]
    w5 = (y * (1.5 + x * (-4 + 2.5 * x)))[:, None]
    total = tl.zeros((BLOCK_E,), dtype=out.dtype.element_ty)
    for start in range(0, F, BLOCK_F):
        f = start + tl.arange(0, BLOCK_F)
        here = inside[:, None] & (f < F)[None, :]
        at = table + row[:, None] + f[None, :]
        slope = w0 * (tl.load(at, mask=here, other=0.0) - tl.load(at + 3 * F, mask=here, other=0.0))
        slope += w1 * tl.load(at + F, mask=here, other=0.0) + w2 * tl.load(at + 2 * F, mask=here, other=0.0)
        slope += w4 * tl.load(at + 4 * F, mask=here, other=0.0)
        slope += w5 * tl.load(at + 5 * F, mask=here, other=0.0)
        total += tl.sum(slope * tl.load(owed + e[:, None] * F + f[None, :], mask=here, other=0.0), axis=1)
    tl.store(out + e, total * per_step, mask=e < bonds)


def _launch(
    kernel: Any, split: bool, arguments: tuple[Any, ...], r: Tensor, out: Tensor, *more: Tensor
) -> Tensor:
    table, limits, centre, neighbour, elements = arguments
    F, bonds = table.shape[3], r.numel()
    block_f = min(power_of_two(F), 128)
    if bonds:
        grid = triton.cdiv(bonds, BONDS), triton.cdiv(F, block_f) if split else 1
        with device_of(r):
            kernel[grid](
                table, limits, centre, neighbour, r, *more, out,
                bonds, r.shape[1], elements, table.shape[1] - 1,
                F=F, BLOCK_E=BONDS, BLOCK_F=block_f, num_warps=4,
            )  # fmt: skip
    return out


def _radial(r: Tensor, table: tuple[Any, ...], degrees: int, channels: int) -> Tensor:
    return _launch(_read, True, table, r, r.new_empty(*r.shape, degrees, channels))


def _table(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    centre, neighbour, table, limits = arguments
    return table, limits, centre, neighbour, round(len(table) ** 0.5)


def forward(*arguments: Any) -> Tensor:
    """Arguments of ``gace::splined``, contiguous."""
    Y, r, I, index, *about, degrees, channels = arguments
    return density.forward(Y, _radial(r, _table(tuple(about)), degrees, channels), I, index)


def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of ``gace::splined_backward``, contiguous."""
    g, Y, r, I, index, *about, degrees, channels = arguments
    table = _table(tuple(about))
    dY, dR, dI = density.backward(g, Y, _radial(r, table, degrees, channels), I, index)
    return dY, _launch(_slope, False, table, r, r.new_empty(r.shape), dR), dI
