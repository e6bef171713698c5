"""Geometry, densities by tables, sums over bonds and mixed channels, by warps; None where that cannot be."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gace.potential.kernels.cuda import warps
from gace.potential.kernels.cuda.compile import Launch, compiled, supported
from gace.potential.kernels.triton.launch import cuts

OPTIONS = ("-default-device",)
"""Lambdas in the kernels are the GPU's without saying so."""

LEAST = 8
"""Bonds that a warp has at least."""

ATOMS = 32
"""Atoms whose channels a block mixes, if there are many."""


def _usable(x: Tensor) -> bool:
    return x.device.type == "cuda" and x.numel() > 0 and supported()


@functools.cache
def _made(name: str, code: str, device: torch.device) -> Launch | None:
    return compiled(name, code, device, OPTIONS)


def _run(kernel: Launch, grid: tuple[int, int, int], threads: int, *arguments: Tensor | int) -> None:
    first = arguments[0]
    assert isinstance(first, Tensor)
    with torch.cuda.device(first.device):
        kernel(grid=grid, block=(threads, 1, 1), args=list(arguments))


def geometry_forward(edge_vector: Tensor, degrees: int) -> tuple[Tensor, Tensor] | None:
    """As ``gace::geometry``."""
    code = warps.geometry(degrees, edge_vector.dtype) if _usable(edge_vector) else None
    kernel = _made("geometry_forward", code[0], edge_vector.device) if code else None
    if code is None or kernel is None:
        return None
    shape = edge_vector.shape[:-1]
    r, Y = edge_vector.new_empty(shape), edge_vector.new_empty(*shape, degrees**2)
    threads = 32 * code[1]
    _run(kernel, (-(-r.numel() // threads), 1, 1), threads, edge_vector, r, Y, r.numel())
    return r, Y


def geometry_backward(
    g_distance: Tensor, g_harmonics: Tensor, edge_vector: Tensor, degrees: int
) -> Tensor | None:
    """As ``gace::geometry_backward``."""
    code = warps.geometry(degrees, edge_vector.dtype) if _usable(edge_vector) else None
    kernel = _made("geometry_backward", code[0], edge_vector.device) if code else None
    if code is None or kernel is None:
        return None
    out, bonds, threads = torch.empty_like(edge_vector), g_distance.numel(), 32 * code[1]
    _run(
        kernel, (-(-bonds // threads), 1, 1), threads, edge_vector, g_distance, g_harmonics, out, bonds
    )  # fmt: skip
    return out


class _Plan(NamedTuple):
    """What both launches on the bonds of some atoms share."""

    kernel: Launch
    grid: tuple[int, int, int]
    threads: int
    given: list[Tensor]
    """Arrays that come first among the arguments."""
    numbers: list[int]
    """Integers that come last."""
    pieces: int
    """Of the channels."""
    parts: int
    """Of each atom's bonds."""


def splined_forward(*arguments: Any) -> Tensor | None:
    """Arguments of ``gace::splined``, contiguous."""
    plan = _planned("splined_forward", 0, *arguments)
    if plan is None:
        return None
    _, r, I, *_, degrees, channels = arguments
    C = I.shape[1] if I.numel() else 1
    out: Tensor = r.new_empty(plan.parts, len(r), degrees**2 * C, channels)
    _run(plan.kernel, plan.grid, plan.threads, *plan.given, out, *plan.numbers)
    return out[0] if plan.parts == 1 else out.sum(0)


def splined_backward(g: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Arguments of ``gace::splined_backward``, contiguous; messages in a fixed order if PyTorch is told."""
    *forward, of_messages = arguments
    Y, r, I, index, *_ = forward
    mode = 0
    if of_messages and I.numel():
        mode = 2 if index.numel() and not torch.are_deterministic_algorithms_enabled() else 1
    plan = _planned("splined_backward", mode, *forward)
    if plan is None:
        return None
    dY, dr = Y.new_empty(plan.pieces, *Y.shape), r.new_empty(plan.pieces, *r.shape)
    # zeros: bonds beyond the cutoff are passed over, and what is added needs something to be added to
    dI = I.new_zeros(I.shape if mode != 1 else (r.numel(), *I.shape[1:]))
    _run(plan.kernel, plan.grid, plan.threads, *plan.given, g, dY, dr, dI, *plan.numbers)
    if mode == 1 and index.numel():
        dI = torch.zeros_like(I).index_add_(0, index.reshape(-1), dI)
    return (dY[0], dr[0], dI) if plan.pieces == 1 else (dY.sum(0), dr.sum(0), dI)


def _planned(
    name: str,
    mode: int,
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
) -> _Plan | None:
    if not _usable(r):
        return None
    carried = I.numel() > 0
    C = I.shape[1] if carried else 1
    code = warps.splined(degrees, Y.shape[2], C, channels, r.dtype, carried, index.numel() > 0, mode)
    kernel = _made(name, code[0], r.device) if code else None
    if code is None or kernel is None:
        return None
    (N, J), shape = r.shape, code[1]
    pieces = channels // shape.warp
    parts = cuts(N * pieces, -(-J // LEAST), r)
    return _Plan(
        kernel,
        (-(-N * parts // shape.warps), pieces, 1),
        32 * shape.warps,
        [table, limits, centre, neighbour, r, index, Y, I],
        [N, J, parts, round(len(table) ** 0.5), table.shape[1] - 1],
        pieces,
        parts,
    )


def sums_forward(distance: Tensor, *arguments: Any) -> Tensor | None:
    """As ``gace::bond_sums``."""
    *tables, power, repulsion, inner = arguments
    given, blocks = [distance, *tables], -(-len(distance) // 4)
    return _sums("sums_forward", given, (power, repulsion, inner), (len(distance), 3), blocks)


def sums_backward(g: Tensor, distance: Tensor, *arguments: Any) -> Tensor | None:
    """As ``gace::bond_sums_backward``."""
    *tables, power, repulsion, inner = arguments
    given, blocks = [g, distance, *tables], -(-distance.numel() // 128)
    return _sums("sums_backward", given, (power, repulsion, inner), tuple(distance.shape), blocks)


def _sums(
    name: str, given: list[Tensor], how: tuple[int, bool, bool], made: tuple[int, ...], blocks: int
) -> Tensor | None:
    distance, *_, neighbour, constants = given[-4:]
    kernel = None
    if _usable(distance):
        kernel = _made(name, warps.sums(*how, distance.dtype), distance.device)
    if kernel is None:
        return None
    out, elements = distance.new_empty(made), round(len(constants) ** 0.5)
    _run(kernel, (blocks, 1, 1), 128, *given, out, *neighbour.shape, elements)
    return out


def mixed(
    given: Tensor, weights: Tensor, dims: tuple[int, ...], counts: tuple[int, ...], transposed: bool
) -> Tensor | None:
    """As ``gace::mixed``, or with ``transposed`` as ``gace::mixed_backward``."""
    if not _usable(given):
        return None
    channels = (weights.shape[2], weights.shape[1]) if transposed else (weights.shape[1], weights.shape[2])
    code = warps.mixed(dims, counts, channels, given.dtype, transposed)
    kernel = _made("mixed", code[0], given.device) if code else None
    if code is None or kernel is None:
        return None
    N, (_, jobs, block) = len(given), code
    rows = sum(dim * count for dim, count in zip(dims, counts, strict=True)) if transposed else sum(dims)
    out = given.new_empty(N, rows, channels[1])
    each = max(1, min(ATOMS, N // 64))
    _run(
        kernel, (-(-N // each), jobs, channels[1] // block), 128, given, weights, out, N, each
    )  # fmt: skip
    return out
