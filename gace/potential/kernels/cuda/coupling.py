"""The couplings by kernels written out for each of them; None where the general kernel must do."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from gace.potential.kernels.cuda.compile import Launch, compiled, launch, supported
from gace.potential.kernels.cuda.written import product, source

MOST_TERMS = 4000
"""Terms up to which a product is written out: compiling takes seconds for some thousand."""

_REAL = {torch.float32: "float", torch.float64: "double"}


@functools.cache
def _kernel(
    name: str, key: int, K: int, dtype: torch.dtype, device: torch.device, of_y: bool, of_w: bool
) -> Launch | None:
    what = product(key)
    if what.n_terms > MOST_TERMS or not supported():
        return None
    return compiled(name, source(name, what, K, _REAL[dtype], of_y, of_w), device)


def _of(name: str, key: int, x: Tensor, of_y: bool = False, of_w: bool = False) -> Launch | None:
    if x.device.type != "cuda" or x.numel() == 0:
        return None
    return _kernel(name, key, x.shape[2], x.dtype, x.device, of_y, of_w)


def forward(key: int, x: Tensor, y: Tensor, w: Tensor, species: Tensor) -> Tensor | None:
    """``(N, targets, K)`` as ``gace::coupling`` has it."""
    kernel, what = _of("forward", key, x), product(key)
    if kernel is None:
        return None
    out = x.new_empty(x.shape[0], what.targets, x.shape[2])
    own = [x] if what.equal else [x, y]
    launch(kernel, x.shape[0] * x.shape[2], [*own, w, species, out, x.shape[0], w.shape[1]])
    return out


def backward(
    key: int, g: Tensor, x: Tensor, y: Tensor, w: Tensor, species: Tensor, of_y: bool, of_w: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """As ``gace::coupling_backward``, the derivative by the weights atom by atom ``(N, paths, K)``."""
    what = product(key)
    of_y = of_y and not what.equal
    kernel = _of("backward", key, x, of_y, of_w)
    if kernel is None:
        return None
    gx, gy, gw = _room(x, y, what.paths, of_y, of_w)
    own = [x] if what.equal else [x, y]
    made = [gx, *([gy] if of_y else []), *([gw] if of_w else [])]
    launch(kernel, x.shape[0] * x.shape[2], [g, *own, w, species, *made, x.shape[0], w.shape[1]])
    return gx, gy, gw


def twice(
    key: int,
    g: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    species: Tensor,
    a: Tensor,
    b: Tensor,
    of_y: bool,
    of_w: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """As ``gace::coupling_twice``, the derivative by the weights atom by atom ``(N, paths, K)``."""
    what = product(key)
    of_y = of_y and not what.equal
    kernel = _of("twice", key, x, of_y, of_w)
    if kernel is None:
        return None
    gx, gy, gw = _room(x, y, what.paths, of_y, of_w)
    gg = torch.empty_like(g)
    own = [x, a] if what.equal else [x, y, a, b]
    made = [gg, gx, *([gy] if of_y else []), *([gw] if of_w else [])]
    launch(kernel, x.shape[0] * x.shape[2], [g, *own, w, species, *made, x.shape[0], w.shape[1]])
    return gg, gx, gy, gw


def _room(x: Tensor, y: Tensor, paths: int, of_y: bool, of_w: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty arrays for what is owed to x, y and the weights; none of them the same."""
    return (
        torch.empty_like(x),
        torch.empty_like(y) if of_y else x.new_empty(0),
        x.new_empty(x.shape[0], paths, x.shape[2]) if of_w else x.new_empty(0),
    )
