"""The density summed over neighbours with radial functions read off a table; differentiated once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gace.potential.kernels.calls import call, fused, implement, operators

if TYPE_CHECKING:
    from gace.potential.tables import RadialTable

_IN = (
    "Tensor harmonics, Tensor distance, Tensor messages, Tensor index, Tensor centre, Tensor neighbour, "
    "Tensor table, Tensor range, int degrees, int channels"
)
operators.define(f"splined({_IN}) -> Tensor")
operators.define(f"splined_backward(Tensor g, {_IN}, bool of_messages) -> (Tensor, Tensor, Tensor)")


def splined(
    harmonics: Tensor,
    distance: Tensor,
    messages: Tensor | None,
    index: Tensor | None,
    species: tuple[Tensor, Tensor],
    table: RadialTable,
) -> Tensor:
    """``Σ_j Y_lm(n, j) R_lk(r(n, j)) I_ck(index(n, j))``, see :func:`gace.potential.kernels.density`.

    Args:
        harmonics: Y ``(N, J, (l_max+1)²)``; there may be more, which are left out.
        distance: r, Å ``(N, J)``; slots at the cutoff or beyond are left out.
        messages: I ``(M, C, K)``; None for I = 1 with C = 1.
        index: row of ``messages`` for each neighbour ``(N, J)``; None if there is one row per neighbour.
        species: element index of the centres ``(N,)`` and of the neighbours ``(N, J)``.
        table: of the layer.

    Returns:
        ``(N, (l_max+1)² C, K)``, lm first. It cannot be differentiated twice.
    """
    nothing = distance.new_empty(0)
    out: Tensor = torch.ops.gace.splined(
        harmonics,
        distance,
        nothing if messages is None else messages,
        nothing.to(torch.int64) if index is None else index,
        *species,
        table.values,
        table.range,
        table.degrees,
        table.channels,
    )
    return out


def _given(x: Tensor) -> Tensor | None:
    """None for the tensor that stands for nothing."""
    return x if x.numel() else None


def _arguments(*arguments: Any) -> tuple[list[int], list[Tensor], int]:
    """Sizes for C, tensors in order and contiguous, number of components of the messages."""
    *tensors, degrees, channels = arguments
    Y, r, I, index, centre, neighbour, table, limits = (one.contiguous() for one in tensors)
    C = I.shape[1] if I.ndim == 3 else 1
    size = [*r.shape, degrees, C, channels, len(I), Y.shape[2], table.shape[1] - 1, math.isqrt(len(table))]
    return size, [Y, r, I, index, centre, neighbour, table, limits], C


def forward(*arguments: Any) -> Tensor:
    """What the operator ``gace::splined`` does, without recording it."""
    size, (Y, r, I, index, centre, neighbour, table, limits), C = _arguments(*arguments)
    if gpu := fused("splined", r):
        return gpu.forward(Y, r, I, index, centre, neighbour, table, limits, *arguments[-2:])
    out = r.new_empty(len(r), size[2] ** 2 * C, size[4])
    call(
        "splined_forward", r.dtype, size, table, limits, centre, neighbour, _given(index), Y, r, _given(I),
        out,
    )  # fmt: skip
    return out


def backward(g: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator ``gace::splined_backward`` does, without recording it."""
    size, (Y, r, I, index, centre, neighbour, table, limits), _ = _arguments(*arguments[:-1])
    if gpu := fused("splined", r):
        return gpu.backward(g.contiguous(), Y, r, I, index, centre, neighbour, table, limits, *arguments[-3:])
    slopes = torch.empty_like(Y), torch.empty_like(r), torch.empty_like(I)
    call(
        "splined_backward", r.dtype, size, table, limits, centre, neighbour, _given(index), g.contiguous(), Y,
        r, _given(I), *slopes,
    )  # fmt: skip
    return slopes


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    *tensors, degrees, channels = inputs
    ctx.save_for_backward(*tensors)
    ctx.sizes = degrees, channels


def _of_forward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    of_messages = ctx.needs_input_grad[2]  # those of the first layer are parameters: nobody asks
    return (*torch.ops.gace.splined_backward(g, *ctx.saved_tensors, *ctx.sizes, of_messages), *[None] * 7)


def _no_second_derivative(ctx: object, *gradients: Tensor | None) -> None:
    raise NotImplementedError("tabulated radial functions are for evaluation: train without tables")


implement("splined", forward)
implement("splined_backward", backward)
_register = dict(lib=operators)
torch.library.register_autograd("gace::splined", _of_forward, setup_context=_keep, **_register)
torch.library.register_autograd(
    "gace::splined_backward", _no_second_derivative, setup_context=lambda *a, **k: None, **_register
)
