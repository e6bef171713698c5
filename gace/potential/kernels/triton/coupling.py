"""Weighted Clebsch–Gordan products on a GPU: one kernel for values and all derivatives.

The weighted sum of products is linear in four factors: the result's cotangent g, the weights w, x and y,

    Σ_t value[t] w[path(t), z(n), k] g[n, target(t), k] x[n, i(t), k] y[n, j(t), k],

and what is wanted is its derivative by one of them. Each is a sum over the terms that hold a given index
of that factor, of the product of the other three; only lists of terms and factors differ. Sums have a
fixed order and no atomics: results are the same from run to run. Where PyTorch can compile CUDA C++ a kernel
written out for the product at hand takes its place (``gace.potential.kernels.cuda``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from gace.potential.kernels.cuda import coupling as written
from gace.potential.kernels.triton.launch import channel_block, cuts, device_of


class Terms(NamedTuple):
    """Terms sorted by one index; the other three of each, in the order of the roles below."""

    start: Tensor
    """First term of each value of the index ``(outputs + 1,)``."""
    other: Tensor
    """``(terms, 3)``."""
    value: Tensor
    """``(terms,)``."""

    @property
    def outputs(self) -> int:
        """Number of values of the index."""
        return len(self.start) - 1


def terms(index: Tensor, value: Tensor, size: list[int], equal: bool) -> list[Terms]:
    """By target, path, left and right factor: what :func:`gace.potential.kernels.terms.by_role` has written.

    It stands behind the lists of the processor's kernels in the same buffers.
    """
    _, paths, left, right, targets, n_terms = size[:6]
    at, at_value = size[6] + size[7], 2 * n_terms
    by_left, by_right = (2 * n_terms, 0) if equal else (n_terms, n_terms)
    found = []
    for outputs, count in ((targets, n_terms), (paths, n_terms), (left, by_left), (right, by_right)):
        start, other = index[at : at + outputs + 1], index[at + outputs + 1 : at + outputs + 1 + 3 * count]
        found.append(Terms(start, other, value[at_value : at_value + count]))
        at, at_value = at + outputs + 1 + 3 * count, at_value + count
    return found


# lists of terms are pieces of one buffer: whether they start at a multiple of 16 bytes is chance
@triton.jit(
    do_not_specialize=["atoms", "outputs", "parts", "a_row", "a_atom", "b_atom", "c_atom"],
    do_not_specialize_on_alignment=["start", "other", "value", "owner"],
)
def _sum_of_products(
    out, start, other, value, owner, a, b, c, b2, c2,
    atoms, outputs, parts, a_row, a_atom, b_atom, c_atom,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BY_ELEMENT: tl.constexpr,
    TANGENT: tl.constexpr,
):  # fmt: skip
    """out[n, o] = Σ_t value a[t₀] b[t₁] c[t₂] over the terms of o; tangent: of b c2 + b2 c."""
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    part = tl.program_id(1)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (n < atoms)[:, None] & (k < K)[None, :]
    n = tl.minimum(n, atoms - 1)
    of_a = tl.load(owner + n) * a_atom if BY_ELEMENT else n * a_atom
    at_a = of_a[:, None] + k[None, :]
    at_b = (n * b_atom)[:, None] + k[None, :]
    at_c = (n * c_atom)[:, None] + k[None, :]
    at_out = (n * outputs * K)[:, None] + k[None, :]
    for o in range(outputs * part // parts, outputs * (part + 1) // parts):
        total = tl.zeros((BLOCK_N, BLOCK_K), dtype=out.dtype.element_ty)
        for t in range(tl.load(start + o), tl.load(start + o + 1)):
            row_a = tl.load(other + 3 * t) * a_row
            row_b = tl.load(other + 3 * t + 1) * K
            row_c = tl.load(other + 3 * t + 2) * K
            factor = tl.load(value + t) * tl.load(a + at_a + row_a, mask=inside, other=0.0)
            left = tl.load(b + at_b + row_b, mask=inside, other=0.0)
            right = tl.load(c + at_c + row_c, mask=inside, other=0.0)
            if TANGENT:
                left2 = tl.load(b2 + at_b + row_b, mask=inside, other=0.0)
                right2 = tl.load(c2 + at_c + row_c, mask=inside, other=0.0)
                total += factor * (left * right2 + left2 * right)
            else:
                total += factor * left * right
        tl.store(out + at_out + o * K, total, mask=inside)


def _sum(
    found: Terms,
    species: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    tangents: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``(N, outputs, K)``; ``a``: with species weights ``(rows, elements, K)``, else ``(N, rows, K)``."""
    atoms, K = b.shape[0], b.shape[2]
    out = b.new_empty(atoms, found.outputs, K)
    if out.numel() == 0:
        return out
    row, atom = (a.shape[1] * K, K) if species is not None else (K, a.shape[1] * K)
    block_k = channel_block(K)
    block_n = max(1, 256 // block_k)
    blocks, pieces = triton.cdiv(atoms, block_n), triton.cdiv(K, block_k)
    parts = cuts(blocks * pieces, found.outputs, b)
    b2, c2 = tangents or (b, c)
    with device_of(b):
        _sum_of_products[(blocks, parts, pieces)](
            out, found.start, found.other, found.value, found.start if species is None else species,
            a, b, c, b2, c2,
            atoms, found.outputs, parts, row, atom, b.shape[1] * K, c.shape[1] * K,
            K=K, BLOCK_N=block_n, BLOCK_K=block_k, BY_ELEMENT=species is not None,
            TANGENT=tangents is not None, num_warps=2,
        )  # fmt: skip
    return out


def _by_element(of_atoms: Tensor, species: Tensor, w: Tensor) -> Tensor:
    """Sum over the atoms of each element: ``(N, paths, K) -> (paths, elements, K)``."""
    summed = of_atoms.new_zeros(w.shape[1], *of_atoms.shape[1:]).index_add_(0, species, of_atoms)
    return summed.transpose(0, 1).contiguous()


def forward(*arguments: Any) -> Tensor:
    """Arguments of ``gace::coupling``, contiguous."""
    x, y, w, species, index, value, size, equal = arguments
    if (found := written.forward(size[-1], x, y, w, species)) is not None:
        return found
    return _sum(terms(index, value, size, equal)[0], species, w, x, y)


def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of ``gace::coupling_backward``, contiguous."""
    g, x, y, w, species, index, value, size, equal, of_y, of_w = arguments
    if (found := written.backward(size[-1], g, x, y, w, species, of_y, of_w)) is not None:
        of_x, slope_y, of_atoms = found
        return of_x, slope_y, _by_element(of_atoms, species, w) if of_w else of_atoms
    _, by_path, by_left, by_right = terms(index, value, size, equal)
    return (
        _sum(by_left, species, w, g, y),
        _sum(by_right, species, w, g, x) if of_y and not equal else x.new_empty(0),
        _by_element(_sum(by_path, None, g, x, y), species, w) if of_w else x.new_empty(0),
    )


def twice(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of ``gace::coupling_twice``, contiguous."""
    g, x, y, w, species, index, value, size, a, b, equal, of_y, of_w = arguments
    if (found := written.twice(size[-1], g, x, y, w, species, a, b, of_y, of_w)) is not None:
        of_g, of_x, slope_y, of_atoms = found
        return of_g, of_x, slope_y, _by_element(of_atoms, species, w) if of_w else of_atoms
    by_target, by_path, by_left, by_right = terms(index, value, size, equal)
    return (
        _sum(by_target, species, w, x, y, (a, b)),
        _sum(by_left, species, w, g, b),
        _sum(by_right, species, w, g, a) if of_y and not equal else x.new_empty(0),
        _by_element(_sum(by_path, None, g, x, y, (a, b)), species, w) if of_w else x.new_empty(0),
    )
