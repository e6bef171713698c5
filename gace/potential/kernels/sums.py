"""Sums over the neighbours of an atom of functions of the distance alone; differentiated once.

A coordination number, the core repulsion and the density of close bonds, in one pass over the bonds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gace.basis import smooth_cutoff
from gace.potential.kernels.calls import call, implement, operators
from gace.potential.kernels.cuda import bonds as warps
from gace.potential.kernels.triton.launch import runs_on
from gace.potential.zbl import AMPLITUDE, DECAY

_IN = (
    "Tensor distance, Tensor centre, Tensor neighbour, Tensor constants, "
    "int power, bool repulsion, bool inner"
)
operators.define(f"bond_sums({_IN}) -> Tensor")
operators.define(f"bond_sums_backward(Tensor g, {_IN}) -> Tensor")


def bond_sums(
    distance: Tensor,
    species: tuple[Tensor, Tensor],
    constants: Tensor,
    power: int,
    *,
    repulsion: bool,
    inner: bool,
) -> Tensor:
    """Three sums over the neighbours of each atom ``(N, 3)``.

    They are the number of neighbours, each counted by :func:`gace.basis.smooth_cutoff`; the repulsion of
    :class:`gace.potential.zbl.CoreRepulsion`, eV; and the density of
    :class:`gace.potential.inner_cutoff.InnerCutoff`. They cannot be differentiated twice.

    Args:
        distance: r, Å ``(N, J)``.
        species: element index of the centres ``(N,)`` and of the neighbours ``(N, J)``.
        constants: of the pair of centre a and neighbour b in row ``a n_elements + b``: inverse of its cutoff;
            charges, inverse length and inverse range of its repulsion; reach (times the inverse width) and
            inverse width of its inner cutoff ``(n_elements², 6)``.
        power: p of the cutoff.
        repulsion: whether there is any; else its sum is 0.
        inner: likewise of inner cutoffs.
    """
    out: Tensor = torch.ops.gace.bond_sums(distance, *species, constants, power, repulsion, inner)
    return out


def _size(r: Tensor, constants: Tensor, power: int, repulsion: bool, inner: bool) -> list[int]:
    """What C asks first."""
    return [*r.shape, math.isqrt(len(constants)), power, repulsion, inner]


def forward(r: Tensor, *arguments: Any) -> Tensor:
    """What the operator ``gace::bond_sums`` does, without recording it."""
    r, *tables = (one.contiguous() for one in (r, *arguments[:3]))
    if r.device.type != "cpu" or runs_on(r):
        found = warps.sums_forward(r, *tables, *arguments[3:])
        return _plain_forward(r, *arguments) if found is None else found
    out = r.new_empty(len(r), 3)
    size = _size(r, tables[2], *arguments[3:])
    call("bond_sums_forward", r.dtype, size, *tables, r, out)
    return out


def backward(g: Tensor, r: Tensor, *arguments: Any) -> Tensor:
    """What the operator ``gace::bond_sums_backward`` does, without recording it."""
    g, r, *tables = (one.contiguous() for one in (g, r, *arguments[:3]))
    if r.device.type != "cpu" or runs_on(r):
        found = warps.sums_backward(g, r, *tables, *arguments[3:])
        return _plain_backward(g, r, *arguments) if found is None else found
    out = r.new_empty(r.shape)
    size = _size(r, tables[2], *arguments[3:])
    call("bond_sums_backward", r.dtype, size, *tables, g, r, out)
    return out


def _of_bonds(centre: Tensor, neighbour: Tensor, constants: Tensor) -> tuple[Tensor, ...]:
    """The constants of each bond, six times ``(N, J)``."""
    pair = centre.unsqueeze(1) * math.isqrt(len(constants)) + neighbour
    return constants.index_select(0, pair.reshape(-1)).view(*pair.shape, -1).unbind(-1)


def _plain_forward(
    r: Tensor, centre: Tensor, neighbour: Tensor, constants: Tensor, power: int, repulsion: bool, inner: bool
) -> Tensor:
    """The sums by PyTorch, where there is no kernel for them: on a GPU without a compiler."""
    inverse_cutoff, charges, inverse_length, inverse_range, reach, inverse_width = _of_bonds(
        centre, neighbour, constants
    )
    coordination = smooth_cutoff(r * inverse_cutoff, 1.0, power).sum(1)
    core, close = torch.zeros_like(coordination), torch.zeros_like(coordination)
    if repulsion:
        screening = _screening(r * inverse_length)[0]
        core = (charges / r * screening * smooth_cutoff(r * inverse_range, 1.0)).sum(1)
    if inner:
        close = (reach - r * inverse_width).clamp(min=0.0).pow(6).sum(1)
    return torch.stack([coordination, core, close], dim=1)


def _plain_backward(
    g: Tensor,
    r: Tensor,
    centre: Tensor,
    neighbour: Tensor,
    constants: Tensor,
    power: int,
    repulsion: bool,
    inner: bool,
) -> Tensor:
    """Likewise their derivative by the distances."""
    inverse_cutoff, charges, inverse_length, inverse_range, reach, inverse_width = _of_bonds(
        centre, neighbour, constants
    )
    of_coordination, of_core, of_close = g.unsqueeze(1).unbind(-1)
    slope = of_coordination * inverse_cutoff * _cutoff_slope(r * inverse_cutoff, power)
    if repulsion:
        screening, steep = _screening(r * inverse_length)
        switched = smooth_cutoff(r * inverse_range, 1.0)
        of_switch = _cutoff_slope(r * inverse_range, 6) * inverse_range
        bracket = (steep * inverse_length - screening / r) * switched + screening * of_switch
        slope = slope + of_core * charges / r * bracket
    if inner:
        u = (reach - r * inverse_width).clamp(min=0.0)
        slope = slope - 6.0 * of_close * inverse_width * u.pow(5)
    return slope


def _screening(x: Tensor) -> tuple[Tensor, Tensor]:
    """φ(x) of the core repulsion and its slope."""
    value, slope = torch.zeros_like(x), torch.zeros_like(x)
    for amplitude, decay in zip(AMPLITUDE, DECAY, strict=True):
        term = amplitude * torch.exp(-decay * x)
        value, slope = value + term, slope - decay * term
    return value, slope


def _cutoff_slope(u: Tensor, power: int) -> Tensor:
    """Slope of the smooth cutoff at a share u of it."""
    u = u.clamp(max=1.0)
    return -0.5 * power * (power + 1) * (power + 2) * u.pow(power - 1) * (1.0 - u).square()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    *tensors, ctx.power, ctx.repulsion, ctx.inner = inputs
    ctx.save_for_backward(*tensors)


def _of_forward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    slope = torch.ops.gace.bond_sums_backward(g, *ctx.saved_tensors, ctx.power, ctx.repulsion, ctx.inner)
    return (slope, *[None] * 6)


def _no_second_derivative(ctx: object, *gradients: Tensor | None) -> None:
    raise NotImplementedError("this operator is for evaluation: train without tables")


implement("bond_sums", forward)
implement("bond_sums_backward", backward)
_register = dict(lib=operators)
torch.library.register_fake(
    "gace::bond_sums", lambda r, *arguments: r.new_empty(r.shape[0], 3), **_register
)  # fmt: skip
torch.library.register_fake(
    "gace::bond_sums_backward", lambda g, r, *arguments: r.new_empty(r.shape), **_register
)  # fmt: skip
torch.library.register_autograd("gace::bond_sums", _of_forward, setup_context=_keep, **_register)
torch.library.register_autograd(
    "gace::bond_sums_backward", _no_second_derivative, setup_context=lambda *a, **k: None, **_register
)
