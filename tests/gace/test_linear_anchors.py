"""Anchors: a linear fit is sane where atoms come closer than in its data, and unchanged elsewhere."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import gace
from gace.linear.anchors import CLOSEST, LEAST_TOLERANCE, anchors_of
from gace.linear.config import LeastSquares
from gace.linear.fit import fit
from gace.linear.model import LinearACE
from gace.linear.pair_potential import PairPotential
from gace.potential.potential import Potential
from gace.structures.io import Labels, labels_of, set_labels, write_structures
from gace.structures.neighbours import find_edges
from gace.training.batches import Packed
from gace.training.dataset import without_weightless
from gace.training.run import train
from gace.training.statistics import bonding_energies

ISOLATED = {"Cu": 3.5}


def labelled(atoms):
    atoms.calc = EMT()
    return set_labels(atoms, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))


@pytest.fixture(scope="module")
def crystals():
    """Copper near its equilibrium volume, labelled by EMT."""
    rng, found = np.random.default_rng(0), []
    for _ in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.15, rng=rng)
        atoms.set_cell(atoms.cell.array * (1 + 0.02 * rng.normal()), scale_atoms=True)
        found.append(labelled(atoms))
    return found


def model_for(structures):
    model = LinearACE(elements=["Cu"], cutoff=4.5, order=3, size=100)
    model.set_shift(bonding_energies(structures, [labels_of(one) for one in structures], ISOLATED))
    return model


def packed(structures, labels=None):
    return Packed(
        structures,
        labels or [labels_of(one) for one in structures],
        elements=["Cu"],
        cutoff=4.5,
        isolated_atoms=ISOLATED,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


def fitted(structures, **settings):
    """The model and how it was fitted."""
    model, given = model_for(structures), LeastSquares(**settings)
    labels = [labels_of(one) for one in structures]
    anchors = anchors_of(model, structures, labels, ISOLATED, given)
    return model, fit(model, packed(structures), given, anchors=anchors)


def energies(model, structures):
    """eV per atom."""
    potential = Potential([model], isolated_atom_energies=ISOLATED)
    total = np.array([one.energy for one in potential.predict(structures)])
    return total / [len(one) for one in structures]


def disordered():
    """Copper with displacements far beyond the data's."""
    rng, found = np.random.default_rng(1), []
    for deviation in (0.3, 0.4, 0.5, 0.6):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions += rng.normal(0, deviation, atoms.positions.shape)
        found.append(atoms)
    return found


@pytest.mark.parametrize("search_rows", [1, 5000])
def test_no_holes_where_the_data_end(crystals, search_rows):
    """By both forms of the equations."""
    scales = [0.60, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
    compressed = [bulk("Cu", cubic=True) for _ in scales]
    for atoms, scale in zip(compressed, scales, strict=True):
        atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
    model, found = fitted(crystals, search_rows=search_rows)
    assert found.form == ("primal" if search_rows == 1 else "dual")
    along = energies(model, compressed)
    assert (np.diff(along) < 0).all(), along  # up all the way as it is compressed
    assert (energies(model, disordered()) > along[-1]).all()
    # the data alone leave holes: this is what the anchors are for
    bare, _ = fitted(crystals, search_rows=search_rows, anchors=0)
    beyond = [*energies(bare, compressed)[:-1], *energies(bare, disordered())]
    assert min(beyond) < along[-1] - 1.0


def test_the_fit_where_there_are_data_stays(crystals):
    anchored, with_anchors = fitted(crystals[:8])
    bare, without = fitted(crystals[:8], anchors=0)
    assert with_anchors.n_anchors == LeastSquares().anchors
    assert with_anchors._replace(n_anchors=0) == without  # no part in the choice of the prior
    truth = np.array([labels_of(one).energy / len(one) for one in crystals[8:]])
    errors = [np.abs(energies(model, crystals[8:]) - truth).max() for model in (anchored, bare)]
    assert errors[0] < 2 * errors[1] + 1e-4


def test_pair_potential_repels_below_the_shortest_distance(crystals):
    found = PairPotential(model_for(crystals), packed(crystals), LeastSquares())
    shortest = min(np.linalg.norm(find_edges(one, 4.5).vector, axis=1).min() for one in crystals)
    assert found.shortest.item() == pytest.approx(shortest, abs=1e-12)
    r = shortest + np.arange(-1.2, 0.6, 0.01)
    dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, one]]) for one in r]
    energy, plain = found.energies(packed(dimers)), 2 * (energies(found.pairs, dimers) - ISOLATED["Cu"])
    np.testing.assert_allclose(energy[r >= shortest], plain[r >= shortest], atol=1e-9)
    below = energy[r < shortest]
    assert (np.diff(below) < 0).all()
    assert (np.diff(below, 2) > -1e-9).all()  # convex
    # the slope goes on: no two steps of 0.01 Å differ by more than the curvature allows
    steps = np.diff(energy[np.abs(r - shortest) < 0.1])
    assert np.abs(np.diff(steps)).max() < 0.2 * np.abs(steps).max()


