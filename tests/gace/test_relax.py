"""Relaxation of atoms and cells."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from gace.cli import main
from gace.engines import relaxation
from gace.errors import InputError
from gace.structures.io import write_structures


@pytest.fixture
def displaced():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize("optimiser", ["fire", "bfgs", "lbfgs"])
def test_forces_fall_below_the_bound(displaced, optimiser):
    outcome = relaxation(displaced, EMT(), fmax=0.01, optimiser=optimiser)
    assert outcome.converged
    assert outcome.fmax < 0.01
    assert outcome.energy < displaced_energy(displaced)


def displaced_energy(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def test_cell_relaxes_to_the_equilibrium_length():
    stretched = bulk("Cu", a=3.8)
    outcome = relaxation(stretched, EMT(), fmax=0.001, cell=True)
    assert outcome.converged
    # EMT's equilibrium lattice constant of copper is 3.590 Å
    assert (4 * outcome.atoms.get_volume()) ** (1 / 3) == pytest.approx(3.59, abs=0.01)
    assert outcome.stress_max < 1e-3


def test_the_start_is_left_alone(displaced):
    before = displaced.positions.copy()
    relaxation(displaced, EMT())
    assert np.array_equal(displaced.positions, before)


def test_too_few_steps_is_a_value(displaced):
    outcome = relaxation(displaced, EMT(), fmax=1e-6, steps=2)
    assert not outcome.converged
    assert outcome.steps == 2


def test_relaxed_structure_needs_no_step():
    outcome = relaxation(bulk("Cu"), EMT(), fmax=0.01)
    assert (outcome.converged, outcome.steps) == (True, 0)


def test_cell_of_a_molecule_is_refused():
    with pytest.raises(InputError, match="periodic in three directions"):
        relaxation(molecule("H2O"), EMT(), cell=True)


@pytest.mark.parametrize(("option", "value"), [("fmax", 0), ("steps", -1), ("optimiser", "sd")])
def test_impossible_options_are_named(displaced, option, value):
    with pytest.raises(InputError, match=option):
        relaxation(displaced, EMT(), **{option: value})


def test_two_atoms_in_one_place_are_said_in_json_too(bundle, tmp_path, capsys):
    write_structures(tmp_path / "hh.xyz", [Atoms("H2")])
    with pytest.raises(SystemExit) as stop:
        main(["relax", str(bundle), str(tmp_path / "hh.xyz"), "--json"])
    captured = capsys.readouterr()
    assert stop.value.code == 1
    assert json.loads(captured.out.splitlines()[-1])["energy"] is None
    assert "two atoms lie in one place" in captured.err
