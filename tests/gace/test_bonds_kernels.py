"""What evaluations by tables ask of bonds: distances and harmonics, and sums of functions of the distance."""

from __future__ import annotations

import math

import pytest
import torch
from ase.build import molecule
from torch import Tensor
from torch.autograd import gradcheck

from gace.basis import SphericalHarmonics, smooth_cutoff
from gace.potential.blocks import energy_and_gradients_by_blocks
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels import bond_sums, geometry, splined, sums
from gace.potential.kernels.build import library
from gace.potential.tables import RadialTable, radial_tables
from gace.structures.neighbours import build_graph

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels")

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
SLOTS = [1, 3, 17, 33]
"""Bonds: fewer than a vector holds, and vectors with a rest."""
PAIRS = {"C-H": 3.1, "O-O": 3.5}
INNER = {"C-H": 1.1, "C-C": 1.5, "C-O": 1.4, "H-O": 0.97}


def draw(*shape: int) -> Tensor:
    """Normal numbers, the same for the same shape."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def harmonics_in_pytorch(edge_vector: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """What ``geometry`` gives, by the modules for training."""
    r = edge_vector.square().sum(-1).sqrt()
    harmonics = SphericalHarmonics(degrees - 1).to(edge_vector.dtype)
    return r, torch.cat(harmonics(edge_vector / r[..., None]), dim=-1)


def values_and_slopes(function, x: Tensor, *arguments) -> list[Tensor]:
    """A function's values, and the derivative of a weighted sum of them by ``x``."""
    x = x.detach().requires_grad_()
    found = function(x, *arguments)
    found = found if isinstance(found, tuple) else (found,)
    total = sum((one * draw(*one.shape).to(x.dtype)).sum() for one in found)
    return [*(one.detach() for one in found), *torch.autograd.grad(total, x)]


def assert_near(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=ROUNDING[dtype] * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 8, 10])
def test_geometry(threads, degrees, slots, dtype):
    """Values and derivatives, also along the axes and of bonds that are padding."""
    edge_vector = 2 * draw(7, slots, 3)
    edge_vector[0, 0] = torch.tensor([0.0, 0.0, -1.5])
    edge_vector[1, 0] = torch.tensor([10.0, 0.0, 0.0])
    edge_vector = edge_vector.to(dtype)
    found = values_and_slopes(geometry, edge_vector, degrees)
    assert_near(found, values_and_slopes(harmonics_in_pytorch, edge_vector.double(), degrees), dtype)


@pytest.mark.parametrize("degrees", [1, 3, 6, 9])
def test_geometry_by_differences(threads, degrees):
    edge_vector = draw(3, 3, 3).requires_grad_()
    assert gradcheck(lambda x: geometry(x, degrees), edge_vector)


def test_geometry_takes_any_layout():
    """Vectors and what is owed may be pieces of other arrays, and there may be none."""
    whole = draw(4, 3, 5)
    found = values_and_slopes(geometry, whole.transpose(1, 2), 4)
    assert_near(found, values_and_slopes(geometry, whole.transpose(1, 2).contiguous(), 4), torch.float64)
    x = draw(2, 3, 3).requires_grad_()
    r, _ = geometry(x, 3)
    (of_sum,) = torch.autograd.grad(r.sum(), x)  # an expanded one; nothing is owed to the harmonics
    torch.testing.assert_close(of_sum, (x / r[..., None]).detach(), rtol=0, atol=1e-14)
    assert [one.shape for one in geometry(draw(2, 0, 3), 3)] == [(2, 0), (2, 0, 9)]
    assert [one.shape for one in geometry(draw(0, 4, 3), 3)] == [(0, 4), (0, 4, 9)]


def make(dtype: torch.dtype = torch.float64, preset: str = "2L-small", **changes) -> GraphACE:
    model = GraphACE.from_preset(preset, elements=["C", "H", "O"], cutoff=4.5, seed=3, **changes)
    return model.to(dtype).requires_grad_(False)