def test_anchors_are_copies_with_a_pair_potential_behind(crystals):
    labels = [labels_of(one) for one in crystals]
    found = anchors_of(model_for(crystals), crystals, labels, ISOLATED, LeastSquares(anchors=30))
    assert len(found.data) == 30
    assert (found.tolerance >= LEAST_TOLERANCE).all()
    _, batch = next(iter(found.data.in_order(10**6)))
    volumes = batch.graph.volume / bulk("Cu", cubic=True).get_volume()
    assert volumes.min() > 0.9 * CLOSEST**3
    assert volumes.max() < 1.2
    # energies and doubt rise as the copies are pressed together
    per_atom = (batch.energy / batch.n_atoms).numpy()[::2]
    order = np.argsort(volumes.numpy()[::2])
    assert per_atom[order[0]] > per_atom[order[-1]] + 5.0
    assert found.tolerance[::2][order[0]] > 10 * found.tolerance[::2][order[-1]]


def test_anchors_do_not_change_from_call_to_call(crystals):
    labels = [labels_of(one) for one in crystals]
    rows = [
        anchors_of(model, crystals, labels, ISOLATED, LeastSquares(anchors=6)).rows(model, 0.1)
        for model in (model_for(crystals), model_for(crystals))
    ]
    np.testing.assert_array_equal(rows[0].matrix, rows[1].matrix)
    np.testing.assert_array_equal(rows[0].target, rows[1].target)


def test_molecules_and_forces_alone():
    """Without a cell; without energies the pair potential's own are taken."""
    rng, structures = np.random.default_rng(0), []
    for _ in range(6):
        atoms = molecule("H2O")
        atoms.rattle(0.05, rng=rng)
        structures.append(atoms)
    labels = [Labels(None, rng.normal(size=(3, 3)), None) for _ in structures]
    model = LinearACE(elements=["H", "O"], cutoff=3.0, order=2, size=20)
    found = anchors_of(model, structures, labels, {"H": 0.0, "O": 0.0}, LeastSquares(anchors=8))
    _, batch = next(iter(found.data.in_order(10**6)))
    assert torch.isfinite(batch.energy).all()
    whole = min(np.linalg.norm(find_edges(one, 3.0).vector, axis=1).min() for one in structures)
    bonds = batch.graph.edge_vector.norm(dim=-1)
    assert bonds.min() < 0.95 * whole


def test_large_structures_have_fewer_anchors(crystals, monkeypatch):
    """What is pressed together has eight times the neighbours: memory is bounded."""
    labels, model = [labels_of(one) for one in crystals], model_for(crystals)
    monkeypatch.setattr("gace.linear.anchors.ATOMS", 30)
    found = anchors_of(model, crystals, labels, ISOLATED, LeastSquares())
    assert len(found.data) == 7
    monkeypatch.setattr("gace.linear.anchors.LARGEST", 3)
    assert anchors_of(model, crystals, labels, ISOLATED, LeastSquares()) is None


def test_nothing_to_compress_is_no_anchor(crystals):
    model = model_for(crystals)
    labels = [labels_of(one) for one in crystals]
    assert anchors_of(model, crystals, labels, ISOLATED, LeastSquares(anchors=0)) is None
    alone = [Atoms("Cu")]
    assert anchors_of(model, alone, [Labels(3.5, None, None)], ISOLATED, LeastSquares()) is None


def test_a_fit_to_environments_that_are_all_alike_comes_to_an_end(tmp_path):
    """No invariant varies, so that there is nothing to scale the ridge by."""
    atoms = bulk("Cu", a=3.61)
    write_structures(tmp_path / "one.xyz", [labelled(atoms)])
    config = {
        "data": {"train": str(tmp_path / "one.xyz"), "isolated_atoms": {"Cu": 3.5}},
        "potential": {"preset": "linear-small", "cutoff": 3.5, "overrides": {"size": 30}},
    }
    result = train(config, tmp_path / "run", progress=False)
    predicted = gace.load(result.bundle).predict([atoms])[0]
    assert np.abs(predicted.forces).max() < 1e-6  # those of its only crystal
    assert np.isfinite(predicted.energy)


@pytest.mark.parametrize("settings", [{"energy_weight": 0}, {"forces_weight": 0, "energy_weight": 0}, {}])
@pytest.mark.parametrize("search_rows", [1, 800])
def test_structures_without_rows_of_their_own_are_passed_over(crystals, settings, search_rows, monkeypatch):
    """Labels missing or without weight: a batch may hold no row at all."""
    monkeypatch.setattr("gace.linear.fit.NUMBERS_AT_ONCE", 1)  # every structure is a batch
    structures = [one.copy() for one in crystals[:6]]
    for atoms in structures[1:3]:
        del atoms.arrays["REF_forces"], atoms.info["REF_stress"]
    structures[4].info["weight"] = 0.0
    labels = without_weightless(structures, [labels_of(one) for one in structures])
    data = packed(structures, labels)
    found = fit(model_for(crystals), data, LeastSquares(search_rows=search_rows, **settings))
    assert 0 < found.n_rows < 6 * (1 + 3 * 4 + 6)
    assert np.isfinite(found.left_out)
