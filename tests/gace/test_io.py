"""Structures and labels in files."""

import gzip

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from gace.errors import InputError
from gace.files import read_json, sha256_file, write_atomic, write_json_atomic
from gace.structures.io import labels_of, read_structures, set_labels, stress_matrix, write_structures


@pytest.fixture
def labelled():
    rng = np.random.default_rng(1)
    atoms = set_labels(bulk("Si"), -216.5, rng.normal(size=(2, 3)), np.diag([0.1, 0.2, 0.3]))
    atoms.info["config_type"] = "crystal"
    return atoms


@pytest.mark.parametrize("name", ["set.xyz", "set.extxyz", "set.xyz.gz"])
def test_labels_survive_a_file(labelled, tmp_path, name):
    write_structures(tmp_path / name, [labelled, molecule("H2O")])
    found, bare = read_structures(tmp_path / name)
    labels = labels_of(found)
    assert labels.energy == -216.5
    np.testing.assert_allclose(
        labels.forces, labelled.arrays["REF_forces"], atol=1e-8
    )  # 8 decimals in a file
    np.testing.assert_allclose(labels.stress, np.diag([0.1, 0.2, 0.3]))
    assert labels_of(bare) == (None, None, None)


def test_compressed_files_of_equal_content_are_equal(labelled, tmp_path):
    write_structures(tmp_path / "a.xyz.gz", [labelled])
    write_structures(tmp_path / "b.xyz.gz", [labelled])
    assert sha256_file(tmp_path / "a.xyz.gz") == sha256_file(tmp_path / "b.xyz.gz")


def test_results_of_an_attached_calculator_are_labels():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.ones((3, 3)))
    labels = labels_of(atoms)
    assert labels.energy == -2.0
    assert labels.forces.sum() == 9.0


def test_plain_extended_xyz_names_are_understood(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.ones((3, 3)))
    write(tmp_path / "plain.xyz", atoms, format="extxyz")
    assert labels_of(read_structures(tmp_path / "plain.xyz")[0]).energy == -2.0


def test_reference_names_win():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0)
    atoms.info["REF_energy"] = -3.0
    assert labels_of(atoms).energy == -3.0


def test_nan_is_missing():
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = np.nan
    atoms.info["REF_stress"] = np.full((3, 3), np.nan)
    atoms.arrays["REF_forces"] = np.full((3, 3), np.nan)
    assert labels_of(atoms) == (None, None, None)


def test_writing_does_not_store_predictions(single, ethanol, tmp_path):
    atoms = ethanol.copy()
    atoms.calc = single.calculator()
    atoms.get_potential_energy()
    write_structures(tmp_path / "out.xyz", [atoms])
    assert labels_of(read_structures(tmp_path / "out.xyz")[0]).energy is None


def test_voigt_stress_becomes_a_matrix():
    matrix = stress_matrix([1, 2, 3, 4, 5, 6])
    assert matrix.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]


def test_stress_of_odd_size_is_refused():
    with pytest.raises(InputError, match="6 or 9"):
        stress_matrix([1, 2, 3])


def test_misshapen_forces_are_refused():
    atoms = molecule("H2O")
    atoms.info["REF_forces"] = [1.0, 2.0]
    with pytest.raises(InputError, match=r"\(3, 3\)"):
        labels_of(atoms)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_structures(tmp_path / "absent.xyz")


def test_unreadable_geometry_is_one_line(tmp_path):
    (tmp_path / "bad.xyz").write_text("3\n\nH 0 0\n")
    with pytest.raises(InputError, match="cannot read structures") as caught:
        read_structures(tmp_path / "bad.xyz")
    assert "\n" not in str(caught.value)


def test_damaged_gzip_is_refused(tmp_path):
    good = gzip.compress(b"1\n\nH 0 0 0\n" * 50)
    (tmp_path / "bad.xyz.gz").write_bytes(good[:-12])
    with pytest.raises(InputError, match="cannot read structures"):
        read_structures(tmp_path / "bad.xyz.gz")


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(InputError):
        read_structures(tmp_path / "empty.xyz")


def test_frames_by_index(tmp_path):
    write_structures(tmp_path / "set.xyz", [Atoms("H"), Atoms("He"), Atoms("Li")])
    assert [str(atoms.symbols) for atoms in read_structures(tmp_path / "set.xyz", "1:")] == ["He", "Li"]


def test_failed_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below.txt", "text")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


def test_an_at_sign_belongs_to_the_name(labelled, tmp_path):
    write_structures(tmp_path / "run@300K.xyz", [labelled, labelled])
    write_structures(tmp_path / "run", [labelled])  # what ASE would look for
    assert len(read_structures(tmp_path / "run@300K.xyz")) == 2
    assert len(read_structures(tmp_path / "run@300K.xyz", "-1")) == 1
