import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gace.errors import InputError
from gace.potential.graph_ace import GraphACE
from gace.selection import distance_histogram, gradient_sketch
from gace.structures.neighbours import build_graph

ELEMENTS = ["C", "H", "O"]


def shaken(number, size=0.05):
    atoms = molecule("CH3CH2OH")
    atoms.positions += size * np.random.default_rng(number).standard_normal(atoms.positions.shape)
    return atoms


def moved(atoms):
    """The same molecule turned, mirrored, shifted and with its atoms renumbered."""
    rng = np.random.default_rng(0)
    other = atoms[rng.permutation(len(atoms))]
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    other.positions = -other.positions @ rotation + 3.0
    return other


def test_the_descriptor_is_invariant():
    one, two = distance_histogram([shaken(1), moved(shaken(1))], ELEMENTS)
    np.testing.assert_allclose(one, two, atol=1e-12)  # sums of ~10 terms of order 1


def test_the_descriptor_of_a_crystal_does_not_depend_on_the_cell():
    cells = [bulk("Si"), bulk("Si", cubic=True), bulk("Si") * (2, 1, 3)]
    one, two, three = distance_histogram(cells, ["Si"])
    np.testing.assert_allclose(one, two, atol=1e-10)  # sums of ~50 terms
    np.testing.assert_allclose(one, three, atol=1e-10)


def test_snapshots_of_a_large_thermal_cell_are_told_apart():
    def snapshot(number):
        atoms = bulk("Si", cubic=True) * (2, 2, 2)
        atoms.positions += 0.1 * np.random.default_rng(number).standard_normal(atoms.positions.shape)
        return atoms

    near = snapshot(0)
    near.positions += 0.003 * np.random.default_rng(9).standard_normal(near.positions.shape)
    first, second, copy = distance_histogram([snapshot(0), snapshot(1), near], ["Si"])
    assert np.linalg.norm(first - copy) < 0.01 * np.linalg.norm(first)
    assert np.linalg.norm(first - second) > 0.015 * np.linalg.norm(first)


def test_the_descriptor_varies_smoothly_through_the_cutoff():
    def pair(distance):
        return Atoms("O2", positions=[[0, 0, 0], [distance, 0, 0]])

    inside, outside = distance_histogram([pair(6.0 - 1e-5), pair(6.0 + 1e-5)], ["O"])
    np.testing.assert_allclose(inside, outside, atol=1e-9)  # f(r) vanishes as (r_c - r)²


def test_an_unlisted_element_is_an_error():
    with pytest.raises(InputError, match="O"):
        distance_histogram([shaken(0)], ["C", "H"])


@pytest.fixture(scope="module")
def model():
    return GraphACE(
        elements=ELEMENTS,
        cutoff=4.0,
        l_max=[2],
        order=2,
        channels=4,
        radial_hidden=[8],
        densities=4,
        readout_hidden=4,
    )


def graphs(structures):
    return [build_graph([atoms], ELEMENTS, 4.0, torch.float64) for atoms in structures]


def test_the_sketch_is_the_folded_gradient(model):
    graph = graphs([shaken(0)])[0]
    parameters = list(model.parameters())
    energy = model(graph).energy.sum() / 9**0.5
    full = torch.cat([g.reshape(-1) for g in torch.autograd.grad(energy, parameters)])
    sketch = gradient_sketch(model, [graph], seed=0, dimensions=len(full) * 400)[0]
    # with so many buckets hardly two parameters share one, so only signs differ
    np.testing.assert_allclose(np.linalg.norm(sketch), float(full.norm()), rtol=0.02)


def test_the_sketch_keeps_inner_products_on_average(model):
    pair = graphs([shaken(0, 0.1), shaken(1, 0.1)])
    exact = gradient_sketch(model, pair, seed=0, dimensions=400_000)
    sketches = np.array([gradient_sketch(model, pair, seed, dimensions=256) for seed in range(60)])
    products = (sketches[:, 0] * sketches[:, 1]).sum(1)
    error = products.std() / np.sqrt(len(products))
    assert products.mean() == pytest.approx(exact[0] @ exact[1], abs=4 * error)


def test_the_sketch_is_invariant_and_repeats(model):
    one, two = gradient_sketch(model, graphs([shaken(1), moved(shaken(1))]), seed=5)
    np.testing.assert_allclose(one, two, atol=1e-8 * np.abs(one).max())  # rounding of the gradients
    again = gradient_sketch(model, graphs([shaken(1)]), seed=5)[0]
    np.testing.assert_array_equal(one, again)


def test_the_sketch_leaves_no_gradients_behind(model):
    gradient_sketch(model, graphs([shaken(1)]), seed=5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_empty_set_gives_an_empty_sketch(model):
    assert gradient_sketch(model, [], seed=0, dimensions=32).shape == (0, 32)
