"""The compiled evaluation, its pass back written out: the same as by differentiation, and by differences."""

from __future__ import annotations

import copy
import ctypes
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from ase.build import bulk, molecule

from gace.native import library as native
from gace.native.evaluation import Evaluation, evaluation_of
from gace.potential import compiled
from gace.potential.compiled import evaluators, written_out
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels.build import library
from gace.potential.presets import PRESETS
from gace.potential.tables import radial_tables
from gace.structures.neighbours import build_graph

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels")

ELEMENTS, CUTOFF = ["C", "H", "O"], 4.5
THREE = dict(l_max=[1, 2, 0], order=[2, 4, 3], l_message=1)

CHANGES = {
    "as it is": {},
    "inner cutoffs": dict(
        inner_cutoffs={"C-H": 1.2, "C-C": 1.6, "H-O": 1.2}, close_limits={"C": 4.2, "H": 1.3, "O": 4.0}
    ),
    "pair cutoffs": dict(pair_cutoffs={"H-H": 2.5, "C-O": 4.0}, core_repulsion=False),
    "no network": dict(readout_hidden=0, embedding="network"),
    "linear": dict(densities=0),
    "a vector and a rest": dict(channels=17),
    "three vectors and a rest": dict(channels=50),
}


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=1)
    return atoms


def make(preset, *, elements=ELEMENTS, graph=None, dtype=torch.float64, **changes) -> GraphACE:
    model = GraphACE.from_preset(preset, elements=elements, cutoff=CUTOFF, seed=3, **changes)
    if graph is not None:
        model.calibrate(graph)
    return model.to(dtype).requires_grad_(False)


def compare(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))


@contextmanager
def portions(most=400_000, part=150_000, atoms=1024):
    """As much at once."""
    of = native.library().gace_set_portions
    of(*map(ctypes.c_int64, (most, part, atoms)))
    try:
        yield
    finally:
        of(*map(ctypes.c_int64, (400_000, 150_000, 1024)))


def both(model, graph, tolerance=1e-6):
    tables = radial_tables(model, tolerance)
    return evaluation_of(model, tables)(graph), energy_and_gradients(lambda one: model(one, tables), graph)


@pytest.mark.parametrize("preset", PRESETS)
def test_same_as_by_differentiation(preset):
    """Energies, forces, virials and features of every preset; atoms go four at a time, and a rest."""
    atoms = ethanol()
    graph = build_graph([atoms, atoms[:5]], ELEMENTS, CUTOFF)
    compare(*both(make(preset, graph=graph), graph), 1e-12)


@pytest.mark.parametrize("which", CHANGES)
def test_whatever_a_model_may_have(which, threads):
    atoms = ethanol()
    graph = build_graph([atoms, atoms[:5]], ELEMENTS, CUTOFF)
    model = make("2L-medium", graph=graph, **CHANGES[which])
    compare(*both(model, graph), 1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        dict(l_max=[2], order=1),
        dict(l_max=[2, 1], order=[1, 2], parity="natural"),
        THREE,
        dict(l_max=[2, 2], order=[4, 4], l_message=2),
    ],
    ids=["order 1", "orders 1 and 2", "three layers", "messages of degree 2"],
)
def test_whatever_depth_and_order(changes):
    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    compare(*both(make("2L-small", graph=graph, **changes), graph), 1e-12)


def test_one_element_and_a_crystal():
    """With one element coefficients are part of the projection; and there is a virial."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=2)
    graph = build_graph([atoms], ["Si"], CUTOFF)
    inner = dict(inner_cutoffs={"Si-Si": 2.2}, close_limits={"Si": 0.5})
    model = make("2L-medium", elements=["Si"], graph=graph, **inner)
    found, expected = both(model, graph)
    assert float(expected.virial.abs().max()) > 1e-3
    compare(found, expected, 1e-12)


def test_single_precision():
    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    model = make("2L-medium", graph=graph, dtype=torch.float32, **CHANGES["inner cutoffs"])
    compare(*both(model, graph.to("cpu", torch.float32)), 2e-5)


def test_forces_by_differences():
    """Not against the other evaluation: the energy's own slope along a displacement of all atoms."""
    atoms = ethanol()
    model = make("2L-small", graph=build_graph([atoms], ELEMENTS, CUTOFF), **CHANGES["inner cutoffs"])
    evaluate = evaluation_of(model, radial_tables(model, 1e-10))
    move = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    graphs = []
    for step in (-3e-6, 0.0, 3e-6):
        moved = atoms.copy()
        moved.positions += step * move
        graphs.append(build_graph([moved], ELEMENTS, CUTOFF))
    low, here, high = (evaluate(graph) for graph in graphs)
    slope = float(high.energy - low.energy) / 6e-6
    expected = -float((here.forces * torch.from_numpy(move)).sum())
    assert abs(slope - expected) < 1e-6 * max(1.0, abs(expected))


