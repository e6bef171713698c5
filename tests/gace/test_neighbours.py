"""The neighbour search and the dense graph, held to a brute-force sum over periodic images."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from gace.errors import InputError
from gace.structures.neighbours import build_graph, collate, complete_cell, find_edges, neighbourhood

CUTOFF = 3.1


def images(atoms, reach):
    """All image indices that can hold an atom within ``reach`` of the spread of the positions."""
    cell = complete_cell(atoms)
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    spread = np.ptp(atoms.positions, axis=0).sum()
    counts = [
        int(np.ceil((reach + spread) / height)) if periodic else 0
        for height, periodic in zip(heights, atoms.pbc, strict=True)
    ]
    return np.array(list(itertools.product(*(range(-count, count + 1) for count in counts))))


def brute_force(atoms, cutoff):
    """(centre, neighbour, image) of every pair within the cutoff, the obvious way."""
    shifts = images(atoms, cutoff)
    found = []
    for i, j in itertools.product(range(len(atoms)), repeat=2):
        vectors = atoms.positions[j] - atoms.positions[i] + shifts @ complete_cell(atoms)
        for shift in shifts[np.linalg.norm(vectors, axis=1) < cutoff]:
            if i != j or shift.any():
                found.append((i, j, *shift.tolist()))
    return sorted(found)


def as_list(edges):
    return [
        (i, j, *image)
        for i, j, image in zip(
            edges.centre.tolist(), edges.neighbour.tolist(), edges.image.tolist(), strict=True
        )
    ]


def skewed(seed, pbc):
    """A few atoms, some outside the cell, in a random small cell."""
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + 2.2 * np.eye(3)
    count = int(rng.integers(1, 5))
    return Atoms(f"H{count}", positions=rng.normal(size=(count, 3)) * 3, cell=cell, pbc=pbc)


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_small_skewed_cells_in_all_periodicities(seed, pbc):
    atoms = skewed(seed, pbc)
    assert as_list(find_edges(atoms, CUTOFF)) == brute_force(atoms, CUTOFF)


def test_one_atom_cell_sees_its_own_images():
    atoms = Atoms("H", cell=[2.0, 2.0, 2.0], pbc=True)
    edges = find_edges(atoms, 2.1)
    assert sorted(map(tuple, np.abs(edges.image))) == sorted([(1, 0, 0), (0, 1, 0), (0, 0, 1)] * 2)


def test_slab():
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6)
    assert as_list(find_edges(atoms, 4.0)) == brute_force(atoms, 4.0)


def test_slab_without_a_third_cell_vector():
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6)
    expected = as_list(find_edges(atoms, 4.0))
    atoms.cell[2] = 0
    assert as_list(find_edges(atoms, 4.0)) == expected


def test_molecule_ignores_a_box_around_it(ethanol):
    boxed = ethanol.copy()
    boxed.cell = [1.0, 1.0, 1.0]
    assert as_list(find_edges(boxed, CUTOFF)) == as_list(find_edges(ethanol, CUTOFF))


def test_vectors_point_from_centre_to_neighbour():
    atoms = Atoms("HH", positions=[[0, 0, 0], [0, 0, 1.5]])
    edges = find_edges(atoms, CUTOFF)
    assert edges.vector[edges.centre == 0].tolist() == [[0.0, 0.0, 1.5]]


def test_dense_padding_points_home_and_lies_at_twice_the_cutoff():
    one = neighbourhood(Atoms("HHH", positions=[[0, 0, 0], [0, 0, 1], [0, 0, 2.5]]), ["H"], 2.0)
    assert one.neighbour.tolist() == [[1, 0], [0, 2], [1, 2]]
    assert one.edge_vector[0, 1].tolist() == [4.0, 0.0, 0.0]


def test_lone_atom_has_one_padding_slot():
    graph = build_graph([Atoms("H")], ["H"], CUTOFF)
    assert graph.neighbour.tolist() == [[0]]
    assert graph.edge_vector.norm() == 2 * CUTOFF


def test_collation_equals_concatenation(ethanol):
    silicon = bulk("Si")
    graph = build_graph([ethanol, silicon], ["Si", "H", "C", "O"], 4.0)
    alone = build_graph([silicon], ["Si", "H", "C", "O"], 4.0)
    own = slice(len(ethanol), None)
    slots = alone.neighbour.shape[1]
    assert torch.equal(graph.edge_vector[own, :slots], alone.edge_vector)
    assert torch.equal(graph.neighbour[own, :slots] - len(ethanol), alone.neighbour)
    assert graph.structure.tolist() == [0] * 9 + [1] * 2


def test_volume_only_where_periodic_in_three_directions():
    slab = fcc111("Cu", (1, 1, 2), vacuum=6)
    graph = build_graph([slab, bulk("Cu")], ["Cu"], 3.0)
    assert torch.isnan(graph.volume[0])
    assert graph.volume[1].item() == pytest.approx(bulk("Cu").get_volume())


def test_species_follow_the_order_of_the_elements():
    graph = build_graph([molecule("H2O")], ["O", "H"], CUTOFF)
    assert graph.species.tolist() == [0, 1, 1]


def test_unknown_element_is_named():
    with pytest.raises(InputError, match="no parameters for element C: this potential knows H, O"):
        neighbourhood(molecule("CH4"), ["H", "O"], CUTOFF)


def test_periodic_without_cell_is_refused():
    with pytest.raises(InputError, match="without a cell vector"):
        find_edges(Atoms("H", pbc=True), CUTOFF)


def test_flat_cell_is_refused():
    flat = Atoms("H", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True)
    with pytest.raises(InputError, match="no volume"):
        find_edges(flat, CUTOFF)


def test_position_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="NaN"):
        find_edges(Atoms("H", positions=[[0, 0, np.nan]]), CUTOFF)


def test_empty_structure_is_refused():
    with pytest.raises(InputError, match="no atoms"):
        neighbourhood(Atoms(), ["H"], CUTOFF)


def test_single_precision_graph(ethanol):
    graph = collate([neighbourhood(ethanol, ["H", "C", "O"], CUTOFF)], CUTOFF, torch.float32)
    assert graph.edge_vector.dtype == torch.float32
    assert graph.species.dtype == torch.int64


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 1e3, -1e3, 1e6, 1e12])] * 3), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_atoms_far_apart(places, seed):
    """Clusters in a plane, a line or space far larger than the cutoff: vesin alone would end the process."""
    rng = np.random.default_rng(seed)
    positions = np.concatenate([np.array(place) + rng.uniform(-2, 2, (3, 3)) for place in places])
    atoms = Atoms(f"H{len(positions)}", positions=positions)
    assert as_list(find_edges(atoms, CUTOFF)) == brute_force(atoms, CUTOFF)


@pytest.mark.parametrize("flat", [0, 1, 2])
@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_large_flat_cells(pbc, flat):
    """As wide as a sheet of millions of atoms, periodic or not."""
    lengths = np.full(3, 1200.0)
    lengths[flat] = 4.0
    near = np.random.default_rng(0).uniform(0, 1, (3, 3)) * 4.0
    atoms = Atoms("H7", positions=[*near, *(near + lengths), lengths / 2], cell=lengths, pbc=pbc)
    # no pair spans more than one cell; counted over images, all positions would be millions
    shifts = np.array(list(itertools.product(*([-2, -1, 0, 1, 2] if one else [0] for one in pbc))))
    vectors = atoms.positions - atoms.positions[:, None]
    distances = np.linalg.norm(vectors[:, :, None] + shifts * lengths, axis=3)
    expected = [
        (i, j, *shifts[s].tolist())
        for i, j, s in np.argwhere(distances < CUTOFF).tolist()
        if i != j or shifts[s].any()
    ]
    assert as_list(find_edges(atoms, CUTOFF)) == sorted(expected)


@pytest.mark.parametrize("cells", [1e6, 3e9, -1e10])
def test_an_atom_many_cells_away_has_the_neighbours_it_would_have_at_home(cells):
    """As positions that were never wrapped: vesin counts cells in 32 bits, and they came out wrong."""
    home = bulk("Si", cubic=True)
    home.set_cell(np.full(3, 4.0), scale_atoms=True)
    away = home.copy()
    away.positions[0] += cells * away.cell.array[0]
    expected, found = find_edges(home, CUTOFF), find_edges(away, CUTOFF)
    assert np.array_equal(np.bincount(found.centre), np.bincount(expected.centre))
    lengths = [np.sort(np.linalg.norm(edges.vector, axis=1)) for edges in (found, expected)]
    np.testing.assert_allclose(*lengths, atol=1e-4)


def test_positions_near_the_largest_float():
    atoms = Atoms("HH", positions=[[-1.5e308, 0, 0], [1.5e308, 0, 0]])
    assert as_list(find_edges(atoms, CUTOFF)) == []


def test_a_structure_without_atoms_has_no_edges():
    assert as_list(find_edges(Atoms(), CUTOFF)) == []
