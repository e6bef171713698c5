import numpy as np
import pytest

from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.io import labels_of
from gace_platform.committee.bags import Bags
from gace_platform.committee.calibrate import calibrate, fewer_members_factor, held_out


@pytest.fixture
def committee():
    members = [
        GraphACE.from_preset(
            "1L-small", elements=["Cu"], cutoff=4.0, mean_neighbours=18.0, scale=1.0, seed=seed
        )
        for seed in range(3)
    ]
    return Potential(members, isolated_atom_energies={"Cu": 0.0})


def test_errors_are_those_of_the_members_that_have_not_seen_a_structure(committee, copper_frames):
    in_bag = np.ones((3, 12), dtype=bool)
    in_bag[:2, 5] = False
    found = held_out(committee, copper_frames, in_bag)
    singles = [
        Potential([member], isolated_atom_energies={"Cu": 0.0}).predict([copper_frames[5]])[0]
        for member in committee.members[:2]
    ]
    labels = labels_of(copper_frames[5])
    energies = np.array([one.energy for one in singles])
    # four atoms: divided by √4
    assert found.energy_residual == pytest.approx([(energies.mean() - labels.energy) / 2])
    assert found.energy_spread == pytest.approx([energies.std(ddof=1) / 2])
    forces = np.array([one.forces for one in singles])
    assert found.forces_residual == pytest.approx(forces.mean(0) - labels.forces)
    assert found.fewer == pytest.approx([1 / 2 - 1 / 3])


def test_a_structure_that_one_member_only_has_not_seen_is_no_evidence(committee, copper_frames):
    in_bag = np.ones((3, 12), dtype=bool)
    in_bag[0, 5] = False
    assert held_out(committee, copper_frames, in_bag) is None


def test_the_error_bars_fit_the_held_out_errors(committee, copper_frames):
    everything = Bags(np.ones((3, 2), dtype=bool), "nothing")
    uncertainty, found = calibrate(committee, copper_frames[:2], everything, copper_frames[2:], seed=0)
    assert (uncertainty.calibration, uncertainty.n_calibration) == ("validation", 10)
    sigma = uncertainty.forces.std(found.forces_spread)
    ratio = np.square(found.forces_residual).mean(1) / np.square(sigma)
    assert ratio.mean() == pytest.approx(1.0)


def test_the_bundle_says_where_its_error_bars_come_from(committee, copper_frames):
    in_bag = np.ones((3, 12), dtype=bool)
    in_bag[:2, :6] = False
    reserve = [atoms.copy() for atoms in copper_frames]
    for atoms in reserve:
        atoms.info["origin"] = "reserve"
    for frames, by, name in (
        (reserve, "reserve", "reserve"),
        (copper_frames, "structure", "out-of-bag"),
        (copper_frames, "ancestor", "out-of-bag"),
    ):
        uncertainty, _ = calibrate(committee, frames, Bags(in_bag, by), [], seed=0)
        assert uncertainty.calibration == name


def test_where_there_is_a_reserve_nothing_else_scales_the_error_bars(committee, copper_frames):
    frames = [atoms.copy() for atoms in copper_frames]
    for atoms in frames[:5]:
        atoms.info["origin"] = "reserve"
    in_bag = np.ones((3, 8), dtype=bool)
    in_bag[:2, :7] = False  # with two frames of their trajectories
    bags = Bags(in_bag, "reserve-ancestor")
    uncertainty, found = calibrate(committee, frames[:8], bags, frames[8:], seed=0)
    assert (uncertainty.calibration, uncertainty.n_calibration) == ("reserve", 5)
    assert len(found.sizes) == 11
    in_bag[:, 5:] = True
    alone, _ = calibrate(committee, frames[:8], bags, [], seed=0)
    assert (uncertainty.energy, uncertainty.forces) == (alone.energy, alone.forces)


def test_labels_of_weight_zero_scale_no_error_bars(committee, copper_frames):
    wrong, missing = ([atoms.copy() for atoms in copper_frames] for _ in range(2))
    wrong[3].info.update(REF_energy=1000.0, energy_weight=0.0)
    wrong[4].arrays["REF_forces"] = np.full((4, 3), 100.0)
    wrong[4].info["weight"] = 0.0
    del missing[3].info["REF_energy"], missing[4].info["REF_energy"], missing[4].arrays["REF_forces"]
    in_bag = np.ones((3, 12), dtype=bool)
    in_bag[:2, :8] = False
    (found, _), (wanted, _) = (
        calibrate(committee, frames, Bags(in_bag, "structure"), [], seed=0) for frames in (wrong, missing)
    )
    assert (found.energy, found.forces, found.n_calibration) == (wanted.energy, wanted.forces, 6)


def test_validation_structures_are_not_called_reserve(committee, copper_frames):
    frames = [atoms.copy() for atoms in copper_frames]
    for atoms in frames[:3]:
        atoms.info["origin"] = "reserve"
    in_bag = np.ones((3, 6), dtype=bool)
    in_bag[:2, :3] = False
    uncertainty, _ = calibrate(committee, frames[:6], Bags(in_bag, "reserve"), frames[6:], seed=0)
    assert (uncertainty.calibration, uncertainty.n_calibration) == ("out-of-bag", 9)


def test_too_few_held_out_structures_scale_nothing_but_novelty_is_there(committee, copper_frames):
    everything = Bags(np.ones((3, 10), dtype=bool), "nothing")
    uncertainty, _ = calibrate(committee, copper_frames[:10], everything, copper_frames[10:], seed=0)
    assert (uncertainty.calibration, uncertainty.forces) == ("none", None)
    assert uncertainty.novelty is not None


def test_errors_of_fewer_members_are_brought_to_those_of_all():
    random = np.random.default_rng(0)
    # four members with variance 1 around a bias of variance 4; the mean of two of them is tested
    bias = 2.0 * random.standard_normal(200_000)
    members = bias + random.standard_normal((4, 200_000))
    residual, spread = members[:2].mean(0), members[:2].std(0, ddof=1)
    factor = fewer_members_factor(residual, spread, np.full(200_000, 1 / 2 - 1 / 4))
    # statistical error of the ratio below 0.5 %
    assert np.sqrt(np.mean((factor * residual) ** 2)) == pytest.approx(np.sqrt(4 + 1 / 4), rel=0.01)