def test_the_test_reaches_where_atoms_fade():
    """The structures above hold atoms that are left alone, that fade and that are gone."""
    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    model = make("2L-small", **CHANGES["inner cutoffs"])
    r = graph.edge_vector.norm(dim=-1)
    remains = model.inner(r, graph.species, graph.species[graph.neighbour]).remains
    assert (remains == 1).any()
    assert (remains == 0).any()
    assert ((remains > 0) & (remains < 1)).any()


def test_calculators_take_it(monkeypatch):
    """Tables on a processor: written out, whatever the size."""
    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    model = make("2L-small", graph=graph)
    called = []
    real = Evaluation.__call__
    monkeypatch.setattr(Evaluation, "__call__", lambda self, one: called.append(1) or real(self, one))
    monkeypatch.setattr(compiled, "EAGER_BONDS", 20)
    (evaluate,) = evaluators([model], "tabulated")
    evaluate(graph)
    assert called == [1]


@pytest.mark.parametrize("change", ["inner cutoffs", "pair cutoffs", "no network"])
@pytest.mark.parametrize("preset", ["FS-small", "1L-small", "2L-small", "three layers"])
def test_part_by_part_is_at_once(preset, change):
    """Atoms that are close and fade too; three parts, the last of which is smaller."""
    close = ethanol()
    close.positions[1] += 0.45 * (close.positions[0] - close.positions[1])
    graph = build_graph([ethanol(), close], ELEMENTS, CUTOFF)
    changes = CHANGES[change] | (THREE if preset == "three layers" else {})
    model = make("2L-small" if preset == "three layers" else preset, graph=graph, **changes)
    evaluate = evaluation_of(model, radial_tables(model, 1e-6))
    at_once = evaluate(graph)
    slots = graph.neighbour.shape[1]
    with portions(most=10 * slots, part=7 * slots):
        compare(evaluate(graph), at_once, 1e-12)


def test_none_without_tables_or_kernels():
    model = make("2L-small")
    assert written_out(model, None) is None
    assert isinstance(written_out(model, radial_tables(model, 1e-3)), Evaluation)
    assert written_out(model.to(torch.bfloat16), radial_tables(make("2L-small"), 1e-3)) is None


def test_an_atom_by_itself():
    """No bond at all, and beside a molecule."""
    alone = ethanol()[:1]
    model = make("2L-small", graph=build_graph([ethanol()], ELEMENTS, CUTOFF))
    for structures in ([alone], [alone, ethanol(), alone]):
        graph = build_graph(structures, ELEMENTS, CUTOFF)
        found, expected = both(model, graph)
        compare(found, expected, 1e-12)
        assert float(found.energy[0]) == pytest.approx(float(expected.energy[0]), abs=1e-12)
        assert not found.forces[0].any()


def test_parameters_are_those_it_was_made_with():
    """Tables are; so is everything else, whatever becomes of the model."""
    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    model = make("2L-small", graph=graph)
    evaluate = evaluation_of(model, radial_tables(model, 1e-6))
    before = evaluate(graph)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1.1)
    compare(evaluate(graph), before, 0.0)


def test_threads_share_it_and_processes_get_their_own():
    graphs = [build_graph([ethanol()] * (1 + n % 3), ELEMENTS, CUTOFF) for n in range(24)]
    model = make("2L-small", graph=graphs[0], **CHANGES["inner cutoffs"])
    evaluate = evaluation_of(model, radial_tables(model, 1e-6))
    expected = [evaluate(graph) for graph in graphs]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(evaluate, graphs), expected, strict=True):
            compare(found, one, 0.0)
    for other in (copy.deepcopy(evaluate), copy.copy(evaluate), pickle.loads(pickle.dumps(evaluate))):
        compare(other(graphs[0]), expected[0], 0.0)


def test_without_the_library_pytorch_goes_on(monkeypatch):
    """A warning says so, and the numbers are the same."""
    from gace.errors import InputError
    from gace.native import evaluation

    def none():
        raise InputError("cannot build what evaluates *.gace: no room")

    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    model = make("2L-small", graph=graph)
    (expected,) = (one(graph) for one in evaluators([model], "tabulated"))
    monkeypatch.setattr(evaluation, "library", none)
    monkeypatch.setattr(evaluation, "_can", evaluation._can.__wrapped__)
    with pytest.warns(UserWarning, match="no room; going on by PyTorch"):
        (evaluate,) = evaluators([model], "tabulated")
    compare(evaluate(graph), expected, 1e-12)
