"""Shear stresses in another order: found by the energies and forces of the same structures, and put right."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import GPa
from hypothesis import given, settings
from hypothesis import strategies as st

import gace
from gace.config import parse_config
from gace.evaluation import evaluate
from gace.structures.io import labels_of, read_structures, set_labels, write_structures
from gace.structures.stress_order import COMPONENTS, ORDERS, put_right, reordered_stresses, shear
from gace.training.config import TrainConfig
from gace.training.prepare import read_data


def stresses(seed: int, count: int = 8):
    """Symmetric matrices with shear components of about 0.02 eV/Å³."""
    draw = np.random.default_rng(seed).normal(scale=0.02, size=(count, 3, 3))
    return (draw + draw.transpose(0, 2, 1)) / 2


def given_as(stress, order):
    """The stress as a file gives it that has component ``order[k]`` where component k belongs."""
    out = stress.copy()
    for (i, j), value in zip(((1, 2), (0, 2), (0, 1)), shear(stress)[list(order)], strict=True):
        out[i, j] = out[j, i] = value
    return out


@settings(max_examples=60, deadline=None)
@given(order=st.sampled_from(ORDERS), seed=st.integers(0, 10**6), noise=st.floats(0, 2e-3))
def test_every_order_is_found_and_undone(order, seed, noise):
    right = stresses(seed)
    labels = [given_as(one, order) for one in right]
    expected = right + noise * np.random.default_rng(seed + 1).normal(size=right.shape)
    found = reordered_stresses(labels, list(expected), ["melt"] * len(labels))
    if order == ORDERS[0]:
        assert found == []
        return
    assert [one.config_type for one in found] == ["melt"]
    assert found[0].order == tuple(COMPONENTS[k] for k in order)
    for label, one in zip(labels, right, strict=True):
        assert np.array_equal(put_right(label, found[0]), one)


def test_kinds_are_judged_by_themselves():
    right = stresses(3, 12)
    kinds = ["elastic"] * 6 + ["melt"] * 6
    labels = [*right[:6], *(given_as(one, (1, 0, 2)) for one in right[6:])]
    (found,) = reordered_stresses(labels, list(right), kinds)
    assert (found.config_type, found.n_structures, found.order) == ("melt", 6, ("xz", "yz", "xy"))
    assert found.reordered == 0.0
    apart = np.array([shear(a - b) for a, b in zip(labels[6:], right[6:], strict=True)])
    assert found.as_given == pytest.approx(np.sqrt(np.mean(apart**2)))
    assert "xz as yz, yz as xz" in str(found)


@pytest.mark.parametrize("swapped", [2, 4])
def test_thin_or_contradictory_evidence_changes_nothing(swapped):
    """Two structures are too few, and a kind half of which is in another order has none."""
    right = stresses(5, 8)
    labels = [given_as(one, (1, 0, 2)) for one in right[:swapped]]
    right = right[:2] if swapped == 2 else right
    assert reordered_stresses([*labels, *right[swapped:]], list(right), ["a"] * len(right)) == []


def test_a_potential_that_knows_nothing_accuses_hardly_anybody():
    """Four structures with labels in order and expectations of noise: one group in a thousand."""
    draw = np.random.default_rng(2)
    accused = 0
    for _ in range(2000):
        labels, noise = (list(one + one.transpose(0, 2, 1)) for one in draw.normal(size=(2, 4, 3, 3)))
        accused += len(reordered_stresses(labels, noise, ["a"] * 4))
    assert accused <= 10


def test_missing_stresses_have_no_say():
    right = stresses(7, 8)
    labels = [given_as(one, (1, 0, 2)) for one in right]
    without = reordered_stresses([*labels, None, right[0]], [*right, right[0], None], ["a"] * 10)
    assert [one.n_structures for one in without] == [8]


@pytest.fixture(scope="module")
def copper():
    """Sheared and rattled copper by EMT; the stresses of the melt give yz for xz."""
    draw = np.random.default_rng(11)
    right, given = [], []
    for number in range(24):
        atoms = bulk("Cu", cubic=True)
        melt = number % 2 == 0
        strain = draw.normal(scale=0.03, size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.rattle(0.15 if melt else 0.02, seed=number)
        atoms.calc = EMT()
        stress = atoms.get_stress(voigt=False)
        labelled = set_labels(atoms, atoms.get_potential_energy(), atoms.get_forces(), stress)
        labelled.info["config_type"] = "melt" if melt else "elastic"
        labelled.info["stress_weight"] = 0.5
        right.append(labelled)
        given.append(set_labels(labelled, stress=given_as(stress, (1, 0, 2)) if melt else stress))
    return right, given


@pytest.fixture
def config(copper, tmp_path):
    right, given = copper
    write_structures(tmp_path / "right.xyz", right)
    write_structures(tmp_path / "given.xyz", given)
    return {
        "data": {
            "train": str(tmp_path / "given.xyz"),
            "validation": str(tmp_path / "given.xyz"),
            "isolated_atoms": {"Cu": 0.0},
        },
        "potential": {"preset": "linear-small", "overrides": {"size": 60}},
        "training": {"least_squares": {"anchors": 0}},
        "threads": 1,
    }


def by_energy(structures):
    """Files round; the energies tell them apart."""
    return {round(labels_of(one).energy, 6): labels_of(one) for one in structures}


def test_corrected_data_are_those_that_were_never_wrong(config, copper):
    data = read_data(
        parse_config({**config, "data": {**config["data"], "stress_order": "corrected"}}, TrainConfig)
    )
    right = by_energy(copper[0])
    for structures, labels in ((data.train, data.train_labels), (data.validation, data.validation_labels)):
        assert len(structures) == len(right)
        for atoms, label in zip(structures, labels, strict=True):
            truth = right[round(label.energy, 6)]
            assert np.allclose(label.stress, truth.stress, atol=1e-6)
            assert np.array_equal(labels_of(atoms).stress, label.stress)
            assert atoms.info["stress_weight"] == 0.5
            assert np.allclose(label.forces, truth.forces, atol=1e-6)
    said = [line for line in data.warnings if "put right" in line]
    assert len(said) == 1
    assert "'melt'" in said[0]


def test_as_given_says_so_after_training(config, copper, tmp_path, capsys):
    result = gace.train(config, tmp_path / "run")
    said = [line for line in result.warnings if "another order" in line]
    assert len(said) == 1
    assert "'melt'" in said[0]
    assert "data.stress_order: corrected" in said[0]
    assert said[0] in capsys.readouterr().err
    assert json.loads((tmp_path / "run/summary.json").read_text())["warnings"] == result.warnings


def test_corrected_training_learns_the_right_stresses(config, copper, tmp_path):
    errors = {}
    for order in ("as-given", "corrected"):
        result = gace.train({**config, "data": {**config["data"], "stress_order": order}}, tmp_path / order)
        errors[order] = evaluate(gace.load(result.bundle), copper[0])["stress"]["rmse"]
    assert errors["corrected"] < 0.5 * errors["as-given"]


def test_data_in_order_are_left_alone(config, tmp_path):
    plain = {**config["data"], "train": str(tmp_path / "right.xyz"), "validation": None}
    for order in ("as-given", "corrected"):
        result = gace.train({**config, "data": {**plain, "stress_order": order}}, tmp_path / order)
        assert result.warnings == []


def test_evaluate_names_the_kind(config, copper, tmp_path):
    result = gace.train({**config, "data": {**config["data"], "stress_order": "corrected"}}, tmp_path / "run")
    potential = gace.load(result.bundle)
    (found,) = evaluate(potential, copper[1])["stress_order"]
    assert (found["config_type"], found["order"]) == ("melt", ["xz", "yz", "xy"])
    assert found["reordered"] < 0.5 * found["as_given"]
    assert "stress_order" not in evaluate(potential, copper[0])
    command = [sys.executable, "-m", "gace.cli", "evaluate", str(result.bundle), str(tmp_path / "given.xyz")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "another order" in " ".join(said.split())


def test_committees_train_on_corrected_labels(config, copper, tmp_path):
    from gace_platform.committee.bags import draw_bags
    from gace_platform.committee.config import CommitteeConfig
    from gace_platform.committee.members import plan_members

    settings = {**config, "name": "copper", "data": {**config["data"], "stress_order": "corrected"}}
    committee = parse_config(settings, CommitteeConfig)
    data = read_data(committee)
    members = plan_members(committee, data, draw_bags(data.train, 2, 0.8, 1), tmp_path / "scratch")
    right = by_energy(copper[0])
    for member in members:
        member.lay_out()
        written = yaml.safe_load((member.folder / "config.yaml").read_text())
        assert "stress_order" not in written["data"]
        for atoms in read_structures(member.folder / "train.xyz"):
            label = labels_of(atoms)
            assert np.allclose(label.stress, right[round(label.energy, 6)].stress, atol=1e-6)


def test_kept_molybdenum_shears_as_its_labels_say():
    """C44 of the crystal: 109 GPa by the strained cells; 78 when their stresses were learnt as given."""
    potential = gace.load(Path(__file__).parents[2] / "benchmarks/potentials/mlearn-Mo", dtype="float64")
    crystal, sheared = bulk("Mo", a=9.503 / 3, cubic=True), []
    for angle in (0.02, -0.02):
        atoms = crystal.copy()
        atoms.set_cell(crystal.cell @ (np.eye(3) + angle / 2 * np.eye(3)[[1, 0, 2]] * [[1], [1], [0]]), True)
        sheared.append(potential.predict([atoms])[0].stress[0, 1])
    assert (sheared[0] - sheared[1]) / 0.04 / GPa == pytest.approx(109, abs=5)
