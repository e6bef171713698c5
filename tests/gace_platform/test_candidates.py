import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from gace.structures.identity import structure_hash
from gace.structures.io import read_structures, write_structures
from gace_platform.candidates.choose import select
from gace_platform.candidates.config import SelectConfig
from gace_platform.candidates.crystals import same_crystal
from gace_platform.candidates.judgement import lowest_energies, reference_energies
from gace_platform.candidates.pool import Pool
from gace_platform.candidates.run import run_selection
from gace_platform.ledger.canonical import canonical_hash


def shaken(number, size=0.08, walk=None):
    """An ethanol molecule with independent random displacements, as a frame of a walk."""
    atoms = molecule("CH3CH2OH")
    atoms.positions += size * np.random.default_rng(number).standard_normal(atoms.positions.shape)
    atoms.positions = np.round(atoms.positions, 8)
    atoms.info["structure_id"] = f"s{number:03d}"
    atoms.info["ancestor"] = f"walk-{number // 10}" if walk is None else walk
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool of 60 candidates and 5 labelled structures."""
    folder = tmp_path_factory.mktemp("candidates")
    write_structures(folder / "pool.xyz", [shaken(number) for number in range(60)])
    write_structures(folder / "training.xyz", [shaken(number) for number in range(100, 105)])
    return folder


def config_of(folder, **changes):
    content = {"pool": "pool.xyz", "training": "training.xyz", "count": 10, "seed": 1} | changes
    return SelectConfig(**content).relative_to(folder)


def rejected(result):
    return {entry["class"]: entry["count"] for entry in result.rejections.as_list()}


def ids(result):
    return [pick.atoms.info["structure_id"] for pick in result.picks]


def pool_of(folder, structures, name="other.xyz", **changes):
    write_structures(folder / name, structures)
    return config_of(folder, pool=name, **changes)


@pytest.mark.parametrize("strategy", ["lcmd", "fps", "random"])
def test_each_strategy_picks_the_count_with_its_reserve(folder, strategy):
    result = select(config_of(folder, strategy=strategy))
    origins = [pick.origin for pick in result.picks]
    assert origins == ["reserve"] * 2 + [strategy] * 8
    assert len(set(ids(result))) == 10


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(60)))
def test_picks_do_not_depend_on_the_order_of_the_pool(folder, order):
    structures = [shaken(number) for number in range(60)]
    reference = select(config_of(folder))
    shuffled = select(pool_of(folder, [structures[number] for number in order], "shuffled.xyz"))
    assert ids(shuffled) == ids(reference)
    assert [pick.reason for pick in shuffled.picks] == [pick.reason for pick in reference.picks]


def test_picks_do_not_depend_on_how_the_pool_is_split_into_files(folder):
    write_structures(folder / "one.xyz", [shaken(number) for number in range(30, 60)])
    write_structures(folder / "two.xyz", [shaken(number) for number in range(30)])
    assert ids(select(config_of(folder, pool=["one.xyz", "two.xyz"]))) == ids(select(config_of(folder)))


def test_frames_of_equal_geometry_are_one_candidate_whichever_comes_first(folder):
    twin = shaken(0, walk="elsewhere")
    one = select(pool_of(folder, [shaken(0), twin, shaken(1)]))
    two = select(pool_of(folder, [twin, shaken(1), shaken(0)]))
    assert [pick.atoms.info for pick in one.picks] == [pick.atoms.info for pick in two.picks]
    assert rejected(one)["exact_copy"] == 1


def test_another_seed_draws_another_reserve(folder):
    reserves = {tuple(ids(select(config_of(folder, seed=seed)))[:2]) for seed in range(5)}
    assert len(reserves) > 1


def test_the_reserve_does_not_depend_on_strategy_or_training_set(folder):
    reference = ids(select(config_of(folder)))[:2]
    assert ids(select(config_of(folder, strategy="fps", training=None)))[:2] == reference


def test_structures_that_cannot_be_are_refused_for_what_they_are(folder):
    collided, broken = shaken(200), shaken(201)
    collided.positions[1] = collided.positions[0] + [0.3, 0, 0]
    broken.positions[2] = np.nan
    result = select(pool_of(folder, [shaken(0), collided, broken]))
    assert ids(result) == ["s000"]
    assert rejected(result) == {"not_finite": 1, "too_close": 1}


def test_a_teachers_large_forces_are_refused(folder):
    wild = shaken(0)
    wild.arrays["teacher_forces"] = np.full((9, 3), 40.0)
    assert rejected(select(pool_of(folder, [wild, shaken(1)])))["force_too_large"] == 1


def test_high_energies_are_refused_within_a_composition(folder):
    structures = [shaken(number) for number in range(6)]
    for number, atoms in enumerate(structures):
        atoms.info["teacher_energy"] = -700.0 + (20.0 if number == 3 else 0.1 * number)
    water = molecule("H2O")
    water.info |= {"teacher_energy": -100.0, "structure_id": "water"}
    result = select(pool_of(folder, [*structures, water], energy_max_per_atom=1.0, count=20))
    assert rejected(result) == {"energy_too_high": 1}
    assert "s003" not in ids(result)
    assert "water" in ids(result)


@pytest.mark.parametrize("largest_force", [300.0, 1.0])
def test_a_hole_of_the_potential_does_not_make_all_others_too_high(folder, largest_force):
    structures = [shaken(number) for number in range(6)]
    for number, atoms in enumerate(structures):
        atoms.info["teacher_energy"] = -1200.0 if number == 3 else -700.0 + (20.0 if number == 4 else number)
        atoms.arrays["teacher_forces"] = np.full((9, 3), largest_force if number == 3 else 1.0)
    result = select(pool_of(folder, structures, energy_max_per_atom=1.0, count=20))
    refused = {"force_too_large": 1} if largest_force > 50 else {}
    assert rejected(result) == refused | {"energy_too_high": 1}
    assert {"s000", "s001", "s002", "s005"} <= set(ids(result))


def energies_from(values, labelled=None, walks=None):
    structures = [shaken(number) for number in range(len(values))]
    for atoms, walk in zip(structures, walks or [], strict=bool(walks)):
        atoms.info["ancestor"] = walk
    pool = Pool(structures, [str(number) for number in range(len(values))])
    energies = 9 * np.array(values)  # nine atoms each
    (reference,) = reference_energies(pool, energies, labelled or {}, 1.0).values()
    return reference


def test_energies_are_measured_from_the_lowest_that_is_believed():
    name = next(iter(lowest_energies([shaken(0)], np.zeros(1))))
    assert energies_from([0.0, 0.9, 5.0]) == 0.0
    assert energies_from([-9.0, -7.0, 0.0, 0.9]) == 0.0
    # nobody tells which of two is wrong
    assert energies_from([-9.0, 0.0]) == -9.0
    # frames of one walk do not witness for each other
    assert energies_from([-9.0, -8.9, 0.0, 0.3], walks=["a", "a", "a", "b"]) == 0.0
    assert energies_from([-9.0, -0.9, 0.0], walks=["a", "a", "a"]) == pytest.approx(
        -0.9
    )  # unless there are no others
    # a label does, and needs no witness; it is one for what lies not too far below it
    assert energies_from([-9.0, -8.9, 0.0], {name: 0.5}, walks=["a", "b", "c"]) == 0.0
    assert energies_from([-9.0, 0.0], {name: 0.5}) == 0.0
    assert energies_from([2.0, 2.1], {name: 0.5}) == 0.5


def test_other_molecules_are_no_copies_though_their_descriptors_are_blind():
    """Beyond the reach of the descriptor all structures look alike."""
    far = [
        Atoms("H2", [[0, 0, 0], [0, 0, 9.0]]),
        Atoms("O"),
        Atoms("O", [[1, 2, 3]]),
        Atoms("O", pbc=[1, 1, 0]),
    ]
    same = same_crystal(far, 0.01)
    assert [same(0, 1), same(1, 2), same(2, 3)] == [False, True, False]


def test_gamma_beyond_the_limit_is_refused_but_not_for_a_new_element(folder):
    structures = [shaken(number) for number in range(3)]
    for atoms, gamma in zip(structures, (1.0, 30.0, np.inf), strict=True):
        atoms.info["gamma"] = gamma
    result = select(pool_of(folder, structures, gamma_max=20.0))
    assert sorted(ids(result)) == ["s000", "s002"]
    assert rejected(result) == {"gamma_too_large": 1}


def test_labelled_and_excluded_structures_are_never_picked(folder):
    write_structures(folder / "quarantine.xyz", [shaken(1)])
    turned = shaken(2)
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    key = canonical_hash(turned)[:16] + "-0123456789abcdef"
    structures = [shaken(number) for number in range(4)] + [shaken(100)]
    result = select(pool_of(folder, structures, exclude=["quarantine.xyz"], exclude_keys=[key]))
    assert sorted(ids(result)) == ["s000", "s003"]
    assert rejected(result) == {"already_labelled": 1, "excluded": 2}


@pytest.mark.parametrize("strategy", ["lcmd", "random"])
def test_labelled_and_excluded_structures_are_known_moved_turned_and_renumbered(folder, strategy):
    """Also to the reserve and to random picks, which no search for copies guards."""
    turned = [shaken(number)[[*range(3, 9), 2, 1, 0]] for number in (1, 2)]
    for atoms in turned:
        atoms.rotate(40, (1, 2, 3))
        atoms.positions += [1.0, 2.0, 3.0]
    crystal = bulk("Si", cubic=True)
    crystal.positions += 0.2 * np.random.default_rng(0).standard_normal(crystal.positions.shape)
    wrapped = crystal.copy()
    wrapped.wrap()
    for name, frames in (("exam.xyz", [turned[0], wrapped]), ("known.xyz", [turned[1]])):
        write_structures(folder / name, frames)
    pool = [shaken(1), shaken(2), crystal, shaken(3)]
    content = {"training": "known.xyz", "exclude": ["exam.xyz"], "strategy": strategy}
    result = select(pool_of(folder, pool, reserve_fraction=0.5, **content))
    assert ids(result) == ["s003"]
    assert rejected(result) == {"already_labelled": 1, "excluded": 2}


def test_near_copies_are_refused_and_their_original_may_stay(folder):
    copy = shaken(0)
    copy.positions += 0.001 * np.random.default_rng(0).standard_normal(copy.positions.shape)
    copy.info["structure_id"] = "copy"
    result = select(pool_of(folder, [shaken(0), copy, shaken(1)], reserve_fraction=0))
    assert len(result.picks) == 2
    assert rejected(result) == {"near_copy": 1}


def test_a_near_copy_of_a_labelled_structure_is_refused(folder):
    copy = shaken(100)
    copy.positions[0, 0] += 0.001
    result = select(pool_of(folder, [copy, shaken(1)], reserve_fraction=0))
    assert rejected(result) == {"copy_of_known": 1}


def test_crystals_are_compared_by_pymatgen(folder):
    def silicon(cells, strain=0.0, name=""):
        atoms = bulk("Si", cubic=cells)
        atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
        atoms.info["structure_id"] = name
        return atoms

    pool = [silicon(True, name="cubic"), silicon(False, name="primitive"), silicon(True, 0.03, "strained")]
    result = select(pool_of(folder, pool, training=None, reserve_fraction=0))
    assert rejected(result) == {"near_copy": 1}
    assert "strained" in ids(result)


def test_snapshots_of_a_thermal_crystal_are_not_copies(folder):
    pool = []
    for number in range(8):
        atoms = bulk("Si", cubic=True)
        atoms.positions += 0.1 * np.random.default_rng(number).standard_normal(atoms.positions.shape)
        pool.append(atoms)
    assert len(select(pool_of(folder, pool, training=None)).picks) == 8


@pytest.mark.parametrize("cells", [1, 2])
def test_snapshots_of_a_cold_crystal_are_not_copies_though_their_symmetric_crystal_is(cells):
    """Displacements below 0.25 Å vanish where pymatgen reduces a cell by its own tolerance."""
    frames = []
    for number in range(6):
        atoms = bulk("Cu", cubic=True).repeat(cells)
        atoms.positions += 0.05 * np.random.default_rng(number).standard_normal(atoms.positions.shape)
        frames.append(atoms)
    near, shuffled = frames[0].copy(), frames[0][[0, 2, 3, 1, *range(4, 4 * cells**3)]]
    near.positions += [0.4, 0.0, 0.1] + 0.002 * np.random.default_rng(9).standard_normal(near.positions.shape)
    near.wrap()
    same = same_crystal([*frames, near, shuffled, bulk("Cu")], 0.01)
    pairs = [(one, two) for two in range(6) for one in range(two)]
    assert not any(same(one, two) for one, two in pairs)
    assert same(0, 6)
    assert same(0, 7)
    assert not same(0, 8)


def test_a_pool_with_nothing_physical_is_an_empty_result(folder, tmp_path):
    collided = shaken(0)
    collided.positions[:] = 0.0
    summary = run_selection(pool_of(folder, [collided]), tmp_path)
    assert summary["n_selected"] == 0
    assert (tmp_path / "selected.xyz").read_text() == ""


def test_a_small_pool_gives_fewer_than_asked(folder):
    result = select(pool_of(folder, [shaken(0), shaken(1), shaken(2)]))
    assert sorted(ids(result)) == ["s000", "s001", "s002"]


@pytest.mark.parametrize("strategy", ["fps", "random"])
def test_whoever_is_not_picked_has_a_class_with_each_strategy(folder, strategy):
    result = select(config_of(folder, strategy=strategy))
    assert sum(rejected(result).values()) + len(result.picks) == 60
    assert rejected(result)["not_chosen"] > 0


def test_everything_in_the_pool_is_accounted_for(folder):
    result = select(config_of(folder, shortlist=20))
    assert sum(rejected(result).values()) + len(result.picks) == 60
    assert result.funnel == {
        "pool": 60,
        "physical": 60,
        "distinct": 58,
        "shortlisted": 20,
        "reserve": 2,
        "selected": 10,
    }


def test_the_picks_carry_their_reasons(folder, tmp_path):
    summary = run_selection(config_of(folder), tmp_path)
    written = read_structures(tmp_path / "selected.xyz")
    assert summary == json.loads((tmp_path / "selection.json").read_text())
    for rank, (atoms, entry) in enumerate(zip(written, summary["picks"], strict=True)):
        assert atoms.info["selection_rank"] == entry["rank"] == rank
        assert atoms.info["selection_reason"] == entry["reason"]
        assert atoms.info["selection_origin"] == entry["origin"]
        assert atoms.info["origin"] == ("reserve" if entry["origin"] == "reserve" else "selection")
        assert structure_hash(atoms) == entry["structure_hash"]
    assert "drawn uniformly from 60 physical candidates" in summary["picks"][0]["reason"]
    assert "standing for a cluster of" in summary["picks"][-1]["reason"]


def test_selecting_twice_gives_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        run_selection(config_of(folder), tmp_path / name)
    for file in ("selected.xyz", "selection.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_diversity_covers_what_random_misses(folder):
    # 57 frames near one geometry and 3 far ones: eight diverse picks must include the far ones
    pool = [shaken(number, 0.02) for number in range(57)] + [shaken(number, 0.2) for number in (57, 58, 59)]
    chosen = ids(select(pool_of(folder, pool, training=None, reserve_fraction=0, count=8)))
    assert {"s057", "s058", "s059"} <= set(chosen)
