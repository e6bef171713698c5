"""The density summed over neighbours as an operator that can be differentiated twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gace.potential.kernels.calls import call, folded, fused, implement, no_third_derivative, operators

_IN = "Tensor harmonics, Tensor radial, Tensor messages, Tensor index"
operators.define(f"density({_IN}) -> Tensor")
operators.define(f"density_backward(Tensor g, {_IN}) -> (Tensor, Tensor, Tensor)")
operators.define(
    f"density_twice(Tensor g, {_IN}, Tensor a, Tensor b, Tensor c) -> (Tensor, Tensor, Tensor, Tensor)"
)


def density(harmonics: Tensor, radial: Tensor, messages: Tensor | None, index: Tensor | None) -> Tensor:
    """``Σ_j Y_lm(n, j) R_lk(n, j) I_ck(index(n, j))``.

    Args:
        harmonics: Y ``(N, J, (l_max+1)²)``.
        radial: R ``(N, J, l_max+1, K)``.
        messages: I ``(M, C, K)``; None for I = 1 with C = 1.
        index: row of ``messages`` for each neighbour ``(N, J)``; None if there is one row per neighbour.

    Returns:
        ``(N, (l_max+1)² C, K)``, lm first.
    """
    nothing = radial.new_empty(0)
    out: Tensor = torch.ops.gace.density(
        harmonics,
        radial,
        nothing if messages is None else messages,
        nothing.to(torch.int64) if index is None else index,
    )
    return out


def _size(radial: Tensor, messages: Tensor) -> list[int]:
    N, J, degrees, K = radial.shape
    carried = messages.numel() > 0
    components = messages.shape[1] if carried else 1
    return [N, J, degrees, components, K, messages.shape[0] if carried else 0, degrees**2]


def _given(x: Tensor) -> Tensor | None:
    """None for the tensor that stands for nothing."""
    return x if x.numel() else None


def _shape(harmonics: Tensor, radial: Tensor, messages: Tensor) -> tuple[int, int, int]:
    components = messages.shape[1] if messages.ndim == 3 else 1
    return radial.shape[0], harmonics.shape[2] * components, radial.shape[3]


def _forward(*arguments: Tensor) -> Tensor:
    Y, R, I, index = (one.contiguous() for one in arguments)
    if gpu := fused("density", R):
        return gpu.forward(Y, R, I, index)
    out = R.new_empty(_shape(Y, R, I))
    call("density_forward", R.dtype, _size(R, I), _given(index), Y, R, _given(I), out)
    return out


def _backward(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    g, Y, R, I, index = (one.contiguous() for one in arguments)
    if gpu := fused("density", R):
        return gpu.backward(g, Y, R, I, index)
    slopes = torch.empty_like(Y), torch.empty_like(R), torch.empty_like(I)
    call("density_backward", R.dtype, _size(R, I), _given(index), g, Y, R, _given(I), *slopes)
    return slopes


def _twice(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g, Y, R, I, index, a, b, c = (one.contiguous() for one in arguments)
    if gpu := fused("density", R):
        return gpu.twice(g, Y, R, I, index, a, b, c)
    slopes = torch.empty_like(g), torch.empty_like(Y), torch.empty_like(R), torch.empty_like(I)
    size = _size(R, I)
    call(
        "density_twice", R.dtype, size, _given(index), g, Y, R, _given(I), a, b, _given(c), *slopes
    )  # fmt: skip
    return slopes


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(one, memory_format=torch.contiguous_format) for one in tensors)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: object) -> None:
    ctx.save_for_backward(*inputs)


def _of_forward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.gace.density_backward(g, *ctx.saved_tensors), None)


def _of_backward(ctx: Any, *owed: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.gace.density_twice(*ctx.saved_tensors, *owed), None)


def _over_members(info: Any, dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Tensor, int]:
    """The sum for several potentials at once."""
    Y, R, I, index = (folded(one, dim, info.batch_size) for one, dim in zip(arguments, dims, strict=True))
    if index.numel():
        first = torch.arange(info.batch_size, device=index.device) * (len(I) // info.batch_size)
        index = index + first.repeat_interleave(len(index) // info.batch_size)[:, None]
    return torch.ops.gace.density(Y, R, I, index).unflatten(0, (info.batch_size, -1)), 0


implement("density", _forward)
implement("density_backward", _backward)
implement("density_twice", _twice)
_register = dict(lib=operators)
torch.library.register_fake(
    "gace::density", lambda Y, R, I, index: R.new_empty(_shape(Y, R, I)), **_register
)  # fmt: skip
torch.library.register_fake(
    "gace::density_backward", lambda g, Y, R, I, index: _like(Y, R, I), **_register
)  # fmt: skip
torch.library.register_fake(
    "gace::density_twice", lambda g, Y, R, I, index, a, b, c: _like(g, Y, R, I), **_register
)  # fmt: skip
torch.library.register_autograd("gace::density", _of_forward, setup_context=_keep, **_register)
torch.library.register_autograd("gace::density_backward", _of_backward, setup_context=_keep, **_register)
torch.library.register_autograd("gace::density_twice", no_third_derivative, setup_context=_keep, **_register)
torch.library.register_vmap("gace::density", _over_members, **_register)
