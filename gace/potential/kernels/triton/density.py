"""The density summed over neighbours, and its derivatives, on a GPU.

    A[lm, c](n, k) = Σ_j Y[lm](n, j) R[l, k](n, j) I[c, k](index(n, j))

Without messages there is one c, and I = 1. A program has one degree l of one atom: its part of A, or of the
cotangent g, stays in registers while the neighbours go by, and radial functions are read once. With
``TANGENT`` the same code gives the second derivatives: Yu, Ru, Iu are the tangents, and what is
differentiated is <g, tangent of A>.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gace.potential.kernels.triton.launch import channel_block, device_of, power_of_two, warps

NEIGHBOURS = 8
"""Neighbours that one program of the backward pass takes."""

FEW = 16
"""Rows of messages up to which their cotangent is summed atom by atom, without atomics."""


@triton.jit
def _summed_degree(
    l: tl.constexpr, n, first_k, index, Y, R, I, Yu, Ru, Iu, out, J,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, CARRIED: tl.constexpr, GATHERED: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Components of degree l of the density of atom n."""
    M: tl.constexpr = 1 if l == 0 else (4 if l == 1 else (8 if l < 4 else (16 if l < 8 else 32)))
    m = tl.arange(0, M)
    c = tl.arange(0, BLOCK_C)
    k = first_k + tl.arange(0, BLOCK_K)
    here = (c < C)[:, None] & (k < K)[None, :]
    total = tl.zeros((M, BLOCK_C, BLOCK_K), dtype=out.dtype.element_ty)
    for j in range(J):
        e = n * J + j
        y = tl.load(Y + e * (L * L) + l * l + m, mask=m < 2 * l + 1, other=0.0)[:, None, None]
        s = tl.load(R + (e * L + l) * K + k, mask=k < K, other=0.0)[None, :]
        if TANGENT:
            yu = tl.load(Yu + e * (L * L) + l * l + m, mask=m < 2 * l + 1, other=0.0)[:, None, None]
            su = tl.load(Ru + (e * L + l) * K + k, mask=k < K, other=0.0)[None, :]
        if CARRIED:
            row = e
            if GATHERED:
                row = tl.load(index + e)
            at = row * (C * K) + c[:, None] * K + k[None, :]
            message = tl.load(I + at, mask=here, other=0.0)
            if TANGENT:
                su = su * message + s * tl.load(Iu + at, mask=here, other=0.0)
            s = s * message
        if TANGENT:
            total += yu * s[None, :, :] + y * su[None, :, :]
        else:
            total += y * s[None, :, :]
    row_out = (n * (L * L) + l * l + m)[:, None, None] * C + c[None, :, None]
    tl.store(
        out + row_out * K + k[None, None, :], total, mask=(m < 2 * l + 1)[:, None, None] & here[None, :, :]
    )


