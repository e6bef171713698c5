"""The density with radial functions read off a table on a GPU, and its derivatives.

    A[lm, c](n, k) = Σ_j Y[lm](n, j) R[l, k](r(n, j)) I[c, k](index(n, j))

The table is that of :class:`gace.potential.tables.RadialTable`: at each knot the functions, their slope
times the step, and their second derivative times its square. See ``splined.cpp``. A program has one atom,
some of its neighbours and 32 channels, a channel a lane: the density (or its cotangent g) stays in registers
while neighbours go by, and radial functions are formed where they are used. Neighbours at the cutoff or
beyond are passed over.
"""
# tuples that grow in a kernel's counted loops have no type that mypy could follow
# mypy: disable-error-code="assignment, misc, var-annotated"

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gace.potential.kernels.cuda import bonds as warps
from gace.potential.kernels.triton.launch import channel_block, cuts, device_of

REGISTERS = 100
"""Components of the density that one program holds; with more, degrees are shared out among launches."""

HELD = 128
"""Registers of a lane that hold the density's cotangent."""

LEAST = 8
"""Neighbours that a program has at least."""


@triton.jit
def _place(centre, neighbour, distance, limits, e, inside, a, elements, intervals, F: tl.constexpr):
    """Row of the table at the knot before each bond, share of the interval, steps per Å, what counts."""
    r = tl.load(distance + e, mask=inside, other=0.0)
    first = tl.load(limits)
    per_step = tl.load(limits + 1)
    inside = inside & (r < tl.load(limits + 2))
    steps = (r - first) * per_step
    interval = tl.minimum(tl.maximum(steps.to(tl.int32), 0), intervals - 1)
    x = steps - interval.to(steps.dtype)
    b = tl.load(neighbour + e, mask=inside, other=0)
    row = ((a * elements + b) * (intervals + 1) + interval) * (3 * F)
    return row, x, per_step, inside


@triton.jit
def _functions(at, x, here, F: tl.constexpr):
    """Radial functions between two knots."""
    y = x * x
    total = (1 + y * x * (-10 + x * (15 - 6 * x))) * tl.load(at, mask=here, other=0.0)
    total += (x + y * x * (-6 + x * (8 - 3 * x))) * tl.load(at + F, mask=here, other=0.0)
    total += (y * (0.5 + x * (-1.5 + x * (1.5 - 0.5 * x)))) * tl.load(at + 2 * F, mask=here, other=0.0)
    total += (y * x * (10 + x * (-15 + 6 * x))) * tl.load(at + 3 * F, mask=here, other=0.0)
    total += (y * x * (-4 + x * (7 - 3 * x))) * tl.load(at + 4 * F, mask=here, other=0.0)
    total += (y * x * (0.5 + x * (-1 + 0.5 * x))) * tl.load(at + 5 * F, mask=here, other=0.0)
    return total


@triton.jit
def _functions_and_slopes(at, x, here, F: tl.constexpr):
    """Radial functions between two knots, and their slopes times the step."""
    y = x * x
    t0 = tl.load(at, mask=here, other=0.0)
    t1 = tl.load(at + F, mask=here, other=0.0)
    t2 = tl.load(at + 2 * F, mask=here, other=0.0)
    t3 = tl.load(at + 3 * F, mask=here, other=0.0)
    t4 = tl.load(at + 4 * F, mask=here, other=0.0)
    t5 = tl.load(at + 5 * F, mask=here, other=0.0)
    values = (1 + y * x * (-10 + x * (15 - 6 * x))) * t0 + (x + y * x * (-6 + x * (8 - 3 * x))) * t1
    values += (y * (0.5 + x * (-1.5 + x * (1.5 - 0.5 * x)))) * t2 + (y * x * (10 + x * (-15 + 6 * x))) * t3
    values += (y * x * (-4 + x * (7 - 3 * x))) * t4 + (y * x * (0.5 + x * (-1 + 0.5 * x))) * t5
    slopes = (y * (-30 + x * (60 - 30 * x))) * (t0 - t3) + (1 + y * (-18 + x * (32 - 15 * x))) * t1
    slopes += (x * (1 + x * (-4.5 + x * (6 - 2.5 * x)))) * t2 + (y * (-12 + x * (28 - 15 * x))) * t4
    slopes += (y * (1.5 + x * (-4 + 2.5 * x))) * t5
    return values, slopes


