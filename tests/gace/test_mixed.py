"""Channels mixed by one operator, and weights that are prepared once."""

from __future__ import annotations

import copy
import itertools
import sys

import pytest
import torch
from ase.build import molecule
from torch.autograd import gradcheck, gradgradcheck

from gace.potential import kept
from gace.potential.blocks import energy_and_gradients_by_blocks
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kept import Kept
from gace.potential.kernels import mixed, products
from gace.potential.kernels.build import library
from gace.structures.neighbours import build_graph

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels")

DIMS, COUNTS = [1, 3, 5, 1, 3], [1, 3, 2, 2, 1]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def written_out(rows, weights, leaf=None, species=None):
    """The sum by its definition."""
    parts, row, path = [], 0, 0
    for dim, count in zip(DIMS, COUNTS, strict=True):
        block = rows[:, row : row + dim * count].unflatten(1, (dim, count))
        parts.append(torch.einsum("nmpk,pkl->nml", block, weights[path : path + count]))
        row, path = row + dim * count, path + count
    if leaf is not None:
        parts[0] = parts[0] + leaf[species][:, None]
    return torch.cat(parts, dim=1)


def example(N, K, out, dtype=torch.float64):
    n_rows = sum(dim * count for dim, count in zip(DIMS, COUNTS, strict=True))
    return draw(N, n_rows, K, dtype=dtype), draw(sum(COUNTS), K, out, dtype=dtype) / K**0.5


