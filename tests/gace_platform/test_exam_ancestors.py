"""Intervals of the exam: walks are resampled, not their frames."""

import numpy as np
import pytest

from gace_platform.exam import Criteria
from gace_platform.exam.assess import (
    Residuals,
    forces_mae_difference,
    residuals,
    set_errors,
    uncertainty_record,
)
from gace_platform.exam.examine import champion_check

ATOMS = 3
MEAN = 100 * np.sqrt(2 / np.pi)
"""Mean |error| of :func:`walks`, meV/Å."""


def residuals_of(error, ancestor=None, std=None, energy=None):
    """Residuals of structures of ``ATOMS`` atoms with these errors of the forces, eV/Å ``(N, 3)``."""
    size = len(error) // ATOMS
    zero, no_stress = np.zeros(size), np.full((size, 3, 3), np.nan)
    return Residuals(
        n_atoms=np.full(size, float(ATOMS)),
        isolated=zero,
        energy=zero if energy is None else energy,
        energy_reference=zero,
        forces=error,
        forces_reference=np.zeros_like(error),
        forces_std=std,
        stress=no_stress,
        stress_reference=no_stress,
        ancestor=None if ancestor is None else np.asarray(ancestor),
    )


def walks(random, count, frames, spread=0.3):
    """Walks whose errors differ in size by a log-normal factor, each frame by another of 0.2."""
    level = np.repeat(np.exp(spread * random.standard_normal(count) - spread**2 / 2), frames)
    level *= np.exp(0.2 * random.standard_normal(count * frames) - 0.02)
    error = 0.1 * random.standard_normal((count * frames * ATOMS, 3)) * np.repeat(level, ATOMS)[:, None]
    return residuals_of(error, np.repeat(np.arange(count), frames))


def test_without_ancestors_structures_are_resampled_as_ever():
    from gace.randomness import generator

    error = np.random.default_rng(0).standard_normal((8 * ATOMS, 3))
    found = set_errors(residuals_of(error), seed=3, draws=200)
    by_structure = 1000 * np.abs(error).reshape(8, -1).mean(1)
    rows = generator(3, "bootstrap", 8, 200).integers(8, size=(200, 8))
    wanted = np.percentile(by_structure[rows].mean(1), [2.5, 97.5])
    assert (found.forces_mae.low, found.forces_mae.high) == pytest.approx(tuple(wanted), rel=1e-12)


def test_more_frames_of_the_same_walks_do_not_narrow_the_interval():
    error = np.random.default_rng(1).standard_normal((5, ATOMS, 3))
    energy = np.arange(1.0, 6.0)
    once = set_errors(residuals_of(error.reshape(-1, 3), range(5), energy=energy))
    often = set_errors(
        residuals_of(
            np.repeat(error, 20, 0).reshape(-1, 3), np.repeat(range(5), 20), energy=energy.repeat(20)
        )
    )
    for name in ("forces_mae", "forces_rmse", "energy_mae"):
        few, many = getattr(once, name), getattr(often, name)
        assert (many.value, many.low, many.high) == pytest.approx((few.value, few.low, few.high))


@pytest.mark.parametrize("count", [4, 8])
def test_interval_of_few_walks_covers(count):
    random = np.random.default_rng(2)
    found = [set_errors(walks(random, count, 10), draws=100).forces_mae for _ in range(200)]
    covered = np.mean([one.low <= MEAN <= one.high for one in found])
    assert 0.88 <= covered <= 0.99  # 0.95 wanted; ±0.05 is three standard errors of 200 trials


def test_an_equal_potential_is_seldom_worse_than_the_champion():
    random, criteria = np.random.default_rng(3), Criteria(bootstrap=100)
    pairs = [[walks(random, 4, 10) for _ in range(2)] for _ in range(200)]
    assert np.mean([not champion_check(*pair, criteria).met for pair in pairs]) <= 0.07


def test_a_clearly_worse_potential_is_refused_on_eight_walks():
    random = np.random.default_rng(4)
    champion = walks(random, 8, 10)
    worse = residuals_of(1.5 * champion.forces, champion.ancestor)
    assert not champion_check(worse, champion, Criteria()).met
    assert champion_check(champion, champion, Criteria()).met


def test_one_walk_gives_no_interval_and_decides_by_the_error_itself():
    champion = walks(np.random.default_rng(5), 1, 10)
    worse, better = (residuals_of(f * champion.forces, champion.ancestor) for f in (1.01, 0.99))
    found = set_errors(champion)
    for one in (found.forces_mae, found.forces_rmse, found.energy_mae):
        assert (one.low, one.high) == (None, None)
    refused = champion_check(worse, champion, Criteria())
    assert not refused.met
    assert "no interval from a single walk" in refused.detail
    assert champion_check(better, champion, Criteria()).met


def test_walks_without_the_label_are_no_witnesses():
    found = walks(np.random.default_rng(6), 3, 4)
    found.forces_reference[4 * ATOMS :] = np.nan  # forces in one of three walks only
    assert set_errors(found).forces_mae.low is None


def test_structures_without_the_label_are_no_witnesses_either():
    found = residuals_of(np.random.default_rng(7).standard_normal((5 * ATOMS, 3)))
    found.forces_reference[ATOMS:] = np.nan  # forces of one of five structures only
    forces = set_errors(found).forces_mae
    assert (forces.low, forces.high) == (None, None)


def test_an_error_has_no_negative_interval_and_a_difference_may():
    ancestor = np.repeat([0, 1], 5)
    ramp = np.repeat([0.1, 0.5], 5 * ATOMS)[:, None] * np.ones(3)
    one, other = residuals_of(ramp, ancestor), residuals_of(ramp[::-1], ancestor)
    errors, difference = set_errors(one), forces_mae_difference(one, other)
    assert errors.forces_mae.low == errors.forces_rmse.low == 0
    assert difference.low < 0 < difference.high


def test_ancestors_of_structures_are_carried(make_potential, exam_frames):
    names = ["a", "b", "a", 7, None, ""]
    assert residuals(make_potential(0), exam_frames[:3]).ancestor is None
    frames = [exam_frames[index % len(exam_frames)].copy() for index in range(len(names))]
    for atoms, name in zip(frames, names, strict=True):
        atoms.info["ancestor"] = name
    del frames[2][0]  # another formula, the same walk
    del frames[4].info["ancestor"]
    assert residuals(make_potential(0), frames).ancestor.tolist() == [0, 1, 0, 2, 3, 4]


def test_error_bars_are_judged_by_walk():
    found = walks(np.random.default_rng(9), 4, 40)
    std = np.full_like(found.forces, 0.1) * np.random.default_rng(10).uniform(0.8, 1.2, found.forces.shape)
    by_walk, by_frame = (
        uncertainty_record(residuals_of(found.forces, ancestor, std)) for ancestor in (found.ancestor, None)
    )
    assert by_walk.n == by_frame.n == 160
    assert by_walk.zms.value == by_frame.zms.value
    assert by_walk.zms.high - by_walk.zms.low > 2 * (by_frame.zms.high - by_frame.zms.low)
    assert not by_walk.calibrated  # a hundred frames of four walks are four witnesses
    alone = uncertainty_record(residuals_of(found.forces, np.zeros(160, dtype=int), std))
    assert (alone.zms.low, alone.spearman.high, alone.calibrated) == (None, None, False)
