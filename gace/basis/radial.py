"""Radial functions R(r): a fixed basis, a small network on it, and a smooth end at the cutoff."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from gace.errors import InputError, nearest

KINDS = ("bessel", "chebyshev")


def smooth_cutoff(r: Tensor, cutoff: float, power: int = 6) -> Tensor:
    """Polynomial that falls from 1 at r = 0 to 0 at the cutoff with two vanishing derivatives there.

    ``1 - (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) - p(p+1)/2 u^(p+2)``, u = r / r_cut; exactly zero
    beyond, so that padding slots of the neighbour axis contribute nothing.

    Args:
        r: distances, Å, any shape.
        cutoff: r_cut, Å.
        power: p ≥ 2; larger values keep the function near 1 for longer.
    """
    u = (r / cutoff).clamp(max=1.0)
    p = float(power)
    high = u**power
    return 1.0 - high * ((p + 1) * (p + 2) / 2 - u * (p * (p + 2) - u * (p * (p + 1) / 2)))


FEW_ELEMENTS = 32
"""Elements up to which parameters are looked up by a product on a GPU."""


def of_elements(parameters: Tensor, element: Tensor) -> Tensor:
    """Parameters of each element in the place of its index: ``(n_elements, F), (…) -> (…, F)``.

    On a GPU as a product with zeros and ones: the derivative is then a product too, where a lookup's would
    be a sum of all bonds into a few rows, one after the other (two thirds of a training step).
    """
    if parameters.device.type != "cuda" or len(parameters) > FEW_ELEMENTS:
        return parameters[element]
    places = torch.arange(len(parameters), device=parameters.device)
    return (element.unsqueeze(-1) == places).to(parameters.dtype) @ parameters


class RadialBasis(nn.Module):
    """Fixed radial basis g_n(r) without the cutoff factor.

    ``bessel``: ``√(2/r_cut) sin(nπ r/r_cut)/r · r_cut/2``, n = 1 … n_max (orthogonal on a sphere);
    ``chebyshev``: T_n(2 r/r_cut - 1), n = 0 … n_max - 1. With ``decay`` a the n-th function (from 1) is
    divided by n^a: a prior of smoothness for whatever is learnt on top.
    """

    def __init__(self, kind: str, n_max: int, cutoff: float, decay: float = 0.0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"no radial basis called '{kind}'{nearest(kind, KINDS)}")
        self.kind, self.n_max, self.cutoff = kind, n_max, cutoff
        order = torch.arange(1, n_max + 1, dtype=torch.float64) * (math.pi / cutoff)
        self.register_buffer("wave_number", order, persistent=False)
        prior = torch.arange(1, n_max + 1, dtype=torch.float64) ** -decay
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, r: Tensor) -> Tensor:
        """``(...,) -> (..., n_max)``; ``r`` in Å and positive."""
        r = r.unsqueeze(-1)
        if self.kind == "bessel":
            # sin is evaluated inside the cutoff only: beyond it the cutoff factor is zero
            return torch.sin(r * self.wave_number) * self.prior * (self.cutoff / math.sqrt(2.0) / r)
        x = (r * (2.0 / self.cutoff) - 1.0).clamp(max=1.0)
        functions = [torch.ones_like(x), x]
        while len(functions) < self.n_max:
            functions.append(2.0 * x * functions[-1] - functions[-2])
        return torch.cat(functions[: self.n_max], dim=-1) * self.prior


SILU_GAIN = 1.6
"""SiLU keeps about 0.36 of the variance of a unit normal input."""


class RadialNetwork(nn.Module):
    """Radial functions R_{k,l}(r; μ_j, μ_i) = f_cut(r) · network(g(r)) for K channels and l = 0 … l_max.

    The elements of both ends shift the first hidden layer, so that every pair of elements has
    radial functions of its own at no cost on the bond. With no hidden layer the functions are
    linear in the basis and the elements do not enter. Multiplying by the cutoff factor last
    makes them, and every energy, smooth at the cutoff.
    """

    def __init__(
        self,
        *,
        n_elements: int,
        n_basis: int,
        n_out: int,
        hidden: tuple[int, ...],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = [n_basis, *hidden, n_out]
        self.weights = nn.ParameterList(
            torch.randn(a, b, generator=generator, dtype=torch.float64) / math.sqrt(a)
            for a, b in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(
            0.1 * torch.randn(b, generator=generator, dtype=torch.float64) for b in sizes[2:-1]
        )
        if hidden:
            shape = (n_elements, hidden[0])
            self.neighbour_shift = nn.Parameter(
                0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
            )
            self.centre_shift = nn.Parameter(
                0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
            )

    def forward(self, basis: Tensor, centre: Tensor, neighbour: Tensor, cutoff: Tensor) -> Tensor:
        """Radial functions R.

        Args:
            basis: ``(N, J, n_basis)``.
            centre: element index of the centre ``(N,)``.
            neighbour: element index of the neighbours ``(N, J)``.
            cutoff: cutoff factor ``(N, J, 1)``.

        Returns:
            ``(N, J, n_out)``.
        """
        return self.hidden(basis, centre, neighbour, cutoff) @ self.weights[-1]

    def hidden(self, basis: Tensor, centre: Tensor, neighbour: Tensor, cutoff: Tensor) -> Tensor:
        """What the radial functions are linear in: R = ``hidden @ weights[-1]``; see :meth:`forward`."""
        if len(self.weights) == 1:
            return basis * cutoff
        x = basis @ self.weights[0]
        pair = of_elements(self.centre_shift, centre).unsqueeze(1)
        pair = pair + of_elements(self.neighbour_shift, neighbour)
        x = nn.functional.silu(x + pair)
        for weight, bias in zip(list(self.weights)[1:-1], self.biases, strict=True):
            x = nn.functional.silu(torch.nn.functional.linear(x, weight.T, bias))
        # the factors go to the narrow side
        return x * (cutoff * SILU_GAIN)

    def hidden_with_derivatives(self, basis: Tensor, centre: int, neighbour: int, cutoff: Tensor) -> Tensor:
        """The same for one pair of elements with its first two derivatives by the distance.

        Args:
            basis: its value and two derivatives ``(3, n, n_basis)``.
            centre: element index.
            neighbour: element index.
            cutoff: likewise ``(3, n, 1)``.

        Returns:
            ``(3, n, H)``.
        """
        x = basis
        if len(self.weights) > 1:
            pair = self.centre_shift[centre] + self.neighbour_shift[neighbour]
            x = _silu_with_derivatives(basis @ self.weights[0], pair)
            for weight, bias in zip(list(self.weights)[1:-1], self.biases, strict=True):
                x = _silu_with_derivatives(x @ weight, bias)
            cutoff = cutoff * SILU_GAIN
        bend = x[2] * cutoff[0] + 2.0 * x[1] * cutoff[1] + x[0] * cutoff[2]
        return torch.stack([x[0] * cutoff[0], x[1] * cutoff[0] + x[0] * cutoff[1], bend])


def _silu_with_derivatives(x: Tensor, bias: Tensor) -> Tensor:
    """SiLU of ``x + bias`` with two derivatives, given those of x ``(3, …)``."""
    value = x[0] + bias
    share = torch.sigmoid(value)
    rest = 1.0 - share
    slope = share * (1.0 + value * rest)
    bend = share * rest * (2.0 + value * (rest - share))
    return torch.stack([value * share, slope * x[1], bend * x[1].square() + slope * x[2]])
