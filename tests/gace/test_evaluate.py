"""Errors on labelled structures, held to sums written out by hand."""

import numpy as np
import pytest
from ase.build import molecule

from gace.errors import GaceError, InputError
from gace.evaluation import evaluate, widened
from gace.structures.io import set_labels


@pytest.fixture
def off_by(single, silicon_potential):
    """Structures labelled with a potential's own predictions plus known errors."""

    def make(structures, energy_errors, force_error=0.0, stress_error=0.0, potential=single):
        labelled = []
        for atoms, prediction, error in zip(
            structures, potential.predict(structures), energy_errors, strict=True
        ):
            stress = None if prediction.stress is None else prediction.stress - stress_error
            labelled.append(
                set_labels(atoms, prediction.energy - error, prediction.forces - force_error, stress)
            )
        return labelled

    return make


def test_energies_are_per_structure_shifted_and_per_atom(single, ethanols, off_by):
    summary = evaluate(single, off_by(ethanols[:3], [0.1, 0.2, 0.6]))
    assert summary["energy"]["mae"] == pytest.approx(300)
    assert summary["energy"]["rmse"] == pytest.approx(1000 * np.sqrt((0.01 + 0.04 + 0.36) / 3))
    assert summary["energy_shifted"]["mae"] == pytest.approx(200)  # errors less their mean: -0.2, -0.1, 0.3
    assert summary["energy_per_atom"]["mae"] == pytest.approx(300 / 9)
    assert (summary["n_structures"], summary["n_atoms"]) == (3, 27)


def test_forces_are_per_component(single, ethanols, off_by):
    error = np.zeros((9, 3))
    error[4, 1] = 2.7
    summary = evaluate(single, off_by(ethanols[:2], [0, 0], error))
    assert summary["forces"]["mae"] == pytest.approx(100)
    assert summary["forces"]["rmse"] == pytest.approx(2700 / np.sqrt(27))


def test_stress(silicon_potential, silicon, off_by):
    labelled = off_by([silicon], [0.0], 0.0, np.full((3, 3), 0.004), silicon_potential)
    summary = evaluate(silicon_potential, labelled)
    assert summary["stress"] == {"mae": pytest.approx(4), "rmse": pytest.approx(4)}


def test_absent_labels_give_null(single, ethanol):
    atoms = set_labels(ethanol, energy=-4000.0)
    summary = evaluate(single, [atoms])
    assert summary["forces"] is None
    assert summary["stress"] is None
    assert summary["energy"] is not None


def test_structures_without_a_label_are_left_out_of_the_mean(single, ethanols, off_by):
    labelled = [*off_by(ethanols[:1], [0.5]), ethanols[1].copy()]
    assert evaluate(single, labelled)["energy"]["mae"] == pytest.approx(500)


def test_one_missing_force_component_is_left_out(single, ethanols, off_by):
    (atoms,) = off_by(ethanols[:1], [0.0], 0.001)
    atoms.arrays["REF_forces"][0, 0] = np.nan
    assert evaluate(single, [atoms])["forces"]["mae"] == pytest.approx(1)


def test_by_config_type(single, ethanols, off_by):
    labelled = off_by(ethanols[:3], [0.1, 0.2, 0.6])
    labelled[0].info["config_type"] = labelled[1].info["config_type"] = "cold"
    kinds = evaluate(single, labelled)["by_config_type"]
    assert sorted(kinds) == ["cold", "default"]
    assert kinds["cold"]["energy"]["mae"] == pytest.approx(150)
    assert kinds["default"]["n_structures"] == 1


def test_error_bars_are_compared_by_target(committee, ethanols, off_by):
    labelled = off_by(ethanols, np.linspace(-0.1, 0.1, 12), 0.02, potential=committee)
    summary = evaluate(committee, labelled, uncertainty=True)
    assert set(summary["coverage"]["forces"]) == {"68", "90", "95"}
    (prediction,) = committee.predict(ethanols[:1], uncertainty=True)
    mean_square = np.mean(
        [(0.02 / committee.predict([one], uncertainty=True)[0].forces_std) ** 2 for one in ethanols]
    )
    assert prediction.forces_std.shape == (9, 3)
    assert summary["zms"]["forces"] == pytest.approx(mean_square)
    assert set(summary["spearman"]) == set(summary["auroc"]) == {"energy", "forces"}


