"""Neighbour lists in PyTorch operations: those of the processor, edge for edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from gace.engines.device_list import DeviceList
from gace.errors import InputError
from gace.structures.neighbours import complete_cell, find_edges
from gace.structures.search import search

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def structures() -> dict[str, Atoms]:
    """From a molecule to cells far smaller than the cutoff, skewed, with atoms outside of them."""
    skewed = bulk("Cu") * (2, 1, 3)
    skewed.set_cell(
        skewed.cell.array + np.array([[0, 0, 0], [2.0, 0.3, 0], [1.0, -2.0, 0.5]]), scale_atoms=True
    )
    skewed.rattle(0.2, seed=1)
    outside = bulk("Si", cubic=True)
    outside.positions += np.random.default_rng(0).integers(-3, 4, (8, 3)) @ outside.cell.array
    apart = molecule("C2H6") + molecule("C2H6")
    apart.positions[8:] += 1e5
    slab = fcc111("Al", (2, 2, 3), vacuum=5.0)
    wire = molecule("H2O")
    wire.set_cell([0, 0, 2.2])
    wire.pbc = [False, False, True]
    return {
        "molecule": molecule("C6H6"),
        "one atom": Atoms("He"),
        "one-atom cell": bulk("Cu"),
        "skewed": skewed,
        "outside the cell": outside,
        "far apart": apart,
        "slab": slab,
        "wire": wire,
        "random": Atoms(
            "H300", np.random.default_rng(1).uniform(0, 12, (300, 3)), cell=[12] * 3, pbc=[1, 0, 1]
        ),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", structures())
@pytest.mark.parametrize("cutoff", [3.1, 6.0])
def test_edges(device, name, cutoff):
    """The same edges in the same order."""
    atoms = structures()[name]
    expected = find_edges(atoms, cutoff)
    positions, cell = (torch.from_numpy(one).to(device) for one in (atoms.positions, complete_cell(atoms)))
    found = search(positions, cell, tuple(map(bool, atoms.pbc)), cutoff)
    assert np.array_equal(found.centre.cpu(), expected.centre)
    assert np.array_equal(found.neighbour.cpu(), expected.neighbour)
    assert np.array_equal(found.image.cpu(), expected.image)


def test_a_position_that_is_no_number():
    """Refused as by the other search."""
    with pytest.raises(InputError, match="NaN"):
        search(torch.tensor([[0.0, 0.0, torch.nan]]), torch.eye(3), (False,) * 3, 3.0)


@pytest.mark.parametrize("name", ["skewed", "molecule", "slab"])
def test_dynamics_on_the_device(single, name):
    """Energies, forces and stress along a walk are those with the other list; few searches are made."""
    atoms = structures()[name]
    atoms.symbols[:] = "C"
    potential = single
    ours, theirs = potential.calculator(dtype="float64"), potential.calculator(dtype="float64")
    ours.neighbours = DeviceList(
        potential.elements, potential.cutoff, 0.5, device=torch.device("cpu"), dtype=torch.float64
    )
    rng = np.random.default_rng(0)
    for _ in range(12):
        atoms.positions += 0.04 * rng.normal(size=atoms.positions.shape)
        found = []
        for calculator in (ours, theirs):
            atoms.calc = calculator
            stress = [atoms.get_stress()] if atoms.pbc.all() else []
            found.append([atoms.get_potential_energy(), atoms.get_forces(), *stress])
        for one, other in zip(*found, strict=True):
            assert np.allclose(one, other, rtol=1e-10, atol=1e-10)
    assert ours.neighbours.searches == theirs.neighbours.searches < 12


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_impossible_skins_are_refused(skin):
    """As by the other list."""
    with pytest.raises(InputError, match="skin"):
        DeviceList(("H",), 4.0, skin, device=torch.device("cpu"), dtype=torch.float64)