def bonds_of(model: GraphACE, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distances from a close approach to beyond the cutoff, some of padding, and elements."""
    generator = torch.Generator().manual_seed(slots)
    r = 0.2 + 5.0 * torch.rand(7, slots, dtype=torch.float64, generator=generator)
    r[2, -1] = r[5] = 2 * model.cutoff
    r[6, 0] = model.cutoff
    species = torch.randint(3, (7,), generator=generator)
    return r, species, torch.randint(3, (7, slots), generator=generator)


def sums_in_pytorch(model: GraphACE, r: Tensor, species: Tensor, neighbours: Tensor) -> Tensor:
    """The same by the modules for training."""
    s = r if model.pair_stretch is None else r * model.pair_stretch[species[:, None], neighbours]
    none = r.new_zeros(len(r))
    return torch.stack(
        [
            smooth_cutoff(s, model.cutoff, model.cutoff_power).sum(1),
            none if model.repulsion is None else model.repulsion(r, species, neighbours),
            none if model.inner is None else model.inner.density(r, species, neighbours),
        ],
        dim=1,
    )


def sums_by_kernels(model: GraphACE, r: Tensor, species: Tensor, neighbours: Tensor) -> Tensor:
    there = dict(repulsion=model.repulsion is not None, inner=model.inner is not None)
    return bond_sums(r, (species, neighbours), model.pair_constants, model.cutoff_power, **there)


VARIANTS = [
    dict(pair_cutoffs=PAIRS, inner_cutoffs=INNER),
    dict(pair_cutoffs=PAIRS, core_repulsion=False, cutoff_power=5),
    dict(inner_cutoffs=INNER, cutoff_power=2, core_reach=1.7),
    {},
]


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("changes", VARIANTS)
def test_sums(threads, changes, slots):
    """By the kernels, and by PyTorch inside the operator, as the modules say."""
    exact = make(**changes)
    r, species, neighbours = bonds_of(exact, slots)
    expected = values_and_slopes(lambda x: sums_in_pytorch(exact, x, species, neighbours), r)
    assert float(expected[0][5].abs().max()) == 0.0
    for dtype in ROUNDING:
        model = make(dtype, **changes)
        found = values_and_slopes(lambda x: sums_by_kernels(model, x, species, neighbours), r.to(dtype))  # noqa: B023
        assert_near(found, expected, dtype)
        assert float(found[0][5].abs().max()) == float(found[1][5].abs().max()) == 0.0
        known = model.pair_constants, model.cutoff_power, model.repulsion is not None, model.inner is not None
        plain = sums._plain_forward(r.to(dtype), species, neighbours, *known)
        g = draw(*plain.shape).to(dtype)
        slope = sums._plain_backward(g, r.to(dtype), species, neighbours, *known)
        assert_near([plain, slope], expected, dtype)


@pytest.mark.parametrize("changes", VARIANTS)
def test_sums_by_differences(changes):
    model = make(**changes)
    r, species, neighbours = bonds_of(model, 3)
    assert gradcheck(lambda x: sums_by_kernels(model, x, species, neighbours), r.requires_grad_())


def test_what_is_no_number_stays_none():
    """A simulation that has gone wrong is seen in its energy."""
    model = make(**VARIANTS[0])
    r, species, neighbours = bonds_of(model, 17)
    r[3, 4] = torch.nan
    found = sums_by_kernels(model, r, species, neighbours)
    assert found[3].isnan().all()
    assert not found[torch.arange(7) != 3].isnan().any()


def test_operators_are_for_evaluation():
    x = draw(2, 2, 3).requires_grad_()
    r, harmonics = geometry(x, 2)
    species = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64)
    counted = bond_sums(r, species, make().pair_constants, 6, repulsion=True, inner=False)
    for value in (harmonics.sum(), counted.sum()):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(NotImplementedError, match="without tables"):
            slope.sum().backward()


@pytest.mark.parametrize("messages", [False, True])
def test_tables_leave_out_higher_harmonics(threads, messages):
    """Values and slopes are as if they were not there; nothing is owed to them."""
    N, J, L, K = 4, 3, 3, 17
    table = RadialTable(draw(4, 5, 3, L * K), torch.tensor([1.0, 2.0, 3.0]).double(), L, K, 0.0)
    species = torch.tensor([0, 1, 1, 0]), torch.tensor([[0, 1, 0]] * N)
    index = torch.tensor([[0, 1, 2], [3, 3, 0], [1, 0, 2], [2, 2, 2]]) if messages else None
    r, I = 1.2 + 1.9 * torch.rand(N, J, dtype=torch.float64), draw(N, 4, K) if messages else None
    whole = draw(N, J, 5**2)

    def summed(Y: Tensor) -> Tensor:
        return splined(Y, r, I, index, species, table)

    value, slope = values_and_slopes(summed, whole)
    expected, slope_expected = values_and_slopes(summed, whole[..., : L * L].contiguous())
    assert torch.equal(value, expected)
    assert torch.equal(slope[..., : L * L], slope_expected)
    assert not slope[..., L * L :].any()


def test_constants_are_finite():
    for changes in (*VARIANTS, dict(core_reach=0.0)):
        constants = make(**changes).pair_constants
        assert constants.isfinite().all()
        assert math.isqrt(len(constants)) == 3


@pytest.mark.parametrize("preset", ["1L-small", "2L-medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_potential(threads, preset, dtype):
    """Tables against networks where bonds feel repulsion, inner cutoffs and cutoffs of their own."""
    close_limits = {"H": 0.8, "C": 3.0, "O": 1.4}
    model = make(
        dtype, preset, inner_cutoffs=INNER, close_limits=close_limits, pair_cutoffs=PAIRS, core_reach=1.5
    )
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=1)
    graph = build_graph([atoms, atoms[:4]], model.elements, model.cutoff).to("cpu", dtype)
    tables = radial_tables(model)
    assert tables is not None
    close = model.inner(graph.edge_vector.norm(dim=-1), graph.species, graph.species[graph.neighbour])
    assert ((close.remains > 0.05) & (close.remains < 0.99)).any()
    plain = energy_and_gradients(model, graph)
    read = energy_and_gradients(lambda one: model(one, tables), graph)
    blocks = energy_and_gradients_by_blocks(model, graph, 4, tables=tables)
    bound = 1e-8 if dtype == torch.float64 else 3e-5
    for name in ("energy", "forces", "virial", "features"):
        expected = getattr(plain, name)
        for found in (read, blocks):
            error = (getattr(found, name) - expected).abs().max() / expected.abs().max().clamp(min=1.0)
            assert error < bound, name