@pytest.mark.parametrize("by_c", [True, False])
@pytest.mark.parametrize(("K", "out"), [*((K, K) for K in (1, 3, 9, 17, 35, 32)), (5, 12), (32, 7)])
def test_values_and_derivatives(threads, K, out, by_c, monkeypatch):
    """By C++, and irrep by irrep as a GPU does; also with more atoms than a tile holds."""
    if not by_c:
        monkeypatch.setattr(sys.modules["gace.potential.kernels.mixed"], "_in_c", lambda x: False)
    leaf = draw(2, out)
    for N in (1, 4, 131):
        rows, weights = example(N, K, out)
        species = torch.arange(N) % 2
        whole, head = mixed(rows, weights, DIMS, COUNTS, leaf=leaf, species=species, head=4)
        expected = written_out(rows, weights, leaf, species)
        torch.testing.assert_close(whole, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(head, whole[:, :4])
        assert torch.equal(mixed(rows, weights, DIMS, COUNTS)[0][:, 1:], whole[:, 1:])
        torch.testing.assert_close(torch.cat(products(rows, weights, DIMS, COUNTS), 1)[:, 1:], whole[:, 1:])
    rows, weights = example(3, K, out)
    rows.requires_grad_()

    def both(rows):
        return mixed(rows, weights, DIMS, COUNTS, head=4)

    assert gradcheck(both, rows, fast_mode=K > 3)
    assert gradgradcheck(both, rows, fast_mode=K > 3)


@pytest.mark.parametrize("K", [1, 9, 32, 48])
def test_single_precision(threads, K):
    rows, weights = example(70, K, K, torch.float32)
    rows.requires_grad_()
    whole, head = mixed(rows, weights, DIMS, COUNTS, head=2)
    expected = written_out(rows.double(), weights.double())
    torch.testing.assert_close(whole.double(), expected, rtol=0, atol=1e-5)
    by_whole, by_head = draw(*whole.shape), draw(*head.shape)
    (slope,) = torch.autograd.grad((whole * by_whole).sum() + (head * by_head).sum(), rows)
    objective = (expected * by_whole).sum() + (expected[:, :2] * by_head).sum()
    torch.testing.assert_close(slope, torch.autograd.grad(objective, rows)[0], rtol=0, atol=2e-5)


def test_views_are_no_matter():
    """Arrays that do not lie in order, and no atoms at all."""
    rows, weights = example(4, 6, 6)
    turned = rows.transpose(0, 2).contiguous().transpose(0, 2)
    of_path = weights.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(*(mixed(x, w, DIMS, COUNTS)[0] for x, w in ((rows, weights), (turned, of_path))))
    assert mixed(rows[:0], weights, DIMS, COUNTS, head=1)[0].shape == (0, sum(DIMS), 6)


def test_the_operators_keep_pytorchs_rules():
    """What compilers are told of shapes is true, and the derivatives are registered as they should be."""
    rows, weights = example(3, 4, 5)
    leaf, species = draw(2, 5), torch.tensor([0, 1, 0])
    for x in (rows, rows.clone().requires_grad_()):
        torch.library.opcheck(torch.ops.gace.mixed, (x, weights, leaf, species, DIMS, COUNTS, 2))
        given = draw(3, sum(DIMS), 5).requires_grad_(x.requires_grad), draw(3, 2, 5)
        torch.library.opcheck(torch.ops.gace.mixed_backward, (*given, weights, DIMS, COUNTS))


def test_weights_are_fixed():
    """Silently missing derivatives would be worse than none."""
    rows, weights = example(2, 3, 3)
    whole, _ = mixed(rows.requires_grad_(), weights.requires_grad_(), DIMS, COUNTS)
    with pytest.raises(NotImplementedError, match="fixed weights"):
        whole.sum().backward()


# ---------------------------------------------------------------------- in a potential


def make(**changes):
    """A potential of two layers with messages and all orders, and a molecule."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    elements = ["C", "H", "O"]
    arguments = dict(cutoff=4.0, l_max=[2, 2], order=[4, 3], channels=5, radial_hidden=[8], densities=2)
    model = GraphACE(elements=elements, **{**arguments, **changes})
    graph = build_graph([atoms], elements, 4.0)
    model.calibrate(graph)
    return model.requires_grad_(False), graph


def trained(model, graph):
    """Prediction as in training: plain PyTorch mixes, nothing is kept."""
    return energy_and_gradients(copy.deepcopy(model).requires_grad_(True), graph)


def assert_same(one, other, tolerance=1e-11):
    for a, b in zip(one, other, strict=True):
        scale = max(1.0, float(b.abs().max()))
        assert torch.allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("changes", [{}, {"order": 1}, {"order": 2}, {"l_message": 0}, {"l_message": 2}])
def test_evaluation_agrees_with_training(threads, changes):
    """At once and block by block."""
    model, graph = make(**changes)
    expected = trained(model, graph)
    assert_same(energy_and_gradients(model, graph), expected)
    assert_same(energy_and_gradients_by_blocks(model, graph, 4), expected)


def test_second_derivatives_by_positions():
    """A row of the Hessian by a potential whose parameters are fixed."""
    model, graph = make()
    rows = []
    for one in (model, copy.deepcopy(model).requires_grad_(True)):
        edge_vector = graph.edge_vector.clone().requires_grad_()
        energy = one(graph._replace(edge_vector=edge_vector)).energy.sum()
        (slope,) = torch.autograd.grad(energy, edge_vector, create_graph=True)
        rows.append(torch.autograd.grad((slope * draw(*slope.shape)).sum(), edge_vector)[0])
    assert rows[0].abs().max() > 0
    assert_same(rows[:1], rows[1:])


def times(model, factor):
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(factor)


def averaged(model):
    """As the mean over the steps of a training is formed."""
    own = list(model.parameters())
    torch._foreach_lerp_(own, [1.1 * one for one in own], 0.5)


def loaded(model):
    model.load_state_dict({name: 1.05 * one for name, one in model.state_dict().items()})


def assigned(model):
    model.load_state_dict({name: 1.05 * one for name, one in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [lambda model: times(model, 1.05), averaged, loaded, assigned])
def test_what_is_kept_follows_the_parameters(change):
    model, graph = make()
    before = energy_and_gradients(model, graph)
    change(model)
    model.requires_grad_(False)
    after = energy_and_gradients(model, graph)
    assert not torch.allclose(before.energy, after.energy)
    assert_same(after, trained(model, graph))


@pytest.mark.parametrize(
    "name", ["density_weights", "pair_weights", "message_weights", "density_scale", "leaf"]
)
def test_each_of_them_is_watched(name):
    model, graph = make()
    energy_and_gradients(model, graph)
    with torch.no_grad():
        getattr(model.layers[0], name).add_(0.1)
    assert_same(energy_and_gradients(model, graph), trained(model, graph))


def test_precision_and_copies():
    model, graph = make()
    exact = energy_and_gradients(model, graph)
    single = energy_and_gradients(copy.deepcopy(model).float(), graph.to("cpu", torch.float32))
    assert_same([one.double() for one in single[:2]], exact[:2], 1e-4)
    names = list(model.state_dict())
    other = copy.deepcopy(model)
    assert other.layers[0].sparse.kept._last is None
    times(other, 1.05)
    assert_same(energy_and_gradients(other, graph), trained(other, graph))
    assert_same(energy_and_gradients(model, graph), exact, 0.0)
    assert list(model.state_dict()) == names
    model.float().double()
    assert_same(energy_and_gradients(model, graph), trained(model, graph))


def test_parameters_in_the_place_of_others():
    """Given for one call each, at addresses that come again."""
    model, graph = make()
    for factor in (1.0, 1.02, 1.04):
        state = {name: factor * one for name, one in model.named_parameters()}

        def replaced(graph, state=state):
            return torch.func.functional_call(model, state, (graph,))

        found = energy_and_gradients(replaced, graph)
        other = copy.deepcopy(model)
        other.load_state_dict(state, strict=False)
        assert_same(found, trained(other, graph))
        del state, replaced
    # several at once
    state = {name: torch.stack([one, 1.05 * one]) for name, one in model.named_parameters()}
    both = torch.vmap(lambda one: torch.func.functional_call(model, one, (graph,)).energy)(state)
    times(model, 1.05)
    assert_same([both[1]], [model(graph).energy])


def test_made_once(monkeypatch):
    model, graph = make()
    made = []
    sparse = type(model.layers[0].sparse)
    monkeypatch.setattr(
        sparse, "weights", lambda self, layer, old=sparse.weights: made.append(1) or old(self, layer)
    )
    for _ in range(3):
        energy_and_gradients(model, graph)
    assert len(made) == len(model.layers)
    model.requires_grad_(True)
    energy_and_gradients(model, graph)
    assert len(made) == 2 * len(model.layers)


def test_tracing_keeps_nothing():
    """Neither what a tracer sees, nor what is kept as a constant of traced code."""
    from torch.fx.experimental.proxy_tensor import make_fx

    numbers, keep = itertools.count(), Kept()
    source = torch.ones(2)

    def kept_number(x):
        return x * keep([source], lambda: next(numbers))

    assert kept_number(source).sum() == 0
    for mode in ("real", "fake", "symbolic"):
        make_fx(kept_number, tracing_mode=mode, _allow_non_fake_inputs=True)(torch.ones(2))
    torch.vmap(kept_number)(torch.ones(2, 2))
    with torch.inference_mode():
        kept_number(source)
    assert next(numbers) == 6
    assert kept_number(source).sum() == 0


def test_recordings_of_a_gpu_keep_what_they_read(monkeypatch):
    """Nothing made while recording is kept, and what was there stays."""

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda", 0)

    source, keep, recording = torch.ones(2).as_subclass(Elsewhere), Kept(), [True]
    monkeypatch.setattr(kept, "_traced", lambda sources: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording[0])
    assert keep([source], lambda: 1) == 1
    recording[0] = False
    assert keep([source], lambda: 2) == 2
    recording[0] = True
    assert [keep([source], lambda: 3) for _ in range(2)] == [2, 2]
    assert keep._recorded == [2]
