"""Output files are in the format that their name says."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from gace.cli import main
from gace.errors import InputError
from gace.structures.formats import format_of, write_as_named
from gace.structures.io import write_structures


@pytest.fixture
def water(tmp_path):
    """A structure of the bundle's elements, in a box: its file."""
    atoms = molecule("H2O", vacuum=4.0, pbc=True)
    write_structures(tmp_path / "start.xyz", [atoms])
    return tmp_path / "start.xyz"


def failing(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["md.traj", "md@300K.traj", "md.cif", "md.pdb", "XDATCAR", "md.xyz", "md.xyz.gz", "md"]
)
def test_a_trajectory_is_what_its_name_says(bundle, water, tmp_path, name):
    main(["md", str(bundle), str(water), "--steps", "4", "--log-every", "2", "--out", str(tmp_path / name)])
    frames = ase.io.read(
        tmp_path / name, ":", format="extxyz" if name == "md" else None, do_not_split_by_at_sign=True
    )
    assert len(frames) == 3
    assert {tuple(sorted(frame.symbols)) for frame in frames} == {("H", "H", "O")}
    assert not (tmp_path / f"{name}.part").exists()


def test_a_trajectory_of_ase_has_velocities_and_energies(bundle, water, tmp_path):
    for name in ("md.traj", "md.xyz"):
        main(
            ["md", str(bundle), str(water), "--steps", "4", "--log-every", "2", "--out", str(tmp_path / name)]
        )
    for one, other in zip(*(ase.io.read(tmp_path / n, ":") for n in ("md.traj", "md.xyz")), strict=True):
        assert np.abs(one.positions - other.positions).max() < 1e-8
        assert one.info["potential_energy"] == pytest.approx(other.info["potential_energy"])
        assert np.allclose(one.get_velocities(), other.get_velocities(), rtol=1e-6)


@pytest.mark.parametrize("name", ["relaxed.vasp", "POSCAR", "relaxed.cif", "relaxed.traj", "relaxed.xyz"])
def test_a_relaxed_structure_is_what_its_name_says(bundle, water, tmp_path, name, capsys):
    with pytest.raises(SystemExit):  # not converged in two steps
        main(["relax", str(bundle), str(water), "--steps", "2", "--out", str(tmp_path / name), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["structure"] == str(tmp_path / name)
    relaxed = ase.io.read(tmp_path / name)
    assert relaxed.get_all_distances(mic=True).max() < 2.5
    assert np.allclose(relaxed.cell.lengths(), ase.io.read(water).cell.lengths(), atol=1e-4)


def test_what_a_format_cannot_hold_is_refused_before_anything_is_computed(bundle, tmp_path, capsys):
    write_structures(tmp_path / "gas.xyz", [molecule("H2O")])
    out = tmp_path / "relaxed.vasp"
    error = failing(["relax", bundle, tmp_path / "gas.xyz", "--out", out], capsys)
    assert f"cannot write {out} as vasp: " in error
    assert "Lattice" in error
    assert not out.exists()


def test_a_trajectory_in_a_format_of_one_structure_is_refused(bundle, water, tmp_path, capsys):
    out = tmp_path / "md.vasp"
    error = failing(["md", bundle, water, "--out", out], capsys)
    assert f"cannot write {out}: that format holds one structure" in error
    assert [file.name for file in tmp_path.glob("md*")] == []


def test_only_extended_xyz_is_compressed(tmp_path):
    with pytest.raises(InputError, match=r"only extended XYZ is compressed, name it \.xyz\.gz or a\.cif"):
        format_of(tmp_path / "a.cif.gz")


def test_an_earlier_file_survives_what_cannot_be_written(tmp_path):
    (tmp_path / "a.vasp").write_text("before")
    with pytest.raises(InputError, match="cannot write"):
        write_as_named(tmp_path / "a.vasp", [molecule("H2O")])
    assert (tmp_path / "a.vasp").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.vasp"]
