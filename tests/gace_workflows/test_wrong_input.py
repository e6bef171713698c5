"""Bad input gets one clear line and exit code 2 before anything is computed."""

import socket

import pytest

from gace.cli import main


@pytest.fixture
def refuse(tmp_path, write_campaign, capsys, monkeypatch):
    """Plan and run a campaign that must be refused; gives the one line printed."""
    monkeypatch.chdir(tmp_path)

    def check(folder="there", **sections):
        lines = []
        file = write_campaign(tmp_path / "input", **sections)
        if callable(folder):
            folder = folder()
        for command in ("plan", "run", "submit"):
            with pytest.raises(SystemExit) as stop:
                main(["campaign", command, str(file), "--dir", str(folder)])
            assert stop.value.code == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            lines.append(captured.err.strip())
        assert len(set(lines)) == 1
        assert "\n" not in lines[0]
        assert not (tmp_path / "there").exists()
        return lines[0]

    return check


def test_unknown_key(refuse):
    assert "unknown key 'commitee'; did you mean 'committee'?" in refuse(commitee={"members": 3})


def test_missing_geometry(refuse):
    assert "no such file" in refuse(system={"structure": "absent.xyz"})


def test_unreadable_geometry(refuse, tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "broken.xyz").write_text("2\nhello\nCu 0 0\n")
    assert "broken.xyz" in refuse(system={"structure": "broken.xyz"})


def test_negative_budget(refuse):
    assert "budget.labels" in refuse(budget={"labels": -1})


def test_unwritable_folder(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refuse(folder=tmp_path / "file" / "below")


def test_folder_on_a_read_only_file_system(refuse):
    assert "cannot be written" in refuse(folder="/proc/campaign")


def test_port_in_use(refuse):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in refuse(cluster={"workers": 1, "dashboard": port})


def test_calculator_without_the_element(refuse, tmp_path):
    from ase.build import bulk

    from gace.structures.io import write_structures

    write_structures(tmp_path / "input" / "iron.xyz", [bulk("Fe")])
    assert "Fe" in refuse(system={"structure": "iron.xyz"})


def test_unknown_calculator(refuse):
    assert "no calculator called 'emtt'; did you mean 'emt'?" in refuse(
        reference={"engine": "teacher", "calculator": "emtt"}
    )


def test_unknown_preset(refuse):
    assert "no preset called '2L-smal'; did you mean '2L-small'?" in refuse(potential={"preset": "2L-smal"})


def test_unknown_override_of_the_architecture(refuse):
    assert "chanels" in refuse(potential={"preset": "1L-small", "overrides": {"chanels": 3}})


@pytest.mark.dft
def test_element_without_basis(refuse, tmp_path):
    from ase import Atoms

    from gace.structures.io import write_structures

    write_structures(
        tmp_path / "input" / "uranium.xyz", [Atoms("UO2", [[0, 0, 0], [0, 0, 1.8], [0, 0, -1.8]])]
    )
    line = refuse(
        system={"structure": "uranium.xyz"},
        reference={"engine": "pyscf", "functional": "PBE", "basis": "6-31g"},
    )
    assert "U" in line
    assert "basis" in line


@pytest.mark.dft
def test_crystal_for_a_molecular_code(refuse):
    assert "periodic" in refuse(reference={"engine": "pyscf"})


@pytest.mark.dft
def test_impossible_spin(refuse, tmp_path):
    from ase.build import molecule

    from gace.structures.io import write_structures

    write_structures(tmp_path / "input" / "water.xyz", [molecule("H2O")])
    assert "spin" in refuse(
        system={"structure": "water.xyz", "spin": 1}, reference={"engine": "pyscf", "basis": "sto-3g"}
    )


def test_resuming_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["campaign", "resume", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no campaign" in capsys.readouterr().err


def test_plan_prints_steps_and_leaves_nothing(tmp_path, write_campaign, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_campaign(tmp_path / "input")
    main(["campaign", "plan", str(file)])
    shown = capsys.readouterr().out
    assert "generation 1: train committee, register, examine, explore, select and label 4" in shown
    assert "labels: 12 of at most 12" in shown
    assert [entry.name for entry in tmp_path.iterdir()] == ["input"]
