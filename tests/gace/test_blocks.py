"""Evaluation in blocks of atoms gives what evaluation at once gives."""

import pytest
import torch
from ase.build import bulk, molecule

from gace.potential import compiled
from gace.potential.blocks import block_size, energy_and_gradients_by_blocks
from gace.potential.derivatives import energy_and_gradients
from gace.structures.neighbours import build_graph


@pytest.fixture(scope="module")
def graph():
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.05, seed=1)
    return build_graph([molecule("CH3CH2OH"), crystal], ["H", "C", "O"], 3.5)


@pytest.mark.parametrize("size", [1, 4, 9, 17, 20])
@pytest.mark.parametrize("l_max", [[2], [2, 1], [2, 1, 1]], ids=["T1", "T2", "T3"])
def test_blocks_change_nothing(make_model, graph, l_max, size):
    model = make_model(l_max=l_max, order=3)
    model.calibrate(graph)
    expected = energy_and_gradients(model, graph)
    found = energy_and_gradients_by_blocks(model, graph, size)
    for name, a, b in zip(expected._fields, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


def test_block_size_is_one_block_for_the_small_and_bounded_for_the_large():
    assert block_size(9, 8, 2048) == 12
    assert block_size(100_000, 100, 2048) == 20
    assert block_size(100_000, 5000, 2048) == 4


def test_large_structures_are_cut_into_blocks(make_model, graph, monkeypatch):
    model = make_model()
    expected = energy_and_gradients(model, graph)
    sizes = []

    def by_blocks(model, graph, size, **more):
        sizes.append(size)
        return energy_and_gradients_by_blocks(model, graph, size, **more)

    monkeypatch.setattr(compiled, "energy_and_gradients_by_blocks", by_blocks)
    monkeypatch.setattr(compiled, "EAGER_BONDS", 100)
    found = compiled.evaluate_eagerly(model, graph)
    assert sizes == [4]
    torch.testing.assert_close(found.forces, expected.forces)
