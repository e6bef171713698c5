"""Where atoms are closer than in the data the expansion fades and repulsion is left."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import gace
from gace.errors import InputError
from gace.potential.blocks import energy_and_gradients_by_blocks
from gace.potential.bundle import save_bundle
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.inner_cutoff import InnerCutoff
from gace.potential.potential import Potential
from gace.structures.io import write_structures
from gace.structures.neighbours import build_graph
from gace.testing import check_potential
from gace.training.transfer import extended

FELT = {
    "inner_cutoffs": {"C-H": 1.1, "C-C": 1.5, "C-O": 1.4, "H-O": 0.97},
    "close_limits": {"H": 0.8, "C": 3.0, "O": 1.4},
}
"""Ethanol's atoms are a bit too close by these."""


def energies(model, structures) -> np.ndarray:
    """Energy of each structure less its repulsion, eV."""
    graph = build_graph(structures, model.elements, model.cutoff)
    with torch.no_grad():
        atomic = model(graph).energy
        bonds = graph.edge_vector.norm(dim=-1), graph.species, graph.species[graph.neighbour]
        if model.repulsion is not None:
            atomic = atomic - model.repulsion(*bonds)
        if model.inner is not None:
            atomic = atomic - model.inner(*bonds).wall * model.scale
    return np.bincount(graph.structure.numpy(), weights=atomic.numpy(), minlength=len(structures))


def test_physics_holds(make_model, ethanol):
    model = make_model(**FELT)
    graph = build_graph([ethanol], model.elements, model.cutoff)
    close = model.inner(graph.edge_vector.norm(dim=-1), graph.species, graph.species[graph.neighbour])
    assert ((close.remains > 0.05) & (close.remains < 0.99)).sum() > 3
    assert (close.wall > 1e-3).sum() > 3
    check_potential(lambda: make_model(**FELT), [ethanol, ethanol.copy()])


def test_bonds_beyond_them_do_not_feel_them(make_model, ethanol):
    short = {"H-H": 0.7, "C-H": 0.9, "C-C": 1.2, "C-O": 1.2, "H-O": 0.8}
    plain, changed = make_model(), make_model(inner_cutoffs=short, close_limits={"C": 3.0})
    graph = build_graph([ethanol], plain.elements, plain.cutoff)
    assert torch.equal(plain(graph).energy, changed(graph).energy)


def test_far_beyond_the_limit_nothing_but_repulsion_is_left(make_model):
    model = make_model(elements=["Si"], inner_cutoffs={"Si-Si": 2.0}, core_repulsion=False)
    crystal = bulk("Si", cubic=True)
    bond = crystal.get_all_distances(mic=True)[0, 1:].min()
    pressed = []
    for length in (2.4, 2.27, 2.2, 1.2):
        copy = crystal.copy()
        copy.set_cell(copy.cell * (length / bond), scale_atoms=True)
        pressed.append(copy)
    found, plain = (
        energies(model, pressed),
        energies(make_model(elements=["Si"], core_repulsion=False), pressed),
    )
    assert found[0] == plain[0]
    assert abs(found[0]) > 1e-3
    assert 0 < abs(found[1]) < 0.99 * abs(plain[1])
    assert found[2:] == pytest.approx(np.zeros(2), abs=1e-12)


def test_an_atom_that_is_gone_says_nothing_to_others(make_model):
    """The energy of an atom does not depend on how its neighbour's neighbourhood is pressed together."""
    model = make_model(elements=["C"], inner_cutoffs={"C-C": 1.2}, core_repulsion=False)
    found = []
    for height in (0.5, 0.8):
        # the last atom reaches the first one's neighbour and not the first one
        chain = Atoms("C3", [[0, 0, 0], [3.4, 0, 0], [3.4, height, 0]])
        chain.positions[2, 0] += 0.5
        graph = build_graph([chain], model.elements, model.cutoff)
        found.append(float(model(graph).energy[0].detach()))
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert abs(found[0]) > 1e-8


def test_it_falls_smoothly_from_one_to_zero_and_the_wall_rises():
    inner = InnerCutoff(["C", "H"], 5.0, {"H-C": 1.0}, {"C": 1.2})
    r = torch.linspace(0.85, 1.1, 25001, dtype=torch.float64)[:, None].requires_grad_()
    centre = torch.zeros(len(r), dtype=torch.int64)
    for which, found in enumerate(inner(r, centre, torch.ones_like(r, dtype=torch.int64))):
        (slope,) = torch.autograd.grad(found.sum(), r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), r, retain_graph=True)
        sign = (1, -1)[which]  # the share grows with the distance, the wall falls
        assert (sign * slope).min() > -1e-12
        assert found[-1] == (1, 0)[which]
        assert slope.diff(dim=0).abs().max() < 1.01 * float(curvature.abs().max()) * 1e-5
        assert curvature.diff(dim=0).abs().max() < 0.02 * float(curvature.abs().max())
        if which == 0:
            assert found[0] == 0
    # pairs that are not named have none
    assert (inner(r, centre, torch.zeros_like(r, dtype=torch.int64)).remains == 1).all()


