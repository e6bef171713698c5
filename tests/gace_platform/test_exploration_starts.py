import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from gace.structures.identity import structure_hash
from gace_platform.exploration.geometry import count_fragments, shortest_distance
from gace_platform.exploration.starts import assign, prepare


def rattled(count):
    structures = []
    for number in range(count):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.1, seed=number)
        structures.append(atoms)
    return structures


def hashes(structures):
    return [structure_hash(atoms) for atoms in structures]


def test_the_order_of_the_file_does_not_matter():
    starts = rattled(6)
    assert hashes(assign(starts, 4, seed=1)) == hashes(assign(starts[::-1], 4, seed=1))


def test_another_seed_takes_other_starts():
    starts = rattled(6)
    assert hashes(assign(starts, 6, seed=1)) != hashes(assign(starts, 6, seed=2))


def test_every_start_is_used_before_one_is_used_twice():
    starts = rattled(3)
    assigned = hashes(assign(starts, 7, seed=0))
    assert assigned[:3] == assigned[3:6]
    assert len(set(assigned[:3])) == 3


def test_labels_do_not_reach_the_walker(copper_frames):
    prepared = prepare(copper_frames[0], 0, 0)
    assert "REF_energy" not in prepared.info
    assert "REF_forces" not in prepared.arrays


def test_charge_and_spin_reach_the_walker():
    atoms = molecule("CH4")
    atoms.info.update(charge=1, spin=1)
    assert prepare(atoms, 0, 0).info == {"charge": 1, "spin": 1}


def test_walkers_from_one_start_are_rattled_apart_and_reproducibly():
    start = molecule("CH4")
    first, again, second = (prepare(start, number, 0, rattle=0.05) for number in (0, 0, 1))
    assert np.array_equal(first.positions, again.positions)
    assert not np.allclose(first.positions, second.positions)


def test_strain_is_symmetric_and_bounded():
    start = bulk("Si", cubic=True)
    strained = prepare(start, 3, 0, strain=0.03)
    gradient = np.linalg.solve(start.cell.array, strained.cell.array) - np.eye(3)
    assert np.allclose(gradient, gradient.T, atol=1e-12)
    assert 0.001 < np.abs(gradient).max() <= 0.03
    assert np.allclose(strained.get_scaled_positions(wrap=False), start.get_scaled_positions(), atol=1e-7)


def test_a_molecule_is_neither_strained_nor_repeated():
    start = molecule("CH4")
    prepared = prepare(start, 0, 0, supercell=(2, 2, 2), strain=0.1)
    assert np.allclose(prepared.positions, start.positions, atol=1e-8)


def test_a_slab_keeps_its_vacuum():
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
    prepared = prepare(slab, 0, 0, supercell=(2, 2, 2), strain=0.05)
    assert len(prepared) == 4 * len(slab)
    assert np.allclose(prepared.cell.array[2], slab.cell.array[2])


@pytest.mark.parametrize("angle", [90, 30])
def test_a_slab_that_lies_otherwise_is_strained_in_its_own_plane(angle):
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
    slab.rotate(angle, "y", rotate_cell=True)
    prepared = prepare(slab, 0, 0, strain=0.05)
    assert np.allclose(prepared.cell.array[2], slab.cell.array[2])
    assert np.abs(prepared.cell.lengths() / slab.cell.lengths() - 1)[:2].max() > 0.001


@pytest.mark.parametrize(("distance", "share"), [(0.74, 0.74 / 0.62), (0.31, 0.5)])
def test_the_shortest_distance_is_relative_to_the_covalent_radii(distance, share):
    pair = Atoms("H2", positions=[[0, 0, 0], [distance, 0, 0]])
    found = shortest_distance(pair)
    assert found == pytest.approx(share) if distance < 0.62 else found == float("inf")


def test_an_image_of_the_atom_itself_can_be_too_close():
    cell = Atoms("Cu", cell=[1.0, 10, 10], pbc=True)
    assert shortest_distance(cell) == pytest.approx(1.0 / 2.64, rel=1e-3)


def test_fragments_are_counted():
    two = molecule("CH4") + Atoms("He", positions=[[9, 0, 0]])
    assert count_fragments(two) == 2
    assert count_fragments(molecule("CH3CH2OH")) == 1
