"""The canonical form: one label for what physics does not tell apart, mapped back to whoever asks."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones

from gace_platform.ledger.canonical import canonical, canonical_hash
from gace_platform.ledger.keys import label_key


def ethanol(seed=0):
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=(9, 3))
    return atoms


def carbide(seed=0):
    atoms = bulk("SiC", "zincblende", a=4.36, cubic=True)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.1, size=(8, 3))
    strain = np.array([[1.03, 0.02, 0], [0, 0.98, 0.01], [0.01, 0, 1.01]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms


def moved(atoms):
    atoms.positions += [0.31, -1.7, 0.123]
    return atoms


def turned(atoms):
    atoms.rotate(73, (1, -2, 0.5), rotate_cell=bool(atoms.pbc.any()))
    return atoms


def shuffled(atoms):
    return atoms[np.random.default_rng(1).permutation(len(atoms))]


def in_other_cells(atoms):
    shifts = np.random.default_rng(2).integers(-2, 3, size=(len(atoms), 3))
    atoms.positions += shifts @ atoms.cell.array
    return atoms


def in_another_box(atoms):
    atoms.set_cell([30, 31, 32])
    return atoms


SAME = [
    *((ethanol, change) for change in (moved, turned, shuffled, in_another_box)),
    *((carbide, change) for change in (moved, turned, shuffled, in_other_cells)),
    (ethanol, lambda atoms: shuffled(turned(moved(atoms)))),
    (carbide, lambda atoms: in_other_cells(shuffled(turned(moved(atoms))))),
]


@pytest.mark.parametrize(("make", "change"), SAME)
@pytest.mark.parametrize("seed", range(5))
def test_what_physics_does_not_tell_apart_has_one_key(make, change, seed):
    assert label_key(change(make(seed)), {}) == label_key(make(seed), {})


def mirrored(atoms):
    atoms.positions[:, 0] *= -1
    return atoms


def nudged(atoms):
    atoms.positions[3, 1] += 1e-4
    return atoms


def other_vectors(atoms):
    atoms.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) @ atoms.cell.array)
    return atoms


def exchanged(atoms):
    atoms.numbers[[0, 1]] = atoms.numbers[[1, 0]]
    return atoms


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (ethanol, nudged),
        (ethanol, mirrored),
        (carbide, nudged),
        (carbide, other_vectors),
        (carbide, exchanged),
    ],
)
def test_what_is_another_calculation_has_another_key(make, change):
    assert canonical_hash(change(make())) != canonical_hash(make())


@pytest.mark.parametrize(("make", "change"), SAME)
def test_forces_and_stress_come_back_in_the_frame_asked_for(make, change):
    asked = change(make())
    form, placing = canonical(asked)
    found = {}
    for name, atoms in (("asked", asked.copy()), ("form", form)):
        atoms.calc = LennardJones(sigma=1.6, rc=4.0, smooth=True)
        periodic = bool(atoms.pbc.all())
        stress = atoms.get_stress(voigt=False) if periodic else None
        found[name] = atoms.get_potential_energy(), atoms.get_forces(), stress
    energy, forces, stress = found["asked"]
    # canonical positions are rounded to 1e-9 Å, and these forces change by up to 10³ eV/Å²
    np.testing.assert_allclose(found["form"][0], energy, atol=1e-5)
    np.testing.assert_allclose(placing.forces_as_asked(found["form"][1]), forces, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(placing.forces_of_canonical(forces), found["form"][1], rtol=1e-6, atol=1e-5)
    if stress is not None:
        np.testing.assert_allclose(placing.stress_as_asked(found["form"][2]), stress, atol=1e-6)
        np.testing.assert_allclose(placing.stress_of_canonical(stress), found["form"][2], atol=1e-6)


@pytest.mark.parametrize("name", ["CH4", "CO2", "C6H6", "H2"])
def test_symmetric_molecules_are_moved_and_sorted_alone(name):
    atoms = molecule(name)
    assert canonical_hash(shuffled(moved(atoms.copy()))) == canonical_hash(atoms)


def test_the_canonical_form_is_its_own():
    for atoms in (ethanol(), carbide(), bulk("Cu", "fcc", a=3.6, cubic=True), Atoms("C")):
        form, _ = canonical(atoms)
        assert canonical_hash(form) == canonical_hash(atoms)


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("H2", [[0, 0, 0], [np.nan, 0, 0]]),
        Atoms("H", cell=[0, 0, 0], pbc=True),
        Atoms("C2", [[0, 0, 1], [1.4, 0, 1]], cell=[2.4, 4.2, 20], pbc=[True, True, False]),
    ],
)
def test_slabs_and_what_makes_no_sense_are_left_alone(atoms):
    form, placing = canonical(atoms)
    np.testing.assert_array_equal(form.positions, atoms.positions)
    np.testing.assert_array_equal(placing.rotation, np.eye(3))


def test_charge_and_spin_stay():
    atoms = ethanol()
    atoms.info.update(charge=1, spin=1, structure_id="x")
    assert canonical(atoms)[0].info == {"charge": 1, "spin": 1}
