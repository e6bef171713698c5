"""The exam: what passes, what fails, and the figures behind the verdict."""

import numpy as np
import pytest
from ase import Atoms

from gace.config import parse_config
from gace.errors import InputError
from gace.potential.bundle import save_bundle
from gace.structures.io import write_structures
from gace_platform.exam import Criteria, examine
from gace_platform.exam.assess import (
    forces_mae_difference,
    plot_points,
    residuals,
    set_errors,
    uncertainty_record,
)
from gace_platform.exam.physics import drift_check, rotation_check, strain_check

QUICK = Criteria(drift_steps=0, bootstrap=200)


def by_name(result):
    return {condition.name: condition for condition in result.conditions}


def test_perfect_potential_passes(make_bundle, exam_file):
    result = examine(make_bundle(0), exam_file, Criteria(drift_steps=20, bootstrap=200))
    assert result.verdict == "passed"
    assert set(by_name(result)) == {"finite", "rotation", "strained structures", "NVE drift"}
    assert result.errors.forces_mae.value < 1e-3  # the file keeps 8 decimals


def test_bounds_are_conditions(make_bundle, exam_file):
    criteria = Criteria(drift_steps=0, bootstrap=200, max_forces_mae=1e-12, max_energy_mae=1e6)
    conditions = by_name(examine(make_bundle(1), exam_file, criteria))
    assert not conditions["force error"].met
    assert conditions["energy error"].met


def test_force_error_is_the_mean_over_components(make_potential, exam_frames):
    other = make_potential(1)
    wanted = np.concatenate(
        [other.predict([atoms])[0].forces - atoms.arrays["REF_forces"] for atoms in exam_frames]
    )
    found = set_errors(residuals(other, exam_frames))
    assert found.forces_mae.value == pytest.approx(1000 * np.abs(wanted).mean())
    assert found.forces_rmse.value == pytest.approx(1000 * np.sqrt(np.square(wanted).mean()))
    assert found.forces_mae.low < found.forces_mae.value < found.forces_mae.high


def test_energy_error_is_per_atom(make_potential, exam_frames):
    other = make_potential(1)
    wanted = [
        1000 * abs(other.predict([atoms])[0].energy - atoms.info["REF_energy"]) / len(atoms)
        for atoms in exam_frames
    ]
    assert set_errors(residuals(other, exam_frames)).energy_mae.value == pytest.approx(np.mean(wanted))


def test_missing_labels_are_left_out(make_potential, exam_frames):
    for atoms in exam_frames[1:]:
        del atoms.info["REF_energy"]
    found = set_errors(residuals(make_potential(1), exam_frames))
    alone = set_errors(residuals(make_potential(1), exam_frames[:1]))
    assert found.energy_mae.value == pytest.approx(alone.energy_mae.value)
    assert found.stress_mae is None


def test_worse_than_the_champion_fails(make_bundle, exam_file):
    result = examine(make_bundle(1), exam_file, QUICK, champion=make_bundle(0))
    condition = by_name(result)["not worse than the champion"]
    assert not condition.met
    assert condition.value > condition.threshold
    assert result.champion_errors.forces_mae.value < result.errors.forces_mae.value


def test_as_good_as_the_champion_passes(make_bundle, exam_file):
    bundle = make_bundle(1)
    assert by_name(examine(bundle, exam_file, QUICK, champion=bundle))["not worse than the champion"].met


def test_difference_is_resampled_in_pairs(make_potential, exam_frames):
    one, other = (residuals(make_potential(seed), exam_frames) for seed in (1, 2))
    difference = forces_mae_difference(one, other)
    errors = [set_errors(found).forces_mae for found in (one, other)]
    assert difference.value == pytest.approx(errors[0].value - errors[1].value)
    assert forces_mae_difference(one, one).high == 0


def test_exam_is_deterministic(make_bundle, exam_file):
    first, second = (examine(make_bundle(1), exam_file, QUICK) for _ in range(2))
    assert first.model_copy(update={"core_seconds": 0}) == second.model_copy(update={"core_seconds": 0})


