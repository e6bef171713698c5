"""Hashes of structures and data sets."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from gace.structures.identity import dataset_hash, labelled_hash, structure_hash
from gace.structures.io import read_structures, set_labels, write_structures


def test_rounding_noise_does_not_change_a_structure():
    atoms = molecule("H2O")
    other = atoms.copy()
    other.positions += 1e-9
    assert structure_hash(other) == structure_hash(atoms)


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__setitem__((0, 0), atoms.positions[0, 0] + 1e-4),
        lambda atoms: atoms.numbers.__setitem__(0, 14),
        lambda atoms: atoms.info.__setitem__("charge", 1),
        lambda atoms: atoms.info.__setitem__("spin", 2),
        lambda atoms: atoms.set_pbc((True, True, False)),
        lambda atoms: atoms.cell.__setitem__((0, 1), 2.8),
    ],
    ids=["position", "element", "charge", "spin", "pbc", "cell"],
)
def test_what_matters_changes_the_hash(change):
    atoms = bulk("Ge")
    other = atoms.copy()
    change(other)
    assert structure_hash(other) != structure_hash(atoms)


def test_labels_do_not_change_a_structure():
    atoms = molecule("H2O")
    assert structure_hash(set_labels(atoms, -1.0)) == structure_hash(atoms)


def test_a_box_around_a_molecule_does_not_matter():
    atoms = molecule("H2O")
    assert structure_hash(molecule("H2O", vacuum=None, cell=[9, 9, 9])) == structure_hash(atoms)


def test_data_sets_are_equal_in_any_order():
    one, two = set_labels(molecule("H2O"), -1.0), set_labels(molecule("CO2"), -2.0)
    assert dataset_hash([one, two]) == dataset_hash([two, one])


def test_a_changed_label_changes_the_data_set():
    assert dataset_hash([set_labels(molecule("H2O"), -1.0)]) != dataset_hash(
        [set_labels(molecule("H2O"), -1.001)]
    )


def test_a_doubled_structure_changes_the_data_set():
    one = set_labels(molecule("H2O"), -1.0)
    assert dataset_hash([one]) != dataset_hash([one, one])


def test_a_file_keeps_the_hash(tmp_path):
    rng = np.random.default_rng(4)
    atoms = molecule("CH3CH2OH")
    atoms.positions += rng.normal(size=(9, 3)).round(6)
    labelled = set_labels(atoms, -4204.123456789, rng.normal(size=(9, 3)).round(7))
    write_structures(tmp_path / "set.xyz", [labelled])
    assert dataset_hash(read_structures(tmp_path / "set.xyz")) == dataset_hash([labelled])


@pytest.mark.filterwarnings("error")
def test_a_missing_component_has_a_hash_without_a_warning():
    atoms = molecule("H2O")
    forces = np.ones((3, 3))
    whole = labelled_hash(set_labels(atoms, 1.0, forces))
    forces[1, 2] = np.nan
    assert labelled_hash(set_labels(atoms, 1.0, forces)) != whole
