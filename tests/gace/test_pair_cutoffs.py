"""Pairs of elements with shorter cutoffs of their own."""

import pytest
import torch
from ase import Atoms

import gace
from gace.errors import InputError
from gace.potential.bundle import save_bundle
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.neighbours import build_graph
from gace.testing import check_potential
from gace.training.transfer import extended

PAIRS = {"H-H": 1.9, "C-H": 2.5}


def model_of(make_model, **changes):
    return make_model(pair_cutoffs=PAIRS, core_repulsion=False, **changes)


def dimer(model, pair: str, distance: float) -> tuple[float, float]:
    """Energy (eV) and the force along the bond (eV/Å) of two atoms."""
    atoms = Atoms(pair, [[0, 0, 0], [0, 0, distance]])
    graph = build_graph([atoms], model.elements, model.cutoff)
    graph = graph._replace(edge_vector=graph.edge_vector.requires_grad_())
    energy = model(graph).energy.sum()
    (gradient,) = torch.autograd.grad(energy, graph.edge_vector)
    return float(energy.detach()), float(gradient.abs().max())


def test_physics_holds(make_model, ethanol):
    check_potential(lambda: make_model(pair_cutoffs=PAIRS), [ethanol, *[ethanol.copy()]])


@pytest.mark.parametrize(("pair", "own"), [("H2", 1.9), ("CH", 2.5), ("HC", 2.5), ("CO", 3.5)])
def test_a_pair_ends_at_its_own_cutoff(make_model, pair, own):
    model = model_of(make_model)
    inside, force = dimer(model, pair, 0.8 * own)
    assert abs(inside) > 1e-6
    assert force > 1e-6
    near, slope = dimer(model, pair, own - 1e-4)
    assert abs(near) < 1e-9 * abs(inside)
    assert slope < 1e-6 * force
    assert dimer(model, pair, own + 1e-6) == (0.0, 0.0)


def test_radial_functions_are_those_of_the_cutoff_stretched(make_model):
    """With all distances scaled, a pair with a shorter cutoff feels what the others feel at theirs."""
    plain, scaled = (
        make_model(core_repulsion=False),
        make_model(core_repulsion=False, pair_cutoffs={"C-O": 0.6 * 3.5}),
    )
    assert dimer(scaled, "CO", 0.6 * 1.7)[0] == pytest.approx(dimer(plain, "CO", 1.7)[0], rel=1e-10)


def test_every_path_gives_the_same(make_model, same_on_every_path):
    same_on_every_path(make_model(pair_cutoffs=PAIRS))


def test_bundle_and_new_elements_keep_them(make_model, ethanol, tmp_path):
    model = model_of(make_model)
    potential = Potential([model], isolated_atom_energies={"H": 0, "C": 0, "O": 0})
    loaded = gace.load(save_bundle(potential, tmp_path / "bundle"))
    assert loaded.members[0].hyperparameters()["pair_cutoffs"] == PAIRS
    larger = extended(loaded.members[0].double(), {"N": "C"})
    graphs = [build_graph([ethanol], one.elements, one.cutoff) for one in (model, larger)]
    energies = [one(graph).energy.sum().item() for one, graph in zip((model, larger), graphs, strict=True)]
    assert energies[1] == pytest.approx(energies[0], rel=1e-10)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"C-Hf": 2.0}, "'C-Hf' names no two elements; did you mean 'H'"),
        ({"C": 2.0}, "'C' is no pair"),
        ({"C-H": 4.0}, "between 0 and 3.5 Å"),
        ({"C-H": 0.0}, "between 0 and 3.5 Å"),
        ({"C-H": 2.0, "H-C": 2.5}, "H-C is given twice"),
    ],
)
def test_what_is_no_pair_is_named(pairs, message):
    with pytest.raises(InputError, match=message):
        GraphACE(elements=["H", "C", "O"], cutoff=3.5, pair_cutoffs=pairs)
