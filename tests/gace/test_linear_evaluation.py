"""The linear ACE whose pass back is written out: the same as by differentiation, whatever the structure."""

import copy
import ctypes

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import gace
from gace.linear.model import LinearACE
from gace.native import library as native
from gace.native.evaluation import Evaluation, evaluation_of
from gace.potential.compiled import evaluators, written_out
from gace.potential.derivatives import energy_and_gradients
from gace.potential.kernels.build import library
from gace.structures.neighbours import build_graph
from gace.uncertainty.container import Uncertainty
from gace.uncertainty.novelty import Novelty

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels")

CASES = {
    "order 1": (["Si"], dict(order=1, size=10)),
    "order 2, degree 8": (["Si"], dict(order=2, size=200, max_degree=8)),
    "order 4": (["Si"], dict(order=4, size=600, order_cost=2.0)),
    "three elements": (["C", "H", "O"], dict(order=4, size=400)),
    "another distance": (["C", "H", "O"], dict(order=3, size=200, distance_power=2.0, cutoff_power=5)),
    "as before the inner reach": (["C", "H", "O"], dict(order=3, size=150, inner_reach=None)),
    "no repulsion": (["O", "C", "H"], dict(order=3, size=150, core_repulsion=False, cutoff=3.5)),
    "elements that are not there": (["Au", "C", "H", "N", "O"], dict(order=2, size=60)),
}


def structure(elements) -> Atoms:
    atoms = molecule("CH3CH2OH") if "C" in elements else bulk("Si", cubic=True).repeat((3, 2, 1))
    atoms.rattle(0.1, seed=1)
    return atoms


def make(elements, arguments, atoms, dtype=torch.float64) -> LinearACE:
    model = LinearACE(elements=elements, **arguments)
    model.standardise([build_graph([atoms], elements, model.cutoff)])
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.coefficients.normal_(generator=draw)
        model.shift.normal_(generator=draw)
    return model.to(dtype).requires_grad_(False)


def same(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_agrees_with_differentiation(case, dtype, tolerance):
    """Two structures in one graph; forces, virials and invariants too."""
    elements, arguments = CASES[case]
    atoms = structure(elements)
    model = make(elements, arguments, atoms, dtype)
    other = atoms.copy()
    other.rattle(0.05, seed=3)
    graph = build_graph([atoms, other[:-1]], elements, model.cutoff).to("cpu", dtype)
    same(evaluation_of(model, None)(graph), energy_and_gradients(model, graph), tolerance)


def test_a_hundred_radial_functions():
    """In double precision: in single the reference's are giants beyond the cutoff."""
    atoms = structure(["Si"])
    model = make(["Si"], dict(order=1, level=100), atoms)
    graph = build_graph([atoms], ["Si"], model.cutoff)
    assert model.n_max > 64
    same(evaluation_of(model, None)(graph), energy_and_gradients(model, graph), 1e-12)


def test_forces_are_differences_of_the_energy():
    elements, arguments = CASES["three elements"]
    atoms = structure(elements)
    evaluate = evaluation_of(make(elements, arguments, atoms), None)

    def of(one):
        return evaluate(build_graph([one], elements, 5.0))

    found, step = of(atoms).forces, 1e-4
    for index, axis in ((0, 0), (3, 1), (8, 2)):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index, axis] += sign * step
            ends.append(float(of(moved).energy[0]))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(-float(found[index, axis]), rel=1e-5, abs=1e-5)


def test_bonds_below_the_inner_reach():
    """Where the argument of the radial functions levels off and the core repels."""
    elements, arguments = CASES["three elements"]
    model = make(elements, arguments, structure(elements))
    close = Atoms("CO", [[0, 0, 0], [0, 0, 0.7]])
    graph = build_graph([close], elements, 5.0)
    same(evaluation_of(model, None)(graph), energy_and_gradients(model, graph), 1e-12)


def test_lone_atoms_have_no_energy():
    elements, arguments = CASES["three elements"]
    model = make(elements, arguments, structure(elements))
    far = Atoms("HCO", [[0, 0, 0], [0, 0, 20], [20, 0, 0]])
    found = evaluation_of(model, None)(build_graph([far], elements, 5.0))
    assert float(found.atomic_energy.abs().max()) < 1e-12
    assert float(found.forces.abs().max()) == 0.0
    assert float(found.features.abs().max()) < 1e-12


def test_blocks_and_threads_change_nothing():
    """Every atom's numbers are made in one order, whoever else is evaluated with it."""
    elements, arguments = CASES["three elements"]
    atoms = structure(elements)
    evaluate, graph = (
        evaluation_of(make(elements, arguments, atoms), None),
        build_graph([atoms] * 5, elements, 5.0),
    )
    expected, before = evaluate(graph), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        threaded = evaluate(graph)
    finally:
        torch.set_num_threads(before)
    portions = native.library().gace_set_portions
    try:
        portions(*map(ctypes.c_int64, (400_000, 150_000, 7)))
        in_blocks = evaluate(graph)
    finally:
        portions(*map(ctypes.c_int64, (400_000, 150_000, 1024)))
    for found in (threaded, in_blocks):
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_calculators_take_it(monkeypatch):
    """Beside a graph ACE or alone, of any size; operation by operation is as it was."""
    elements, arguments = CASES["order 4"]
    atoms = structure(elements)
    model = make(elements, arguments, atoms)
    potential = gace.Potential([model], isolated_atom_energies={"Si": -1.0})
    called = []
    real = Evaluation.__call__
    monkeypatch.setattr(Evaluation, "__call__", lambda self, one: called.append(1) or real(self, one))
    atoms.calc = potential.calculator("cpu", "float64")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert called
    called.clear()
    (eager,) = evaluators([model], "eager")
    expected = eager(build_graph([atoms], elements, 5.0))
    assert not called
    assert energy + len(atoms) == pytest.approx(float(expected.energy[0]), rel=1e-12)
    assert forces == pytest.approx(expected.forces.numpy(), abs=1e-10)
    assert written_out(model.to(torch.bfloat16), None) is None


def test_invariants_only_where_they_are_asked_for():
    """They take a third of the time, and γ is all that needs them."""
    elements, arguments = CASES["order 4"]
    atoms = structure(elements)
    model = make(elements, arguments, atoms)
    graph = build_graph([atoms], elements, 5.0)
    whole, without = evaluation_of(model, None)(graph), evaluation_of(model, None, features=False)(graph)
    assert without.features.shape == (len(atoms), 0)
    for one in ("energy", "forces", "virial", "atomic_energy"):
        assert torch.equal(getattr(whole, one), getattr(without, one))
    potential = gace.Potential([model, model], isolated_atom_energies={"Si": 0.0})
    plain, known = potential.evaluated_by("tabulated"), copy.copy(potential)
    structures = np.zeros(len(atoms), dtype=int)
    novelty = Novelty.fit(whole.features, graph.species, elements, 0, structures)
    known.uncertainty = Uncertainty(novelty=novelty)
    assert [found(graph).features.shape[1] for found in plain._evaluators] == [0, 0]
    read = known.evaluated_by("tabulated")
    assert [found(graph).features.shape[1] > 0 for found in read._evaluators] == [True, False]
    expected, found = (one.predict([atoms], uncertainty=True)[0].gamma for one in (known, read))
    assert found == pytest.approx(expected, rel=1e-8)
