"""Channels mixed irrep by irrep as one operator, for evaluation: the weights are not differentiated by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gace.potential.kernels.build import library
from gace.potential.kernels.calls import call, implement, operators
from gace.potential.kernels.cuda import bonds as warps

_IN = "Tensor rows, Tensor weights, Tensor? leaf, Tensor? species, int[] dims, int[] counts, int head"
operators.define(f"mixed({_IN}) -> (Tensor, Tensor)")
operators.define("mixed_backward(Tensor g, Tensor h, Tensor weights, int[] dims, int[] counts) -> Tensor")


def mixed(
    rows: Tensor,
    weights: Tensor,
    dims: Sequence[int],
    counts: Sequence[int],
    *,
    leaf: Tensor | None = None,
    species: Tensor | None = None,
    head: int = 0,
) -> tuple[Tensor, Tensor]:
    """``out[n, m] = Σ_p rows[n, (m, p)] W_p`` for every component m of every irrep and all paths p to it.

    Args:
        rows: ``(N, Σ dims counts, K)``, those of an irrep ordered by component, then path.
        weights: ``(Σ counts, K, K')``; an error if they are to be differentiated by, see :func:`products`.
        dims: number of components of each irrep.
        counts: number of paths to each irrep.
        leaf: what is added to the first component by element ``(n_elements, K')``; not differentiated by.
        species: element index ``(N,)``, where there is a leaf.
        head: so many components are wanted once more.

    Returns:
        ``(N, Σ dims, K')``, and its first ``head`` components as an array of their own: what is owed to them
        comes back in passing, where a slice would give a whole array of zeros to be added.
    """
    whole, first = torch.ops.gace.mixed(rows, weights, leaf, species, dims, counts, head)
    return whole, first


def products(rows: Tensor, weights: Tensor, dims: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    """The same irrep by irrep in plain PyTorch, which can be differentiated by everything."""
    parts = rows.split([dim * count for dim, count in zip(dims, counts, strict=True)], dim=1)
    found = []
    for part, matrix, dim in zip(parts, weights.split(list(counts)), dims, strict=True):
        # the sum over paths is part of the product
        matrix = matrix.flatten(0, 1)
        found.append((part.reshape(-1, len(matrix)) @ matrix).view(-1, dim, matrix.shape[1]))
    return found


def _in_c(x: Tensor) -> bool:
    """Whether the C++ kernels are those for ``x``; elsewhere products go irrep by irrep."""
    return x.device.type == "cpu" and library() is not None


def _size(rows: int, dim: int, weights: Tensor, dims: Sequence[int], atoms: int, head: int) -> list[int]:
    """What C needs beside the irreps: numbers of atoms, irreps, rows, components, channels."""
    return [atoms, len(dims), rows, dim, *weights.shape[1:], head]


def forward(
    rows: Tensor,
    weights: Tensor,
    leaf: Tensor | None,
    species: Tensor | None,
    dims: list[int],
    counts: list[int],
    head: int,
) -> tuple[Tensor, Tensor]:
    """What the operator ``gace::mixed`` does, without recording it."""
    if not _in_c(rows):
        of_gpu = warps.mixed(rows.contiguous(), weights.contiguous(), tuple(dims), tuple(counts), False)
        out = torch.cat(products(rows, weights, dims, counts), dim=1) if of_gpu is None else of_gpu
        if leaf is not None and species is not None:
            out[:, 0] += leaf.index_select(0, species)
        return out, out[:, :head].clone(memory_format=torch.contiguous_format)
    out, first = _room(rows, weights, dims, head)
    size = _size(rows.shape[1], sum(dims), weights, dims, len(rows), head)
    call(
        "mixed_forward", rows.dtype, size, dims, counts, _contiguous(species), rows.contiguous(),
        weights.contiguous(), _contiguous(leaf), out, first,
    )  # fmt: skip
    return out, first


def backward(g: Tensor, h: Tensor, weights: Tensor, dims: list[int], counts: list[int]) -> Tensor:
    """What the operator ``gace::mixed_backward`` does, without recording it."""
    rows, head = sum(dim * count for dim, count in zip(dims, counts, strict=True)), h.shape[1]
    if not _in_c(g):
        if head:
            g = torch.cat([g[:, :head] + h, g[:, head:]], dim=1)
        of_gpu = warps.mixed(g.contiguous(), weights.contiguous(), tuple(dims), tuple(counts), True)
        if of_gpu is not None:
            return of_gpu
        slopes = []
        for part, matrix, dim, count in zip(
            g.split(dims, dim=1), weights.split(counts), dims, counts, strict=True
        ):
            slope = part.reshape(-1, g.shape[2]) @ matrix.flatten(0, 1).T
            slopes.append(slope.view(-1, dim * count, weights.shape[1]))
        return torch.cat(slopes, dim=1)
    slope = g.new_empty(len(g), rows, weights.shape[1])
    size = _size(rows, sum(dims), weights, dims, len(g), head)
    call(
        "mixed_backward", g.dtype, size, dims, counts, g.contiguous(), h.contiguous(), weights.contiguous(),
        slope,
    )  # fmt: skip
    return slope


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _room(rows: Tensor, weights: Tensor, dims: list[int], head: int) -> tuple[Tensor, Tensor]:
    shapes = ((rows.shape[0], components, weights.shape[2]) for components in (sum(dims), head))
    whole, first = (rows.new_empty(shape) for shape in shapes)
    return whole, first


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    _, weights, *_, ctx.dims, ctx.counts, ctx.head = inputs
    ctx.save_for_backward(weights)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    _, h, weights, ctx.dims, ctx.counts = inputs
    ctx.head = h.shape[1]
    ctx.save_for_backward(weights)


def _refuse(*wanted: bool) -> None:
    if any(wanted):
        raise NotImplementedError("channels are mixed by fixed weights here: train by `products`")


def _of_forward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
    _refuse(*ctx.needs_input_grad[1:3])
    (weights,) = ctx.saved_tensors
    return (torch.ops.gace.mixed_backward(g, h, weights, ctx.dims, ctx.counts), *[None] * 6)


def _of_backward(ctx: Any, a: Tensor) -> tuple[Tensor | None, ...]:
    _refuse(ctx.needs_input_grad[2])
    (weights,) = ctx.saved_tensors  # the product is linear in the rows: its transposed's derivative is itself
    of_g, of_h = torch.ops.gace.mixed(a, weights, None, None, ctx.dims, ctx.counts, ctx.head)
    return (of_g, of_h, *[None] * 3)


implement("mixed", forward)
implement("mixed_backward", backward)
_register = dict(lib=operators)
torch.library.register_fake(
    "gace::mixed",
    lambda rows, weights, leaf, species, dims, counts, head: _room(rows, weights, dims, head),
    **_register,
)
torch.library.register_fake(
    "gace::mixed_backward",
    lambda g, h, weights, dims, counts: g.new_empty(
        g.shape[0], sum(dim * count for dim, count in zip(dims, counts, strict=True)), weights.shape[1]
    ),
    **_register,
)
torch.library.register_autograd("gace::mixed", _of_forward, setup_context=_keep_forward, **_register)
torch.library.register_autograd(
    "gace::mixed_backward", _of_backward, setup_context=_keep_backward, **_register
)