def test_intervals_of_error_bars_resample_walks(committee, ethanols, off_by):
    error = np.random.default_rng(0).standard_normal((9, 3))
    labelled = off_by(ethanols, np.linspace(-0.1, 0.1, 12), error, potential=committee)
    frames = evaluate(committee, labelled, uncertainty=True)

    def named(walks):
        for number, atoms in enumerate(labelled):
            atoms.info["ancestor"] = f"walk-{number * walks // 12}"
        return evaluate(committee, labelled, uncertainty=True)

    four, one = named(4), named(1)
    for target in ("energy", "forces"):
        by_frame, by_walk, alone = (found["uncertainty"][target] for found in (frames, four, one))
        assert list(by_frame) == list(by_walk) == list(alone)
        assert by_walk["n_structures"] == alone["n_structures"] == 12
        assert by_walk["zms"] == by_frame["zms"]
        assert by_walk["zms_interval"] != by_frame["zms_interval"]
        assert by_walk["zms_interval"][0] >= 0
        assert -1 <= by_walk["spearman_interval"][0] <= by_walk["spearman_interval"][1] <= 1
        assert alone["zms_interval"] == alone["spearman_interval"] == [None, None]
    # energies err most in the first and the last walk: few witnesses, and they disagree
    widths = [np.ptp(found["uncertainty"]["energy"]["zms_interval"]) for found in (frames, four)]
    assert widths[1] > 1.5 * widths[0]


def test_intervals_without_ancestors_are_those_of_structures(committee, ethanols, off_by):
    from gace.uncertainty.metrics import assess

    errors = np.linspace(-0.1, 0.1, 12)
    labelled = off_by(ethanols, errors, potential=committee)
    std = [1000 * one.energy_std for one in committee.predict(labelled, uncertainty=True)]
    known = [
        1000 * (one.energy - atoms.info["REF_energy"])
        for one, atoms in zip(committee.predict(labelled), labelled, strict=True)
    ]
    assert evaluate(committee, labelled, uncertainty=True)["uncertainty"]["energy"] == assess(known, std)


def test_few_ancestors_widen_an_interval_and_many_do_not():
    # t quantile with one degree of freedom 12.706, normal quantile 1.960
    assert widened(10, 9, 11, 2) == pytest.approx((10 - 9.168, 10 + 9.168), abs=1e-3)
    assert widened(10, 9, 11, 10_000) == pytest.approx((9, 11), abs=1e-3)
    assert widened(10, 10.5, 11, 4)[0] == 10


def test_error_bars_of_a_single_model_are_refused(single, ethanols, off_by):
    with pytest.raises(InputError, match="no error bars"):
        evaluate(single, off_by(ethanols[:1], [0.0]), uncertainty=True)


def test_unlabelled_data_are_refused(single):
    with pytest.raises(InputError, match="no structure has a label"):
        evaluate(single, [molecule("H2O")])


def test_a_nan_prediction_is_no_missing_label(single, ethanols, off_by, make_model):
    from gace.potential.potential import Potential

    broken = Potential([make_model()], isolated_atom_energies={"H": 0.0, "C": 0.0, "O": 0.0})
    broken.members[0].scale.fill_(float("nan"))
    with pytest.raises(GaceError, match="not finite"):
        evaluate(broken, off_by(ethanols[:1], [0.0]))


@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_an_infinite_label_is_named(single, ethanol, label):
    """As programs write what overflowed; JSON knows no infinity."""
    values = {"energy": 1.0, "forces": np.zeros((9, 3)), "stress": np.zeros((3, 3))}
    values[label] = np.full(np.shape(values[label]), np.inf)
    sound = set_labels(ethanol, 1.0)
    with pytest.raises(InputError, match=f"structure 1: its label {label} is infinite"):
        evaluate(single, [sound, set_labels(ethanol, **values)])
