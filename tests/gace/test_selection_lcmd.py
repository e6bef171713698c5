import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gace.selection import farthest_points, largest_cluster_maximum_distance
from gace.selection.lcmd import nearest_centre


def lcmd_as_written(candidates, centres, count):
    """LCMD-TP, slow and obvious: everything is computed anew for each pick."""
    known, free, chosen = [tuple(row) for row in centres], list(range(len(candidates))), []
    for _ in range(count):
        distance = {i: [np.sum((candidates[i] - np.array(c)) ** 2) for c in known] for i in free}
        owner = {i: int(np.argmin(distance[i])) for i in free}
        cost = [sum(min(distance[i]) for i in free if owner[i] == c) for c in range(len(known))]
        cluster = int(np.argmax(cost))
        pick = max((i for i in free if owner[i] == cluster), key=lambda i: (min(distance[i]), -i))
        chosen.append(pick)
        free.remove(pick)
        known.append(tuple(candidates[pick]))
    return chosen


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(6, 30), m=st.integers(1, 5))
def test_lcmd_does_what_its_definition_says(seed, n, m):
    rng = np.random.default_rng(seed)
    candidates, centres = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
    picks = largest_cluster_maximum_distance(candidates, centres, 5)
    assert picks.row.tolist() == lcmd_as_written(candidates, centres, 5)


def test_lcmd_prefers_a_crowd_to_a_lone_outlier():
    rng = np.random.default_rng(0)
    crowd = np.array([10.0, 0.0]) + 2 * rng.standard_normal((200, 2))
    candidates = np.concatenate([crowd, [[-18.0, 0.0]]])
    # two labelled points: the crowd is nearer to one, the outlier to the other
    centres = np.array([[5.0, 0.0], [-1.0, 0.0]])
    assert largest_cluster_maximum_distance(candidates, centres, 1).row[0] < 200
    assert farthest_points(candidates, centres, 1).row[0] == 200


def test_farthest_points_take_the_greatest_distance_each_time():
    candidates = np.array([[0.0], [1.0], [4.0], [9.0], [10.0]])
    picks = farthest_points(candidates, np.array([[0.0]]), 3)
    assert picks.row.tolist() == [4, 2, 1]
    assert picks.distance.tolist() == [10.0, 4.0, 1.0]


@pytest.mark.parametrize("choose", [largest_cluster_maximum_distance, farthest_points])
def test_with_nothing_labelled_the_most_central_comes_first(choose):
    candidates = np.array([[-5.0], [0.5], [5.0]])
    picks = choose(candidates, np.zeros((0, 1)), 3)
    assert picks.row[0] == 1
    assert np.isnan(picks.distance[0])
    assert sorted(picks.row.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("choose", [largest_cluster_maximum_distance, farthest_points])
def test_candidates_that_coincide_with_centres_are_picked_last_and_once(choose):
    candidates = np.array([[0.0], [0.0], [3.0], [0.0]])
    assert choose(candidates, np.array([[0.0]]), 9).row.tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("choose", [largest_cluster_maximum_distance, farthest_points])
def test_nothing_to_choose_from_gives_nothing(choose):
    assert len(choose(np.zeros((0, 4)), np.zeros((3, 4)), 5).row) == 0


def test_cluster_sizes_count_the_candidates_a_pick_stands_for():
    candidates = np.array([[1.0], [2.0], [3.0], [-1.0]])
    picks = largest_cluster_maximum_distance(candidates, np.array([[0.5], [-0.9]]), 1)
    assert (picks.row[0], picks.cluster_size[0]) == (2, 3)


def test_nearest_centres_in_blocks_equal_the_full_matrix(monkeypatch):
    rng = np.random.default_rng(0)
    candidates, centres = rng.standard_normal((57, 4)), rng.standard_normal((7, 4))
    monkeypatch.setattr("gace.selection.lcmd.CHUNK", 50)
    squared, owner = nearest_centre(candidates, centres)
    full = np.square(candidates[:, None] - centres).sum(2)
    np.testing.assert_array_equal(owner, full.argmin(1))
    np.testing.assert_allclose(squared, full.min(1), rtol=1e-12)


def test_ten_thousand_candidates_need_no_matrix_of_all_pairs():
    candidates = np.random.default_rng(0).standard_normal((10_000, 16))
    tracemalloc.start()
    picks = largest_cluster_maximum_distance(candidates, candidates[:500] + 0.1, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(picks.row.tolist())) == 10
    assert peak < 10_000 * 10_000 * 8 / 8  # all pairs would take 800 MB