def test_nan_parameters_fail(make_potential, exam_file, tmp_path):
    import torch

    potential = make_potential(0)
    with torch.no_grad():
        for parameter in potential.members[0].parameters():
            parameter.fill_(float("nan"))
    result = examine(save_bundle(potential, tmp_path / "nan"), exam_file, QUICK)
    assert result.verdict == "failed"
    assert "not finite" in result.reason


def test_rotation_is_measured(make_potential, exam_frames):
    potential = make_potential(0)
    good = rotation_check(potential, exam_frames[0], QUICK)
    assert good.met

    class Leaning:
        """A potential whose energy depends on the direction of x."""

        def predict(self, structures):
            return [
                one._replace(energy=one.energy + atoms.positions[0, 0])
                for one, atoms in zip(potential.predict(structures), structures, strict=True)
            ]

    bad = rotation_check(Leaning(), exam_frames[0], QUICK)
    assert not bad.met
    assert bad.value > 1e-3


def test_drift_of_a_force_that_is_no_gradient_is_found(make_potential, exam_frames):
    from ase.calculators.calculator import Calculator, all_changes

    class Whirl(Calculator):
        """A force field around the z axis: it does work on every turn."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            x, y, _ = atoms.positions.T
            self.results = {"energy": 0.0, "forces": 5 * np.stack([-y, x, 0 * x], axis=1)}

    class Broken:
        def calculator(self, uncertainty):
            return Whirl()

    criteria = Criteria(drift_steps=50)
    assert not drift_check(Broken(), exam_frames[0], criteria).met
    assert drift_check(make_potential(0), exam_frames[0], criteria).met


@pytest.mark.parametrize("periodic", [False, True])
def test_one_atom_does_not_drift(make_potential, periodic):
    one = Atoms("O", cell=[2.5, 2.5, 2.5], pbc=periodic)
    found = drift_check(make_potential(0), one, Criteria(drift_steps=4))
    assert found.met, found.detail
    assert found.value < 1e-6  # moved by a constant velocity: rounding


def test_large_force_under_strain_fails(make_potential, exam_frames):
    criteria = Criteria(max_force=1e-6)
    assert not strain_check(make_potential(0), exam_frames[0], criteria).met


@pytest.mark.parametrize("strain", [-2.0, -1.0, float("inf")])
def test_a_strain_that_leaves_no_length_is_refused(strain):
    with pytest.raises(InputError, match="strains"):  # per cent in the place of shares
        parse_config({"strains": [strain]}, Criteria)


def test_unlabelled_exam_is_refused(make_bundle, ethanol, tmp_path):
    write_structures(tmp_path / "bare.xyz", [ethanol])
    with pytest.raises(InputError, match="no label"):
        examine(make_bundle(0), tmp_path / "bare.xyz", QUICK)


def test_plot_points_leave_out_isolated_atoms(make_potential, exam_frames):
    points = plot_points(residuals(make_potential(0), exam_frames), 2, "exam")
    assert len(points.energy_reference) == len(exam_frames)
    np.testing.assert_allclose(points.energy_reference, points.energy_predicted, atol=1e-6)
    assert abs(points.energy_reference[0]) < 50  # the isolated atoms weigh hundreds of eV per atom
    assert points.force_std == []


def test_uncertainty_of_the_committee_is_measured(make_potential, exam_frames):
    from gace.potential.potential import Potential
    from gace.uncertainty.container import Uncertainty

    plain = make_potential(1, members=3)
    potential = Potential(
        plain.members, isolated_atom_energies=plain.isolated_atom_energies, uncertainty=Uncertainty()
    )
    record = uncertainty_record(residuals(potential, exam_frames, uncertainty=True))
    assert record.n == len(exam_frames)
    assert set(record.coverage) == {"68", "90", "95"}
    assert record.zms.value > 0
    assert not record.calibrated
