import numpy as np
import pytest
from ase.build import molecule

from gace.structures.identity import structure_hash
from gace_platform.committee.bags import draw_bags


def structures(count, ancestors=None):
    made = []
    for number in range(count):
        atoms = molecule("CH4")
        atoms.rattle(0.1, seed=number)
        if ancestors is not None:
            atoms.info["ancestor"] = f"walk-{number % ancestors}"
        made.append(atoms)
    return made


def reserving(drawn, count, ancestors):
    """Structures of which the first ``drawn`` are the reserve."""
    made = structures(count, ancestors)
    for atoms in made[:drawn]:
        atoms.info["origin"] = "reserve"
    return made


def test_each_member_leaves_out_about_what_was_asked_for():
    in_bag = draw_bags(structures(40), 4, 0.9, seed=0).in_bag
    assert (~in_bag).sum(1).tolist() == [4, 4, 4, 4]


def test_what_is_left_out_is_left_out_by_two_members():
    counts = (~draw_bags(structures(40), 4, 0.9, seed=0).in_bag).sum(0)
    assert sorted(set(counts.tolist())) == [0, 2]
    assert (counts == 2).sum() == 8


def test_no_two_members_see_the_same_data():
    in_bag = draw_bags(structures(40), 4, 0.9, seed=0).in_bag
    assert len({tuple(row) for row in in_bag.tolist()}) == 4


def test_the_order_of_the_structures_does_not_matter():
    data = structures(24)
    names = [structure_hash(atoms) for atoms in data]
    forward, backward = (draw_bags(order, 3, 0.8, seed=2).in_bag for order in (data, data[::-1]))
    left_out = {name for name, inside in zip(names, forward[1], strict=True) if not inside}
    assert left_out == {name for name, inside in zip(names[::-1], backward[1], strict=True) if not inside}
    assert left_out


def test_whole_ancestors_are_left_out():
    data = structures(60, ancestors=30)
    bags = draw_bags(data, 4, 0.9, seed=0)
    assert bags.by == "ancestor"
    for row in bags.in_bag:
        of_ancestor = {}
        for atoms, inside in zip(data, row, strict=True):
            of_ancestor.setdefault(atoms.info["ancestor"], set()).add(bool(inside))
        assert all(len(choices) == 1 for choices in of_ancestor.values())


def test_the_random_reserve_is_left_out_before_anything_else():
    data = reserving(6, 40, ancestors=40)
    bags = draw_bags(data, 4, 0.9, seed=0)
    assert bags.by == "reserve"
    assert (~bags.in_bag).sum(0).tolist() == [2] * 6 + [0] * 34


def test_a_reserve_too_small_to_learn_from_is_not_enough():
    data = reserving(3, 40, ancestors=40)
    assert draw_bags(data, 4, 0.9, seed=0).by == "ancestor"


def test_the_rest_of_a_reserve_frames_trajectory_is_left_out_with_it():
    data = reserving(8, 60, ancestors=30)
    bags = draw_bags(data, 4, 0.9, seed=0)
    assert bags.by == "reserve-ancestor"
    assert (bags.in_bag[:, :8] == bags.in_bag[:, 30:38]).all()
    assert (~bags.in_bag).sum(0).tolist() == ([2] * 8 + [0] * 22) * 2


def test_a_reserve_from_long_trajectories_is_left_out_alone():
    data = reserving(8, 60, ancestors=4)
    bags = draw_bags(data, 4, 0.9, seed=0)
    assert bags.by == "reserve"
    assert (~bags.in_bag).sum(0).tolist() == [2] * 8 + [0] * 52


def test_a_few_long_trajectories_are_left_out_by_structure():
    assert draw_bags(structures(60, ancestors=3), 4, 0.9, seed=0).by == "structure"


@pytest.mark.parametrize(
    ("count", "members", "share"), [(40, 1, 0.9), (40, 2, 0.9), (40, 2, 0.5), (40, 4, 1.0), (15, 4, 0.9)]
)
def test_nothing_is_left_out_where_that_makes_no_sense(count, members, share):
    bags = draw_bags(structures(count), members, share, seed=0)
    assert bags.by == "nothing"
    assert np.all(bags.in_bag)


def test_a_frame_that_walks_share_is_left_out_by_two_members_at_most():
    made = structures(40, ancestors=20)
    for number, atoms in enumerate(made[:20]):
        atoms.info["origin"] = "reserve"
        made[20 + number].positions = made[(number // 2) * 2].positions  # two walks each begin alike
    for seed in range(5):
        left_out = (~draw_bags(made, 4, 0.8, seed).in_bag).sum(0)
        assert left_out.max() <= 2