@triton.jit(do_not_specialize=["J"])
def _forward(
    index, Y, R, I, Yu, Ru, Iu, out, J,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    CARRIED: tl.constexpr, GATHERED: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    degree = tl.program_id(1)
    first_k = tl.program_id(2) * BLOCK_K
    for l in tl.static_range(L):
        if degree == l:
            _summed_degree(
                l, n, first_k, index, Y, R, I, Yu, Ru, Iu, out, J,
                L, C, K, BLOCK_C, BLOCK_K, CARRIED, GATHERED, TANGENT,
            )  # fmt: skip


@triton.jit
def _owed_degree(
    l: tl.constexpr, n, first, last, piece, index, g, Y, R, I, Yu, Ru, Iu, dY, dR, J, bonds,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, CARRIED: tl.constexpr, GATHERED: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """What harmonics and radial functions of degree l are owed by some neighbours of atom n."""
    M: tl.constexpr = 1 if l == 0 else (4 if l == 1 else (8 if l < 4 else (16 if l < 8 else 32)))
    m = tl.arange(0, M)
    c = tl.arange(0, BLOCK_C)
    k = piece * BLOCK_K + tl.arange(0, BLOCK_K)
    here = (c < C)[:, None] & (k < K)[None, :]
    row_g = (n * (L * L) + l * l + m)[:, None, None] * C + c[None, :, None]
    owed = tl.load(
        g + row_g * K + k[None, None, :], mask=(m < 2 * l + 1)[:, None, None] & here[None, :, :], other=0.0
    )
    for j in range(first, last):
        e = n * J + j
        y = tl.load(Y + e * (L * L) + l * l + m, mask=m < 2 * l + 1, other=0.0)[:, None, None]
        s = tl.load(R + (e * L + l) * K + k, mask=k < K, other=0.0)[None, :]
        of_s = tl.sum(y * owed, axis=0)
        if TANGENT:
            yu = tl.load(Yu + e * (L * L) + l * l + m, mask=m < 2 * l + 1, other=0.0)[:, None, None]
            su = tl.load(Ru + (e * L + l) * K + k, mask=k < K, other=0.0)[None, :]
            of_su = tl.sum(yu * owed, axis=0)
        if CARRIED:
            row = e
            if GATHERED:
                row = tl.load(index + e)
            at = row * (C * K) + c[:, None] * K + k[None, :]
            message = tl.load(I + at, mask=here, other=0.0)
            if TANGENT:
                message_u = tl.load(Iu + at, mask=here, other=0.0)
                s = su * message + s * message_u
                of_r = of_su * message + of_s * message_u
            else:
                s = s * message
                of_r = of_s * message
        elif TANGENT:
            s = su
            of_r = of_su
        else:
            of_r = of_s
        of_y = tl.sum(tl.sum(owed * s[None, :, :], axis=2), axis=1)
        tl.store(dY + (piece * bonds + e) * (L * L) + l * l + m, of_y, mask=m < 2 * l + 1)
        tl.store(dR + (e * L + l) * K + k, tl.sum(of_r, axis=0), mask=k < K)


@triton.jit(do_not_specialize=["J", "parts", "bonds"])
def _backward(
    index, g, Y, R, I, Yu, Ru, Iu, dY, dR, J, parts, bonds,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_J: tl.constexpr, CARRIED: tl.constexpr, GATHERED: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    n = (tl.program_id(0) // parts).to(tl.int64)
    first = (tl.program_id(0) % parts) * BLOCK_J
    last = tl.minimum(first + BLOCK_J, J)
    degree = tl.program_id(1)
    piece = tl.program_id(2)
    for l in tl.static_range(L):
        if degree == l:
            _owed_degree(
                l, n, first, last, piece, index, g, Y, R, I, Yu, Ru, Iu, dY, dR, J, bonds,
                L, C, K, BLOCK_C, BLOCK_K, CARRIED, GATHERED, TANGENT,
            )  # fmt: skip


@triton.jit(do_not_specialize=["J"])
def _messages(
    index, g, Y, R, Yu, Ru, dI, J,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, LM: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr, MODE: tl.constexpr, ROWS: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """What the messages are owed by the neighbours of one atom.

    MODE 0: stored bond by bond; 1: added where the neighbour's message lies; 2: summed here for each of
    few messages, dI being (atoms, ROWS, C, K).
    """
    n = tl.program_id(0).to(tl.int64)
    lm = tl.arange(0, LM)
    c = tl.arange(0, BLOCK_C)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    here = (c < C)[:, None] & (k < K)[None, :]
    degree = tl.zeros((LM,), dtype=tl.int32)
    for l in tl.static_range(1, L):
        degree += (lm >= l * l).to(tl.int32)
    both = (lm < L * L)[:, None] & (k < K)[None, :]
    row_g = (n * (L * L) + lm)[:, None, None] * C + c[None, :, None]
    owed = tl.load(
        g + row_g * K + k[None, None, :], mask=(lm < L * L)[:, None, None] & here[None, :, :], other=0.0
    )
    if MODE == 2:
        rows = tl.arange(0, ROWS)
        total = tl.zeros((ROWS, BLOCK_C, BLOCK_K), dtype=dI.dtype.element_ty)
    for j in range(J):
        e = n * J + j
        at_r = (e * L + degree)[:, None] * K + k[None, :]
        y = tl.load(Y + e * (L * L) + lm, mask=lm < L * L, other=0.0)[:, None]
        if TANGENT:
            yu = tl.load(Yu + e * (L * L) + lm, mask=lm < L * L, other=0.0)[:, None]
            product = yu * tl.load(R + at_r, mask=both, other=0.0) + y * tl.load(
                Ru + at_r, mask=both, other=0.0
            )
        else:
            product = y * tl.load(R + at_r, mask=both, other=0.0)
        of_i = tl.sum(owed * product[:, None, :], axis=0)
        at = c[:, None] * K + k[None, :]
        if MODE == 0:
            tl.store(dI + e * (C * K) + at, of_i, mask=here)
        else:
            row = tl.load(index + e)
            if MODE == 1:
                tl.atomic_add(dI + row * (C * K) + at, of_i, mask=here)
            else:
                total += tl.where((rows == row)[:, None, None], of_i[None, :, :], 0.0)
    if MODE == 2:
        of_rows = (n * ROWS + rows)[:, None, None] * C + c[None, :, None]
        tl.store(dI + of_rows * K + k[None, None, :], total, mask=here[None, :, :])


class _Sizes:
    """What all launches on some arrays share."""

    def __init__(self, R: Tensor, I: Tensor, index: Tensor) -> None:
        self.N, self.J, self.L, self.K = R.shape
        self.carried, self.gathered = I.numel() > 0, index.numel() > 0
        self.C = I.shape[1] if I.ndim == 3 else 1
        self.block_k = channel_block(self.K)
        self.pieces = triton.cdiv(self.K, self.block_k)
        self.block_c = power_of_two(self.C)
        self.empty = self.N * self.J * self.K == 0

    @property
    def architecture(self) -> dict[str, int]:
        """What code depends on."""
        return dict(L=self.L, C=self.C, K=self.K, BLOCK_C=self.block_c, BLOCK_K=self.block_k)

    def warps(self, components: int) -> int:
        """For a tile of so many components of the density."""
        return warps(power_of_two(components) * self.block_c * self.block_k)


def forward(
    Y: Tensor, R: Tensor, I: Tensor, index: Tensor, tangents: tuple[Tensor, ...] | None = None
) -> Tensor:
    """Arguments of ``gace::density``, contiguous; ``tangents`` of Y, R, I: the density's tangent."""
    d = _Sizes(R, I, index)
    out = R.new_zeros(d.N, d.L**2 * d.C, d.K)
    if d.empty:
        return out
    with device_of(R):
        _forward[(d.N, d.L, d.pieces)](
            index, Y, R, I, *(tangents or (Y, R, I)), out, d.J, **d.architecture,
            CARRIED=d.carried, GATHERED=d.gathered, TANGENT=tangents is not None,
            num_warps=d.warps(2 * d.L - 1),
        )  # fmt: skip
    return out


def backward(
    g: Tensor, Y: Tensor, R: Tensor, I: Tensor, index: Tensor, tangents: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of ``gace::density_backward``, contiguous; with ``tangents``: of <g, tangent>."""
    d = _Sizes(R, I, index)
    if d.empty:
        return torch.zeros_like(Y), torch.zeros_like(R), torch.zeros_like(I)
    dY, dR = Y.new_empty(d.pieces, *Y.shape), torch.empty_like(R)
    parts = triton.cdiv(d.J, NEIGHBOURS)
    given = tangents or (Y, R, I)
    with device_of(R):
        _backward[(d.N * parts, d.L, d.pieces)](
            index, g, Y, R, I, *given, dY, dR, d.J, parts, d.N * d.J, **d.architecture, BLOCK_J=NEIGHBOURS,
            CARRIED=d.carried, GATHERED=d.gathered, TANGENT=tangents is not None,
            num_warps=d.warps(2 * d.L - 1),
        )  # fmt: skip
        dI = _owed_to_messages(d, index, g, Y, R, I, given, tangents is not None)
    return dY[0] if d.pieces == 1 else dY.sum(0), dR, dI


def _owed_to_messages(
    d: _Sizes,
    index: Tensor,
    g: Tensor,
    Y: Tensor,
    R: Tensor,
    I: Tensor,
    given: tuple[Tensor, ...],
    tangent: bool,
) -> Tensor:
    """The cotangent of I; in a fixed order where PyTorch is told to be deterministic."""
    if not d.carried:
        return torch.zeros_like(I)
    rows, ROWS = len(I), 1
    if not d.gathered:
        mode, dI = 0, torch.empty_like(I)
    elif rows <= FEW:
        mode, ROWS = 2, power_of_two(rows)
        dI = I.new_empty(d.N, ROWS, *I.shape[1:])
    elif torch.are_deterministic_algorithms_enabled():
        mode, dI = 0, I.new_empty(d.N * d.J, *I.shape[1:])
    else:
        mode, dI = 1, torch.zeros_like(I)
    LM = power_of_two(d.L**2)
    _messages[(d.N, d.pieces)](
        index, g, Y, R, given[0], given[1], dI, d.J, **d.architecture, LM=LM, MODE=mode, ROWS=ROWS,
        TANGENT=tangent, num_warps=d.warps(LM),
    )  # fmt: skip
    if mode == 2:
        return dI.sum(0)[:rows]
    if mode == 0 and d.gathered:
        return torch.zeros_like(I).index_add_(0, index.reshape(-1), dI)
    return dI


def twice(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of ``gace::density_twice``, contiguous."""
    g, Y, R, I, index, *tangents = arguments
    return forward(Y, R, I, index, tuple(tangents)), *backward(g, Y, R, I, index, tuple(tangents))
