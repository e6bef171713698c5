import numpy as np
import pytest

from gace.errors import BundleError, InputError
from gace.uncertainty import (
    Novelty,
    Scale,
    Uncertainty,
    energy_spread,
    fit_scale,
    forces_spread,
    out_of_bag_residual,
)
from gace.uncertainty.metrics import coverage, zms


def committee(n, members, seed=0, overconfidence=3.0):
    """Errors of known size per atom, and a committee whose spread is too small by a factor."""
    rng = np.random.default_rng(seed)
    size = rng.lognormal(-2, 0.7, (n, 1))
    forces = size / overconfidence * rng.standard_normal((members, n, 3))
    return size * rng.standard_normal((n, 3)), forces


def test_the_scale_makes_error_bars_cover_on_other_data():
    error, forces = committee(400, 4)
    scale = fit_scale(error, forces_spread(forces))
    error, forces = committee(400, 4, seed=1)
    std = np.repeat(scale.std(forces_spread(forces))[:, None], 3, axis=1)
    assert zms(error.ravel(), std.ravel()) == pytest.approx(1, abs=0.25)
    assert coverage(error.ravel(), std.ravel(), 68) == pytest.approx(0.68, abs=0.06)


def test_the_scale_gives_unit_mean_square_on_its_own_data():
    error, forces = committee(50, 3)
    scale = fit_scale(error, forces_spread(forces))
    std = np.repeat(scale.std(forces_spread(forces))[:, None], 3, axis=1)
    assert zms(error.ravel(), std.ravel()) == pytest.approx(1)


def test_two_members_that_agree_by_chance_do_not_get_tiny_error_bars():
    rng = np.random.default_rng(0)
    error, energies = 0.3 * rng.standard_normal(300), 0.1 * rng.standard_normal((2, 300))
    spread = energy_spread(energies, np.ones(300))
    scale = fit_scale(error, spread)
    assert scale.floor > 0
    assert scale.std(spread).min() > 0.1


def test_a_single_member_gets_a_constant_error_bar():
    scale = fit_scale([3.0, -4.0], energy_spread(np.zeros((1, 2)), [1, 1]))
    np.testing.assert_allclose(scale.std(np.zeros(2)), np.sqrt(12.5))


def test_nothing_to_fit_to_is_refused():
    with pytest.raises(InputError, match="held-out"):
        fit_scale([np.nan], [1.0])


def test_the_force_spread_does_not_depend_on_the_axes():
    _, forces = committee(20, 4)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    # rounding of a 3x3 product
    np.testing.assert_allclose(forces_spread(forces @ rotation), forces_spread(forces), rtol=1e-12)


def test_the_energy_spread_is_per_root_atom():
    energies = np.array([[0.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(energy_spread(energies, [1, 4]), [np.sqrt(2), np.sqrt(2) / 2])


def test_out_of_bag_averages_only_members_that_did_not_see_the_structure():
    prediction = np.array([[1.0, 10.0, 100.0], [3.0, 20.0, 200.0]])
    in_bag = np.array([[False, True, True], [False, False, True]])
    residual = out_of_bag_residual(prediction, np.array([0.0, 5.0, 0.0]), in_bag)
    np.testing.assert_array_equal(residual, [2.0, 15.0, np.nan])


def test_out_of_bag_forces_keep_their_components():
    prediction = np.arange(12.0).reshape(2, 2, 3)
    in_bag = np.array([[True, False], [False, True]])
    residual = out_of_bag_residual(prediction, np.zeros((2, 3)), in_bag)
    np.testing.assert_array_equal(residual, [prediction[1, 0], prediction[0, 1]])


def container():
    rng = np.random.default_rng(0)
    novelty = Novelty.fit(rng.standard_normal((30, 5)), np.arange(30) % 2, ["C", "H"], 0, np.arange(30) // 6)
    return Uncertainty(novelty, Scale(2.0, 0.1), Scale(3.0, 0.2), 42, "out-of-bag")


def test_the_container_scales_total_energies_with_the_root_of_their_size():
    std = container().energy_std(np.array([[0.0, 0.0], [0.0, 0.0]]), [1, 9])
    np.testing.assert_allclose(std, [2 * 0.1, 2 * 0.1 * 3])


def test_the_container_gives_an_error_bar_per_force_component():
    assert container().forces_std(np.zeros((4, 7, 3))).shape == (7, 3)


def test_the_container_without_scales_passes_the_spread_on():
    np.testing.assert_allclose(Uncertainty().energy_std([[0.0], [2.0]], [4]), [np.sqrt(2)])


def test_the_container_survives_a_file_without_pickle(tmp_path):
    np.savez(tmp_path / "uncertainty.npz", **container().arrays())
    with np.load(tmp_path / "uncertainty.npz", allow_pickle=False) as stored:
        again = Uncertainty.from_arrays(stored)
    assert (again.energy, again.forces) == (Scale(2.0, 0.1), Scale(3.0, 0.2))
    assert (again.n_calibration, again.calibration, again.kind) == (42, "out-of-bag", "committee-scaled")
    assert again.novelty is not None
    assert again.novelty.elements == ["C", "H"]


def test_a_future_format_is_refused():
    with pytest.raises(BundleError, match="format 99"):
        Uncertainty.from_arrays(container().arrays() | {"format_version": np.array(99)})


def test_calibrating_counts_structures_with_an_energy():
    error, forces = committee(60, 4)
    energy_residual = np.array([0.1, np.nan, -0.2])
    calibrated = container().calibrated(
        energy_residual, np.full(3, 0.05), error, forces_spread(forces), "reserve"
    )
    assert calibrated.n_calibration == 2
    assert calibrated.calibration == "reserve"
    assert calibrated.forces_scale > 1
