import json

import numpy as np
import pytest
from scipy import stats

from gace.uncertainty import metrics


@pytest.fixture
def honest():
    """Errors drawn from the very error bars, 150 structures of 20 atoms."""
    rng = np.random.default_rng(0)
    std = rng.lognormal(0, 0.6, 3000)
    return std * rng.standard_normal(3000), std, np.repeat(np.arange(150), 20)


@pytest.mark.parametrize("level", [68, 90, 95])
def test_honest_error_bars_cover_what_they_say(honest, level):
    error, std, _ = honest
    # three binomial standard deviations of 3000 draws
    assert metrics.coverage(error, std, level) == pytest.approx(level / 100, abs=0.026)


def test_zms_of_error_bars_half_as_large_is_four(honest):
    error, std, _ = honest
    assert metrics.zms(error, std) == pytest.approx(1, abs=0.1)
    assert metrics.zms(error, std / 2) == pytest.approx(4 * metrics.zms(error, std))


def test_auroc_counts_pairs():
    score, positive = [0.1, 0.4, 0.35, 0.8, 0.35], [False, False, True, True, True]
    pairs = [(0.35, 0.1), (0.35, 0.4), (0.8, 0.1), (0.8, 0.4), (0.35, 0.1), (0.35, 0.4)]
    expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert metrics.auroc(score, positive) == pytest.approx(expected)


def test_auroc_without_positives_is_undefined():
    assert np.isnan(metrics.auroc([1.0, 2.0], [False, False]))


def test_spearman_agrees_with_scipy_on_ties():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 5, 50), rng.integers(0, 5, 50)
    assert metrics.spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)


def test_honest_error_bars_reach_the_spearman_oracle_and_not_one(honest):
    error, std, _ = honest
    oracle = metrics.spearman_oracle(std)
    assert metrics.spearman(std, np.abs(error)) == pytest.approx(oracle, abs=0.06)
    assert oracle < 0.7


def test_likelihood_prefers_the_right_size(honest):
    error, std, _ = honest
    losses = [metrics.negative_log_likelihood(error, std * factor) for factor in (0.5, 1.0, 2.0)]
    assert losses[1] == min(losses)
    assert losses[1] == pytest.approx(-stats.norm.logpdf(error, scale=std).mean())


def test_miscalibration_area_is_small_only_for_honest_bars(honest):
    error, std, _ = honest
    assert metrics.miscalibration_area(error, std) < 0.02
    assert metrics.miscalibration_area(error, std / 4) > 0.2


def test_the_bootstrap_resamples_structures_not_atoms():
    # all atoms of a structure share one error: the interval must be that of 30 values, not of 3000
    rng = np.random.default_rng(0)
    value = np.repeat(rng.standard_normal(30), 100)
    group = np.repeat(np.arange(30), 100)
    by_structure = metrics.bootstrap(lambda rows: float(value[rows].mean()), group)
    by_atom = metrics.bootstrap(lambda rows: float(value[rows].mean()), np.arange(3000))
    width = by_structure.high - by_structure.low
    assert width == pytest.approx(2 * 1.96 / np.sqrt(30), rel=0.35)
    assert width > 5 * (by_atom.high - by_atom.low)


def test_assess_is_json_and_repeats(honest):
    error, std, group = honest
    found = metrics.assess(error, std, group)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert metrics.assess(error, std, group) == found
    assert set(found["coverage"]) == {"68", "90", "95"}


def test_calibrated_needs_a_hundred_structures_and_one_within_the_interval(honest):
    error, std, group = honest
    assert metrics.assess(error, std, group)["calibrated"]
    assert not metrics.assess(error, std / 2, group)["calibrated"]
    few = group < 90
    assert not metrics.assess(error[few], std[few], group[few])["calibrated"]


def test_missing_labels_are_left_out(honest):
    error, std, group = honest
    holes = error.copy()
    holes[::3] = np.nan
    assert metrics.assess(holes, std, group)["n"] == 2000


def test_nothing_to_assess_is_said_and_not_raised():
    assert metrics.assess([np.nan], [1.0]) == {"n": 0, "n_structures": 0, "calibrated": False}


def test_a_zero_error_bar_counts_as_a_miss():
    assert metrics.coverage([1.0, 0.0], [0.0, 1.0]) == 0.5
