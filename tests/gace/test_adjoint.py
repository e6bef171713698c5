"""The evaluation whose pass back is written out: the same as by differentiation, and by differences."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from gace.potential import adjoint, compiled
from gace.potential.adjoint import Adjoint
from gace.potential.compiled import evaluators, written_out
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.inner_cutoff import InnerCutoff
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


def both(model, graph, tolerance=1e-6):
    tables = radial_tables(model, tolerance)
    return Adjoint(model, tables)(graph), energy_and_gradients(lambda one: model(one, tables), graph)


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
    evaluate = Adjoint(model, radial_tables(model, 1e-10))
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


def test_fading_is_the_derivative_of_closeness():
    inner = InnerCutoff(["C"], 5.0, {"C-C": 1.2}, {"C": 2.0})
    x = torch.linspace(0.0, 5.0, 41, dtype=torch.float64).requires_grad_()
    centre = torch.zeros(41, dtype=torch.int64)
    closeness, fading = inner.of_density(x, centre), inner.fading(x.detach(), centre)
    assert fading is not None
    for value, own, slope in (
        (closeness.remains, fading.remains, fading.slope),
        (closeness.wall, fading.wall, fading.wall_slope),
    ):
        (expected,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        assert torch.allclose(own, value.detach(), atol=1e-14)
        assert torch.allclose(slope, expected, atol=1e-13)
    assert inner.fading(torch.full((3,), 1.9, dtype=torch.float64), centre[:3]) is None


def test_calculators_take_it(monkeypatch):
    """Tables on a processor: written out, whatever the size."""
    graph = build_graph([ethanol()], ELEMENTS, CUTOFF)
    model = make("2L-small", graph=graph)
    called = []
    real = Adjoint.__call__
    monkeypatch.setattr(Adjoint, "__call__", lambda self, one: called.append(1) or real(self, one))
    monkeypatch.setattr(compiled, "EAGER_BONDS", 20)
    (evaluate,) = evaluators([model], "tabulated")
    evaluate(graph)
    assert called == [1]


@pytest.mark.parametrize("change", ["inner cutoffs", "pair cutoffs", "no network"])
@pytest.mark.parametrize("preset", ["FS-small", "1L-small", "2L-small", "three layers"])
def test_part_by_part_is_at_once(preset, change, monkeypatch):
    """Atoms that are close and fade too; three parts, the last of which is smaller."""
    close = ethanol()
    close.positions[1] += 0.45 * (close.positions[0] - close.positions[1])
    graph = build_graph([ethanol(), close], ELEMENTS, CUTOFF)
    changes = CHANGES[change] | (THREE if preset == "three layers" else {})
    model = make("2L-small" if preset == "three layers" else preset, graph=graph, **changes)
    evaluate = Adjoint(model, radial_tables(model, 1e-6))
    at_once = evaluate(graph)
    slots = graph.neighbour.shape[1]
    monkeypatch.setattr(adjoint, "MOST_BONDS", 10 * slots)
    monkeypatch.setattr(adjoint, "PART_BONDS", 7 * slots)
    compare(evaluate(graph), at_once, 1e-12)


def test_none_without_tables_or_kernels(monkeypatch):
    model = make("2L-small")
    assert written_out(model, None) is None
    assert isinstance(written_out(model, radial_tables(model, 1e-3)), Adjoint)
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
    evaluate = Adjoint(model, radial_tables(model, 1e-6))
    before = evaluate(graph)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1.1)
    compare(evaluate(graph), before, 0.0)
