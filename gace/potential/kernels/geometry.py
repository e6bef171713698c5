"""Distances and spherical harmonics of the bonds in one pass; differentiated once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gace.potential.kernels.calls import call, fused, implement, operators

operators.define("geometry(Tensor edge_vector, int degrees) -> (Tensor, Tensor)")
operators.define(
    "geometry_backward(Tensor g_distance, Tensor g_harmonics, Tensor edge_vector, int degrees) -> Tensor"
)


def geometry(edge_vector: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """Distances and harmonics as :class:`gace.basis.SphericalHarmonics` orders and normalises them.

    Args:
        edge_vector: neighbour minus centre, none of length zero, Å ``(N, J, 3)``.
        degrees: l_max + 1.

    Returns:
        r, Å ``(N, J)``, and Y ``(N, J, (l_max+1)²)``. They cannot be differentiated twice.
    """
    r, Y = torch.ops.gace.geometry(edge_vector, degrees)
    return r, Y


def forward(edge_vector: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """What the operator ``gace::geometry`` does, without recording it."""
    edge_vector = edge_vector.contiguous()
    if gpu := fused("geometry", edge_vector):
        r, Y = gpu.forward(edge_vector, degrees)
    else:
        r, Y = _like(edge_vector, degrees)
        call("geometry_forward", r.dtype, [r.numel(), degrees], edge_vector, r, Y)
    return r, Y


def backward(g_distance: Tensor, g_harmonics: Tensor, edge_vector: Tensor, degrees: int) -> Tensor:
    """What the operator ``gace::geometry_backward`` does, without recording it."""
    tensors = [one.contiguous() for one in (g_distance, g_harmonics, edge_vector)]
    if gpu := fused("geometry", edge_vector):
        out: Tensor = gpu.backward(*tensors, degrees)
    else:
        out = edge_vector.new_empty(edge_vector.shape)
        call("geometry_backward", out.dtype, [g_distance.numel(), degrees], *tensors, out)
    return out


def _like(edge_vector: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    shape = edge_vector.shape[:-1]
    return edge_vector.new_empty(shape), edge_vector.new_empty(*shape, degrees**2)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    edge_vector, ctx.degrees = inputs
    ctx.save_for_backward(edge_vector)


def _of_forward(ctx: Any, g_distance: Tensor, g_harmonics: Tensor) -> tuple[Tensor, None]:
    return torch.ops.gace.geometry_backward(g_distance, g_harmonics, *ctx.saved_tensors, ctx.degrees), None


def _no_second_derivative(ctx: object, *gradients: Tensor | None) -> None:
    raise NotImplementedError("this operator is for evaluation: train without tables")


implement("geometry", forward)
implement("geometry_backward", backward)
_register = dict(lib=operators)
torch.library.register_fake("gace::geometry", _like, **_register)
torch.library.register_fake(
    "gace::geometry_backward", lambda g_r, g_Y, x, degrees: x.new_empty(x.shape), **_register
)
torch.library.register_autograd("gace::geometry", _of_forward, setup_context=_keep, **_register)
torch.library.register_autograd(
    "gace::geometry_backward", _no_second_derivative, setup_context=lambda *a, **k: None, **_register
)