@triton.jit(do_not_specialize=["atoms", "J", "parts", "per_part", "elements", "intervals"])
def _forward(
    table, limits, centre, neighbour, distance, index, Y, I, out,
    atoms, J, parts, per_part, elements, intervals, LM,
    L: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr, CARRIED: tl.constexpr, GATHERED: tl.constexpr,
):  # fmt: skip
    """Components of degrees FIRST … LAST - 1 of one atom's density, summed over some neighbours."""
    n = (tl.program_id(0) // parts).to(tl.int64)
    part = tl.program_id(0) % parts
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    a = tl.load(centre + n)
    totals = ()
    for empty in tl.static_range((LAST * LAST - FIRST * FIRST) * C):
        totals = totals + (tl.zeros((BLOCK_J, BLOCK_K), dtype=out.dtype.element_ty),)
    last = tl.minimum((part + 1) * per_part, J)
    for start in range(part * per_part, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        e = n * J + j
        row, x, _step, inside = _place(
            centre, neighbour, distance, limits, e, j < last, a, elements, intervals, L * K
        )
        if tl.max(inside.to(tl.int32), axis=0) > 0:
            here = inside[:, None] & (k < K)[None, :]
            at = table + row[:, None] + k[None, :]
            messages = ()
            if CARRIED:
                of = e
                if GATHERED:
                    of = tl.load(index + e, mask=inside, other=0)
                for c in tl.static_range(C):
                    place = (of * C + c)[:, None] * K + k[None, :]
                    messages = messages + (tl.load(I + place, mask=here, other=0.0),)
            sums = ()
            for l in tl.static_range(FIRST, LAST):
                s = _functions(at + l * K, x[:, None], here, L * K)
                for m in tl.static_range(2 * l + 1):
                    y = tl.load(Y + e * LM + (l * l + m), mask=inside, other=0.0)[:, None] * s
                    for c in tl.static_range(C):
                        old = totals[(l * l + m - FIRST * FIRST) * C + c]
                        if CARRIED:
                            sums = sums + (old + y * messages[c],)
                        else:
                            sums = sums + (old + y,)
            totals = sums
    stored = k < K
    for i in tl.static_range((LAST * LAST - FIRST * FIRST) * C):
        place = ((part * atoms + n) * (L * L) * C + (FIRST * FIRST * C + i)) * K + k
        tl.store(out + place, tl.sum(totals[i], axis=0), mask=stored)


@triton.jit(do_not_specialize=["atoms", "J", "parts", "per_part", "elements", "intervals"])
def _backward(
    table, limits, centre, neighbour, distance, index, g, Y, I, dY, dr, dI,
    atoms, J, parts, per_part, elements, intervals, LM,
    L: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr, CARRIED: tl.constexpr, GATHERED: tl.constexpr,
    MODE: tl.constexpr,
):  # fmt: skip
    """What harmonics, distances and messages are owed by degrees FIRST … LAST - 1 of one atom's density.

    MODE 0: nothing is asked of messages; 1: stored bond by bond; 2: added where the message lies.
    """
    n = (tl.program_id(0) // parts).to(tl.int64)
    part = tl.program_id(0) % parts
    piece = tl.program_id(1)
    k = piece * BLOCK_K + tl.arange(0, BLOCK_K)
    a = tl.load(centre + n)
    owed = ()
    for i in tl.static_range((LAST * LAST - FIRST * FIRST) * C):
        at_g = (n * (L * L) * C + (FIRST * FIRST * C + i)) * K + k
        owed = owed + (tl.load(g + at_g, mask=k < K, other=0.0)[None, :],)
    here_on = piece.to(tl.int64) * atoms * J
    last = tl.minimum((part + 1) * per_part, J)
    for start in range(part * per_part, last, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        e = n * J + j
        row, x, per_step, inside = _place(
            centre, neighbour, distance, limits, e, j < last, a, elements, intervals, L * K
        )
        if tl.max(inside.to(tl.int32), axis=0) > 0:
            here = inside[:, None] & (k < K)[None, :]
            at = table + row[:, None] + k[None, :]
            messages = ()
            of = e
            if CARRIED:
                if GATHERED:
                    of = tl.load(index + e, mask=inside, other=0)
                for c in tl.static_range(C):
                    place = (of * C + c)[:, None] * K + k[None, :]
                    messages = messages + (tl.load(I + place, mask=here, other=0.0),)
            of_messages = ()
            if MODE > 0:
                for c in tl.static_range(C):
                    of_messages = of_messages + (tl.zeros((BLOCK_J, BLOCK_K), dtype=dY.dtype.element_ty),)
            of_r = tl.zeros((BLOCK_J, BLOCK_K), dtype=dY.dtype.element_ty)
            for l in tl.static_range(FIRST, LAST):
                s, slope = _functions_and_slopes(at + l * K, x[:, None], here, L * K)
                of_s = tl.zeros((BLOCK_J, BLOCK_K), dtype=dY.dtype.element_ty)
                for m in tl.static_range(2 * l + 1):
                    if CARRIED:
                        p = owed[(l * l + m - FIRST * FIRST) * C] * messages[0]
                        for c in tl.static_range(1, C):
                            p += owed[(l * l + m - FIRST * FIRST) * C + c] * messages[c]
                    else:
                        p = owed[l * l + m - FIRST * FIRST]
                    y = tl.load(Y + e * LM + (l * l + m), mask=inside, other=0.0)[:, None]
                    of_s += y * p
                    of_y = dY + (here_on + e) * LM + (l * l + m)
                    tl.store(of_y, tl.sum(p * s, axis=1), mask=inside)
                    if MODE > 0:
                        ys = y * s
                        sums = ()
                        for c in tl.static_range(C):
                            sums = sums + (of_messages[c] + ys * owed[(l * l + m - FIRST * FIRST) * C + c],)
                        of_messages = sums
                of_r += of_s * slope
            tl.store(dr + here_on + e, tl.sum(of_r, axis=1) * per_step, mask=inside)
            if MODE > 0:
                for c in tl.static_range(C):
                    if MODE == 1:
                        tl.store(dI + (e * C + c)[:, None] * K + k[None, :], of_messages[c], mask=here)
                    else:
                        place = (of * C + c)[:, None] * K + k[None, :]
                        tl.atomic_add(dI + place, of_messages[c], mask=here, sem="relaxed")


class _Work(NamedTuple):
    """What the launches on some arrays share."""

    arguments: tuple[Any, ...]
    sizes: tuple[int, ...]
    """Runtime numbers of the kernels from J on."""
    architecture: dict[str, Any]
    pieces: int
    parts: int
    degrees: list[tuple[int, int]]
    """First and last degree of each launch."""

    @property
    def programs(self) -> tuple[int, int]:
        """The grid."""
        return len(self.arguments[4]) * self.parts, self.pieces


def _work(Y: Tensor, r: Tensor, I: Tensor, index: Tensor, about: tuple[Tensor, ...], L: int, K: int) -> _Work:
    centre, neighbour, table, limits = about
    N, J = r.shape
    carried = I.numel() > 0
    C = I.shape[1] if carried else 1
    block_k = channel_block(K)
    pieces = triton.cdiv(K, block_k)
    parts = cuts(N * pieces, triton.cdiv(J, LEAST), r)
    degrees, first = [], 0
    for last in range(1, L + 1):
        if last == L or ((last + 1) ** 2 - first**2) * C > REGISTERS:
            degrees.append((first, last))
            first = last
    elements = round(len(table) ** 0.5)
    return _Work(
        (table, limits, centre, neighbour, r, index),
        (J, parts, triton.cdiv(J, parts), elements, table.shape[1] - 1, Y.shape[2]),
        dict(
            L=L, C=C, K=K, BLOCK_K=block_k, CARRIED=carried, GATHERED=index.numel() > 0, num_warps=1,
        ),
        pieces,
        parts,
        degrees,
    )  # fmt: skip


def forward(
    Y: Tensor,
    r: Tensor,
    I: Tensor,
    index: Tensor,
    centre: Tensor,
    neighbour: Tensor,
    table: Tensor,
    limits: Tensor,
    degrees: int,
    channels: int,
) -> Tensor:
    """Arguments of ``gace::splined``, contiguous; Y may have more degrees than are asked for."""
    about = centre, neighbour, table, limits
    if (found := warps.splined_forward(Y, r, I, index, *about, degrees, channels)) is not None:
        return found
    work = _work(Y, r, I, index, about, degrees, channels)
    N, C = len(r), work.architecture["C"]
    if r.numel() == 0:
        return r.new_zeros(N, degrees**2 * C, channels)
    out = r.new_empty(work.parts, N, degrees**2 * C, channels)
    with device_of(r):
        for first, last in work.degrees:
            _forward[work.programs](
                *work.arguments, Y, I, out, N, *work.sizes,
                **work.architecture, FIRST=first, LAST=last, BLOCK_J=1,
            )  # fmt: skip
    return out[0] if work.parts == 1 else out.sum(0)


def backward(
    g: Tensor,
    Y: Tensor,
    r: Tensor,
    I: Tensor,
    index: Tensor,
    centre: Tensor,
    neighbour: Tensor,
    table: Tensor,
    limits: Tensor,
    degrees: int,
    channels: int,
    of_messages: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of ``gace::splined_backward``, contiguous; the messages' in a fixed order if need be."""
    about = centre, neighbour, table, limits
    by_warps = warps.splined_backward(g, Y, r, I, index, *about, degrees, channels, of_messages)
    if by_warps is not None:
        return by_warps
    work = _work(Y, r, I, index, about, degrees, channels)
    N = len(r)
    if r.numel() == 0:
        return torch.zeros_like(Y), torch.zeros_like(r), torch.zeros_like(I)
    # zeros: what lies beyond the cutoff is passed over
    dY = Y.new_zeros(work.pieces, *Y.shape)
    launches = len(work.degrees)
    dr = r.new_zeros(launches, work.pieces, *r.shape)
    mode, dI = 0, I.new_empty(0)
    if of_messages and I.numel():
        gathered = index.numel() > 0
        mode = 2 if gathered and not torch.are_deterministic_algorithms_enabled() else 1
        shape = I.shape if mode == 2 else (launches, r.numel(), *I.shape[1:])
        dI = I.new_zeros(shape)
    with device_of(r):
        for launch, (first, last) in enumerate(work.degrees):
            _backward[work.programs](
                *work.arguments, g, Y, I, dY, dr[launch], dI[launch] if mode == 1 else dI, N, *work.sizes,
                **work.architecture, FIRST=first, LAST=last, BLOCK_J=_bonds(work, first, last, g), MODE=mode,
            )  # fmt: skip
    if mode == 1:
        dI = dI.sum(0) if launches > 1 else dI[0]
        if index.numel():
            dI = torch.zeros_like(I).index_add_(0, index.reshape(-1), dI)
    elif mode == 0:
        dI = torch.zeros_like(I)
    return (
        dY[0] if work.pieces == 1 else dY.sum(0),
        dr[0, 0] if launches == work.pieces == 1 else dr.sum((0, 1)),
        dI,
    )


def _bonds(work: _Work, first: int, last: int, x: Tensor) -> int:
    """Bonds that the pass back has at once: they share sums over lanes, while registers for g suffice."""
    numbers = (last**2 - first**2) * work.architecture["C"] * x.element_size() // 4
    return 4 if 4 * numbers <= HELD else 2 if 2 * numbers <= HELD else 1
