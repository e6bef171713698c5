"""The hand-written kernels: values by sums written out, derivatives by differences, layers without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch.autograd import gradcheck, gradgradcheck

import gace.potential.layer
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels import WeightedCoupling, available, density
from gace.potential.kernels.build import library
from gace.potential.kernels.terms import Terms
from gace.potential.presets import PRESETS
from gace.structures.neighbours import build_graph

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels")

N, PATHS, TARGETS = 4, [0, 0, 1, 1, 2, 3, 3], [0, 1, 2, 0, 1, 2, 3]
WIDTHS = [3, 9, 17, 35]
"""Channels: fewer than a vector holds, one vector and a rest, two and a rest, four and a rest."""


def draw(*shape: int) -> torch.Tensor:
    """Normal numbers that are differentiated by."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("equal", [False, True])
def test_weighted_coupling(threads, channels, equal):
    """Values, first and second derivatives of the products, for unequal and for equal factors."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 5, 5 if equal else 6)) * (rng.random((7, 5, 5 if equal else 6)) < 0.3)
    coupling = WeightedCoupling(table, PATHS, TARGETS, targets=4, equal=equal).double()
    species = torch.tensor([0, 1, 1, 0])
    x, w = draw(N, 5, channels).requires_grad_(), draw(4, 2, channels).requires_grad_()
    y = x if equal else draw(N, 6, channels).requires_grad_()
    rows = torch.einsum("rij,nik,njk->nrk", torch.from_numpy(table), x, y)
    weighted = rows * w[PATHS][:, species].transpose(0, 1)
    expected = rows.new_zeros(N, 4, channels).index_add(1, torch.tensor(TARGETS), weighted)
    assert torch.allclose(coupling(x, y, w, species), expected, atol=1e-12, rtol=1e-12)

    def of_all(*factors):
        return coupling(factors[0], factors[0] if equal else factors[1], factors[-1], species)

    everything = (x, w) if equal else (x, y, w)
    assert gradcheck(of_all, everything, fast_mode=channels > 9)
    assert gradgradcheck(of_all, everything, fast_mode=channels > 3)


def test_terms_of_stacked_rows_are_those_of_the_stacked_array():
    """Whole or the first rows only, without what rounding left of zeros."""
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(n, 5, 6)) * (rng.random((n, 5, 6)) < 0.3) for n in (4, 3))
    one[1, 2, 3], one[2] = 1e-14, 0.0
    found = Terms.stacked([Terms.of(one), Terms.of(other).first(2), Terms.of(one).first(0)])
    dense = np.zeros(found.shape)
    dense[tuple(found.where)] = found.value
    assert np.array_equal(dense, np.concatenate([np.where(np.abs(one) > 1e-12, one, 0.0), other[:2]]))
    assert np.array_equal(np.lexsort(found.where[::-1]), np.arange(len(found.value)))


def decoded(numbers: list[int], values: list[float]) -> list[tuple[int, int, int, int, float]]:
    """Both numbers of an inner and of an outer item, and the coefficient, as ``coupling.h`` reads them."""
    found, at, c = [], 1, 0
    for _ in range(numbers[0]):
        n = numbers[at]
        inner = [tuple(numbers[at + 1 + 2 * k : at + 3 + 2 * k]) for k in range(n)]
        at += 1 + 2 * n
        groups, at = numbers[at], at + 1
        for _ in range(groups):
            terms, count = numbers[at : at + 2]
            at += 2
            for _ in range(count):
                outer = numbers[at : at + 2]
                for which in numbers[at + 2 : at + 2 + terms]:
                    found.append((*inner[which], *outer, values[c]))
                    c += 1
                at += 2 + terms
    assert (at, c) == (len(numbers), len(values))
    return found


@pytest.mark.parametrize("equal", [False, True])
def test_lists_hold_every_term_once(equal):
    """In either order; rows that share no pair are in chunks of their own, so that these stay small."""
    rng = np.random.default_rng(1)
    blocks = [rng.normal(size=(6, 9, 9)) * (rng.random((6, 9, 9)) < 0.8) for _ in range(5)]
    table = np.zeros((30, 45, 45))
    for k, block in enumerate(blocks):
        table[6 * k : 6 * k + 6, 9 * k : 9 * k + 9, 9 * k : 9 * k + 9] = block
    path, target = rng.integers(0, 4, 30), np.arange(30)  # a target each: rows can be told apart
    coupling = WeightedCoupling(table, path.tolist(), target.tolist(), targets=30, equal=equal)
    terms, by_row, by_pair, widest = coupling.size[5:9]
    index, value = coupling.index.tolist(), coupling.value.tolist()
    assert terms == np.count_nonzero(table)
    assert 64 < widest <= 81
    assert index[0] == 5
    expected = sorted((i, j, path[r], r, table[r, i, j]) for r, i, j in zip(*np.nonzero(table), strict=True))
    assert sorted(decoded(index[:by_row], value[:terms])) == expected
    of_pairs = decoded(index[by_row : by_row + by_pair], value[terms : 2 * terms])
    assert sorted((i, j, p, t, c) for p, t, i, j, c in of_pairs) == expected


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("messages", ["none", "gathered", "one each"])
def test_density(threads, channels, messages):
    """Values, first and second derivatives of the sum over neighbours."""
    J, L = 3, 3
    index = torch.tensor([[0, 1, 2], [3, 3, 0], [1, 0, 2], [2, 2, 2]])
    Y, R = draw(N, J, L * L).requires_grad_(), draw(N, J, L, channels).requires_grad_()
    of_degree = R[:, :, torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])]
    if messages == "none":
        factors, where = (Y, R), None
        expected = torch.einsum("njl,njlk->nlk", Y, of_degree)
    else:
        where = index if messages == "gathered" else None
        rows = N if where is not None else N * J
        I = draw(rows, 4, channels).requires_grad_()
        factors = (Y, R, I)
        near = I[index] if where is not None else I.view(N, J, 4, channels)
        expected = torch.einsum("njl,njlk,njck->nlck", Y, of_degree, near).flatten(1, 2)

    def summed(Y, R, I=None):
        return density(Y, R, I, where)

    assert torch.allclose(summed(*factors), expected, atol=1e-12, rtol=1e-12)
    assert gradcheck(summed, factors, fast_mode=channels > 9)
    assert gradgradcheck(summed, factors, fast_mode=channels > 3)


@pytest.mark.parametrize("preset", [one for one in PRESETS if not one.startswith("1L-large")])
def test_layers_agree_with_plain_pytorch(preset, monkeypatch):
    """Energies, forces, features and the gradients of a loss on forces, with the kernels and without."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    elements = ["C", "H", "O"]
    model = GraphACE.from_preset(preset, elements=elements, channels=12, cutoff=4.0)
    graph = build_graph([atoms, atoms[:5]], elements, 4.0)
    model.calibrate(graph)

    def everything() -> list[torch.Tensor]:
        found = energy_and_gradients(model, graph, create_graph=True)
        loss = found.energy.sin().sum() + found.forces.square().sum()
        slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return [found.energy, found.forces, found.features, *(one for one in slopes if one is not None)]

    assert available(torch.zeros(1))
    by_kernels = everything()
    monkeypatch.setattr(gace.potential.layer, "available", lambda x: False)
    plain = everything()
    assert len(by_kernels) == len(plain) > 10
    for one, other in zip(by_kernels, plain, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12 * max(1.0, float(other.detach().abs().max())))


def test_third_derivatives_are_refused():
    """Silently wrong higher derivatives would be worse than none."""
    Y, R = draw(N, 3, 4).requires_grad_(), draw(N, 3, 2, 5).requires_grad_()
    value = density(Y, R, None, None).pow(3).sum()
    for _ in range(2):
        (slope,) = torch.autograd.grad(value, Y, create_graph=True)
        value = slope.pow(2).sum()
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(value, Y)
