"""Distances and real spherical harmonics of the bonds on a GPU, and the derivative by the bond vectors.

With the unit vector u = (x, y, z) and m ≥ 0

    Y[l, m] = Q[l, m](z) Re (x + iy)^m,    Y[l, -m] = Q[l, m](z) Im (x + iy)^m.

Q is the m-th derivative of the Legendre polynomial P_l times √((2l+1) (2 - δ_m0) (l-m)! / (l+m)!); it obeys
a recurrence in l with constants known when the kernel is compiled. Each thread has a bond of its own, and
everything stays in registers. On the sphere this is what :class:`gace.basis.SphericalHarmonics` gives; off
it the two continue differently, which the derivative by the direction does not see.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gace.potential.kernels.cuda import bonds as warps
from gace.potential.kernels.triton.launch import device_of

BONDS = 32
"""Bonds that one program takes: one warp's, so that few bonds too are spread over the whole device."""


@triton.jit
def _direction(vector, e, here):
    """Unit vectors and lengths."""
    x = tl.load(vector + 3 * e, mask=here, other=1.0)
    y = tl.load(vector + 3 * e + 1, mask=here, other=1.0)
    z = tl.load(vector + 3 * e + 2, mask=here, other=1.0)
    r = tl.sqrt(x * x + y * y + z * z)
    return x / r, y / r, z / r, r


@triton.jit
def _sectoral(m: tl.constexpr, q):
    """Q[m, m] from q = Q[m-1, m-1]."""
    ratio: tl.constexpr = ((2 * m + 1) / (2 if m > 1 else 1) / m) ** 0.5
    return q * ratio


@triton.jit
def _raised(l: tl.constexpr, m: tl.constexpr, zq, before):
    """Q[l, m] from zq = z Q[l-1, m] and before = Q[l-2, m], for l > m."""
    a: tl.constexpr = ((4 * l * l - 1) / (l * l - m * m)) ** 0.5
    b: tl.constexpr = (((l - 1) * (l - 1) - m * m) / (4 * (l - 1) * (l - 1) - 1)) ** 0.5
    return a * (zq - b * before)


@triton.jit(do_not_specialize=["bonds"])
def _forward(vector, distance, harmonics, bonds, L: tl.constexpr, BLOCK_E: tl.constexpr):
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    here = e < bonds
    x, y, z, r = _direction(vector, e, here)
    tl.store(distance + e, r, mask=here)
    Y = harmonics + e * (L * L)
    zero = tl.zeros((BLOCK_E,), dtype=r.dtype)
    real, imaginary, top = zero + 1, zero, zero + 1  # Re and Im (x+iy)^m, and Q[m, m]
    for m in tl.static_range(L):
        if m > 0:
            turned = x * imaginary + y * real
            real = x * real - y * imaginary
            imaginary = turned
            top = _sectoral(m, top)
        q, before = top, zero
        for l in tl.static_range(m, L):
            if l > m:
                raised = _raised(l, m, z * q, before)
                before = q
                q = raised
            tl.store(Y + (l * l + l + m), q * real, mask=here)
            if m > 0:
                tl.store(Y + (l * l + l - m), q * imaginary, mask=here)


@triton.jit(do_not_specialize=["bonds"])
def _backward(vector, owed_r, owed_Y, out, bonds, L: tl.constexpr, BLOCK_E: tl.constexpr):
    e = (tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    here = e < bonds
    x, y, z, r = _direction(vector, e, here)
    Y = owed_Y + e * (L * L)
    zero = tl.zeros((BLOCK_E,), dtype=r.dtype)
    gx, gy, gz = zero, zero, zero
    real, imaginary, top = zero + 1, zero, zero + 1
    for m in tl.static_range(L):
        lower_real, lower_imaginary = real, imaginary  # powers of m - 1
        if m > 0:
            real = x * lower_real - y * lower_imaginary
            imaginary = x * lower_imaginary + y * lower_real
            top = _sectoral(m, top)
        q, before, slope, slope_before = top, zero, zero, zero
        # what is owed to Re and Im (x+iy)^m, and the same with the slopes of Q
        to_real, to_imaginary, by_z_real, by_z_imaginary = zero, zero, zero, zero
        for l in tl.static_range(m, L):
            if l > m:
                steeper = _raised(l, m, q + z * slope, slope_before)
                raised = _raised(l, m, z * q, before)
                before = q
                slope_before = slope
                q = raised
                slope = steeper
            if l > 0:  # Y_00 is constant
                g = tl.load(Y + (l * l + l + m), mask=here, other=0.0)
                to_real += g * q
                by_z_real += g * slope
                if m > 0:
                    g = tl.load(Y + (l * l + l - m), mask=here, other=0.0)
                    to_imaginary += g * q
                    by_z_imaginary += g * slope
        gz += by_z_real * real + by_z_imaginary * imaginary
        if m > 0:
            gx += m * (to_real * lower_real + to_imaginary * lower_imaginary)
            gy += m * (to_imaginary * lower_real - to_real * lower_imaginary)
    along = gx * x + gy * y + gz * z
    g = tl.load(owed_r + e, mask=here, other=0.0) - along / r
    tl.store(out + 3 * e, g * x + gx / r, mask=here)
    tl.store(out + 3 * e + 1, g * y + gy / r, mask=here)
    tl.store(out + 3 * e + 2, g * z + gz / r, mask=here)


def _launch(kernel: Any, degrees: int, bonds: int, *arguments: Tensor) -> None:
    if bonds:
        with device_of(arguments[0]):
            kernel[(triton.cdiv(bonds, BONDS),)](*arguments, bonds, L=degrees, BLOCK_E=BONDS, num_warps=1)


def forward(edge_vector: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """Arguments of ``gace::geometry``, contiguous."""
    if (found := warps.geometry_forward(edge_vector, degrees)) is not None:
        return found
    shape = edge_vector.shape[:-1]
    r, Y = edge_vector.new_empty(shape), edge_vector.new_empty(*shape, degrees**2)
    _launch(_forward, degrees, r.numel(), edge_vector, r, Y)
    return r, Y


def backward(g_distance: Tensor, g_harmonics: Tensor, edge_vector: Tensor, degrees: int) -> Tensor:
    """Arguments of ``gace::geometry_backward``, contiguous."""
    found = warps.geometry_backward(g_distance, g_harmonics, edge_vector, degrees)
    if found is not None:
        return found
    out = edge_vector.new_empty(edge_vector.shape)
    _launch(_backward, degrees, g_distance.numel(), edge_vector, g_distance, g_harmonics, out)
    return out
