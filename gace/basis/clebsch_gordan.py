"""Clebsch–Gordan coefficients in the basis of real spherical harmonics."""

from __future__ import annotations

from functools import cache
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray


def _complex_coefficient(l1: int, m1: int, l2: int, m2: int, L: int, M: int) -> float:
    """⟨l1 m1 l2 m2 | L M⟩ by Racah's sum (Condon–Shortley phase)."""
    if m1 + m2 != M:
        return 0.0
    prefactor = sqrt(
        (2 * L + 1)
        * factorial(L + l1 - l2)
        * factorial(L - l1 + l2)
        * factorial(l1 + l2 - L)
        / factorial(l1 + l2 + L + 1)
    ) * sqrt(
        factorial(L + M)
        * factorial(L - M)
        * factorial(l1 - m1)
        * factorial(l1 + m1)
        * factorial(l2 - m2)
        * factorial(l2 + m2)
    )
    total = 0.0
    for k in range(max(0, l2 - L - m1, l1 - L + m2), min(l1 + l2 - L, l1 - m1, l2 + m2) + 1):
        total += (-1) ** k / (
            factorial(k)
            * factorial(l1 + l2 - L - k)
            * factorial(l1 - m1 - k)
            * factorial(l2 + m2 - k)
            * factorial(L - l2 + m1 + k)
            * factorial(L - l1 - m2 + k)
        )
    return prefactor * total


@cache
def _real_from_complex(l: int) -> NDArray[np.complex128]:
    """Unitary matrix from complex to real harmonics ``(2l+1 real, 2l+1 complex)``, m = -l … l."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    u[l, l] = 1
    for m in range(1, l + 1):
        sign = (-1) ** m
        u[l + m, l - m], u[l + m, l + m] = 1 / sqrt(2), sign / sqrt(2)
        u[l - m, l - m], u[l - m, l + m] = 1j / sqrt(2), -1j * sign / sqrt(2)
    return u


@cache
def real_clebsch_gordan(l1: int, l2: int, L: int) -> NDArray[np.float64]:
    """Coefficients C that make ``Σ C[M, m1, m2] x[m1] y[m2]`` transform as degree ``L``.

    The rows are orthonormal: ``Σ_{m1 m2} C[M, m1, m2] C[M', m1, m2] = δ_{MM'}``. Where
    ``l1 + l2 + L`` is odd the product is a pseudo-tensor (the cross product is the example);
    its coefficients are purely imaginary in this basis, and their imaginary part is returned.

    Args:
        l1: degree of the first factor.
        l2: degree of the second factor.
        L: degree of the product.

    Returns:
        Array ``(2L+1, 2l1+1, 2l2+1)``, components ordered m = -l … l.

    Raises:
        ValueError: the triangle condition ``|l1 - l2| ≤ L ≤ l1 + l2`` does not hold.
    """
    if not abs(l1 - l2) <= L <= l1 + l2:
        raise ValueError(f"degrees {l1} and {l2} do not couple to {L}")
    complex_table = np.zeros((2 * L + 1, 2 * l1 + 1, 2 * l2 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= L:
                complex_table[L + m1 + m2, l1 + m1, l2 + m2] = _complex_coefficient(
                    l1, m1, l2, m2, L, m1 + m2
                )
    table = np.einsum(
        "Mc,cab,ma,nb->Mmn",
        _real_from_complex(L),
        complex_table,
        _real_from_complex(l1).conj(),
        _real_from_complex(l2).conj(),
    )
    real, imaginary = np.abs(table.real).max(), np.abs(table.imag).max()
    return np.ascontiguousarray(table.real if real > imaginary else table.imag)
