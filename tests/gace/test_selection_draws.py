import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gace.selection import content_order, deduplicate, random_reserve, shortlist

HASHES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(400)]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(60)))
def test_the_reserve_does_not_depend_on_the_order_of_the_pool(order):
    shuffled = [HASHES[number] for number in order]
    drawn = {shuffled[row] for row in random_reserve(shuffled, 7, seed=3)}
    assert drawn == {HASHES[row] for row in random_reserve(HASHES[:60], 7, seed=3)}


def test_a_larger_pool_leaves_the_luck_of_each_candidate_alone():
    few = [HASHES[row] for row in content_order(0, "reserve", HASHES[:50])]
    many = [HASHES[row] for row in content_order(0, "reserve", HASHES)]
    assert [one for one in many if one in few] == few


def test_the_reserve_is_uniform():
    drawn = np.concatenate([random_reserve(HASHES[:50], 5, seed) for seed in range(600)])
    counts = np.bincount(drawn, minlength=50)  # 60 expected, binomial deviation 7.3
    assert counts.min() > 60 - 5 * 7.4
    assert counts.max() < 60 + 5 * 7.4


def test_another_seed_or_purpose_gives_another_order():
    orders = {
        tuple(content_order(*key, HASHES[:30])) for key in ((0, "reserve"), (1, "reserve"), (0, "random"))
    }
    assert len(orders) == 3


def test_a_small_pool_is_its_own_shortlist():
    assert shortlist(HASHES[:5], np.arange(5.0), None, 10, 0).tolist() == [0, 1, 2, 3, 4]


def test_the_shortlist_favours_the_uncertain_but_is_no_ranking():
    uncertainty = np.arange(400.0)
    rows = shortlist(HASHES, uncertainty, None, 100, 0)
    assert len(set(rows.tolist())) == 100
    assert uncertainty[rows].mean() > 240  # 199.5 if drawn evenly
    assert (uncertainty[rows] < 200).sum() >= 10  # 0 if cut off from the top


def test_no_trajectory_floods_the_shortlist():
    # one runaway walk of 200 frames, all more uncertain than the 200 frames of ten others
    trajectory = ["runaway"] * 200 + [f"walk-{number // 20}" for number in range(200)]
    uncertainty = np.where(np.arange(400) < 200, 100.0, 1.0) + np.arange(400)
    rows = shortlist(HASHES, uncertainty, trajectory, 44, 0)
    assert len(rows) == 44
    assert (rows < 200).sum() <= 8  # twice the even share of 11 trajectories


def test_a_quota_does_not_shrink_the_shortlist():
    trajectory = ["long"] * 395 + [f"short-{number}" for number in range(5)]
    assert len(shortlist(HASHES, None, trajectory, 100, 0)) == 100


def test_unknown_uncertainty_counts_as_typical():
    uncertainty = np.where(np.arange(400) % 2 == 0, np.nan, np.arange(400.0))
    rows = shortlist(HASHES, uncertainty, None, 100, 0)
    assert 25 < (rows % 2 == 0).sum() < 75


def test_infinite_uncertainty_is_the_highest_rank():
    uncertainty = np.where(np.arange(400) < 40, np.inf, 1.0)
    rows = shortlist(HASHES, uncertainty, None, 60, 0)
    assert (rows < 40).sum() > 60 * 40 / 400


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(60)))
def test_the_shortlist_does_not_depend_on_the_order_of_the_pool(order):
    uncertainty = np.sin(np.arange(60.0))
    trajectory = [str(number % 4) for number in range(60)]
    rows = shortlist(HASHES[:60], uncertainty, trajectory, 20, 1)
    shuffled = shortlist(
        [HASHES[i] for i in order], uncertainty[list(order)], [trajectory[i] for i in order], 20, 1
    )
    assert {order[row] for row in shuffled} == set(rows.tolist())


def all_pairs(candidates, known, tolerance):
    """Copies by looking at all pairs."""
    entries, repeats = [*known, *candidates], []
    kept = list(range(len(known)))
    for number, one in enumerate(candidates):
        near = [k for k in kept if np.linalg.norm(one - entries[k]) <= tolerance]
        repeats.append(near[0] if near else -1)
        if not near:
            kept.append(len(known) + number)
    return repeats


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_known=st.integers(0, 8))
def test_copies_are_those_that_all_pairs_would_show(seed, n_known):
    rng = np.random.default_rng(seed)
    candidates, known = rng.uniform(size=(40, 12)), rng.uniform(size=(n_known, 12))
    assert deduplicate(candidates, known, 0.9).tolist() == all_pairs(candidates, known, 0.9)


def test_the_last_word_on_a_close_pair_is_asked_for_close_pairs_only():
    candidates = np.array([[0.0], [0.001], [5.0], [5.001]])
    asked = []
    repeats = deduplicate(
        candidates, np.zeros((0, 1)), 0.01, lambda i, j: bool(asked.append((i, j))) or i == 2
    )
    assert asked == [(0, 1), (2, 3)]
    assert repeats.tolist() == [-1, -1, -1, 2]


def test_ten_thousand_copies_collapse_quickly():
    candidates = np.repeat(np.eye(4), 2500, axis=0)
    assert (deduplicate(candidates, np.zeros((0, 4)), 0.1) < 0).sum() == 4


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_or_single_pool_has_no_copies(n):
    assert deduplicate(np.zeros((n, 3)), np.zeros((0, 3)), 0.1).tolist() == [-1] * n