def test_every_path_gives_the_same(make_model, same_on_every_path):
    same_on_every_path(make_model(**FELT))


def test_blocks_give_the_same(make_model, ethanol):
    model = make_model(**FELT)
    graph = build_graph([ethanol], model.elements, model.cutoff)
    whole, parts = energy_and_gradients(model, graph), energy_and_gradients_by_blocks(model, graph, 4)
    torch.testing.assert_close(parts.forces, whole.forces, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts.atomic_energy, whole.atomic_energy, rtol=1e-10, atol=1e-12)


def test_bundle_and_new_elements_keep_them(make_model, ethanol, tmp_path):
    model = make_model(**FELT)
    potential = Potential([model], isolated_atom_energies={"H": 0, "C": 0, "O": 0})
    loaded = gace.load(save_bundle(potential, tmp_path / "bundle"))
    assert loaded.members[0].hyperparameters().items() >= FELT.items()
    larger = extended(loaded.members[0].double(), {"N": "C"})
    assert energies(larger, [ethanol])[0] == pytest.approx(energies(model, [ethanol])[0], rel=1e-10)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, make_model):
    """Files of molecules labelled by a model: water with bonds of 0.9 Å and more, and of 0.8 Å and more."""
    folder = tmp_path_factory.mktemp("labelled")
    potential = Potential([make_model()], isolated_atom_energies={"H": 0.0, "C": 0.0, "O": 0.0})
    for name, shortest in (("long", 0.9), ("short", 0.8)):
        structures = []
        for number in range(6):
            water = molecule("H2O")
            water.set_distance(0, 1, shortest + 0.05 * number, fix=0)
            found = potential.predict([water])[0]
            water.info["REF_energy"], water.arrays["REF_forces"] = found.energy, found.forces
            structures.append(water)
        write_structures(folder / f"{name}.xyz", structures)
    return folder


def trained(labelled, out, file: str, **potential):
    """Inner cutoffs and limits of the bundle that two steps on the file make, and its folder."""
    config = {
        "data": {"train": str(labelled / f"{file}.xyz"), "isolated_atoms": {"H": 0.0, "O": 0.0}},
        "training": {"max_steps": 2, "batch_size": 2},
        "dtype": "float64",
        "potential": potential,
    }
    bundle = gace.train(config, out, progress=False).bundle
    made = gace.load(bundle).members[0].hyperparameters()
    return made["inner_cutoffs"], made["close_limits"], str(bundle)


SMALL = {
    "l_max": [1, 1],
    "order": 2,
    "channels": 4,
    "radial_hidden": [4],
    "densities": 2,
    "readout_hidden": 2,
}


def test_training_takes_them_from_the_data_and_goes_on_with_them(labelled, tmp_path):
    first, limits, new = trained(labelled, tmp_path / "new", "long", overrides=SMALL)
    assert sorted(first) == ["H-H", "H-O", "O-O"]
    assert first["H-O"] == pytest.approx(0.9, abs=2e-4)
    assert 0.5 < first["O-O"] < 1.0  # no such bond in the data
    # one bond of 0.9 Å and one of 0.969 Å, and one more
    other = (2.2 * 0.9 - 0.969) / (1.2 * 0.9)
    assert limits["O"] == pytest.approx(2 + other**6, rel=0.01)
    assert limits["H"] == pytest.approx(2.0, rel=0.01)
    second, _, on = trained(labelled, tmp_path / "on", "short", start_from=new)
    assert second["H-O"] == pytest.approx(0.8, abs=2e-4)
    third, *_ = trained(labelled, tmp_path / "back", "long", start_from=on)
    assert third["H-O"] == second["H-O"]


def test_a_potential_without_them_gets_them_when_asked(labelled, tmp_path):
    none, _, start = trained(labelled, tmp_path / "new", "long", overrides={**SMALL, "inner_cutoffs": None})
    still, _, _ = trained(labelled, tmp_path / "on", "long", start_from=start)
    assert none == still == {}
    asked, _, _ = trained(
        labelled, tmp_path / "asked", "long", start_from=start, overrides={"inner_cutoffs": "auto"}
    )
    assert asked["H-O"] == pytest.approx(0.9, abs=2e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("automatic", "inner_cutoffs: write lengths"),
        ({"H-Q": 1.0}, "'H-Q' names no"),
        ({"H-O": -1.0}, "between 0 and"),
    ],
)
def test_bad_input_is_named(labelled, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        trained(labelled, tmp_path / "run", "long", overrides={**SMALL, "inner_cutoffs": given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inner_cutoffs": {"C-H": 1.0, "H-C": 0.9}}, "inner_cutoffs: H-C is given twice"),
        ({"inner_cutoffs": {"C-H": 1.0}, "close_limits": {"N": 1.0}}, "close_limits: no element 'N'"),
        ({"inner_cutoffs": {"C-H": 1.0}, "close_limits": {"C": 0.0}}, "close_limits: C must be positive"),
    ],
)
def test_lengths_and_limits_are_checked(given, message):
    with pytest.raises(InputError, match=message):
        GraphACE(elements=["H", "C"], **given)
