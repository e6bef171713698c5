"""The commands: JSON on the last line, one clear line for bad input, exit codes 0, 1, 2."""

import json
from importlib.metadata import EntryPoint

import pytest

from gace.cli import commands, main, purpose_of
from gace.structures.io import read_structures, set_labels, write_structures


@pytest.fixture
def run(capsys):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def data(committee, ethanols, tmp_path):
    labelled = [
        set_labels(atoms, prediction.energy - 0.01, prediction.forces)
        for atoms, prediction in zip(ethanols[:4], committee.predict(ethanols[:4]), strict=True)
    ]
    write_structures(tmp_path / "data.xyz.gz", labelled)
    return tmp_path / "data.xyz.gz"


@pytest.fixture
def water(tmp_path):
    from ase.build import molecule

    write_structures(tmp_path / "water.xyz", [molecule("H2O")])
    return tmp_path / "water.xyz"


def last_line(output):
    return json.loads(output.strip().splitlines()[-1])


def test_evaluate_prints_the_contract(run, bundle, data):
    code, out, _ = run("evaluate", bundle, data, "--json")
    summary = last_line(out)
    assert code == 0
    assert list(summary) == [
        "n_structures", "n_atoms", "energy", "energy_shifted", "energy_per_atom", "forces", "stress",
        "by_config_type",
    ]  # fmt: skip
    assert summary["energy"]["mae"] == pytest.approx(10, abs=1e-3)
    assert summary["stress"] is None


def test_evaluate_with_uncertainty(run, bundle, data):
    _, out, _ = run("evaluate", bundle, data, "--uncertainty", "--json")
    assert {"coverage", "zms", "auroc", "spearman"} <= set(last_line(out))


def test_evaluate_for_people_writes_a_table_to_stderr(run, bundle, data):
    code, out, err = run("evaluate", bundle, data, "--uncertainty")
    assert (code, out) == (0, "")
    assert "forces (meV/Å)" in err
    assert "Spearman" in err


def test_info_names_the_elements(run, bundle):
    code, out, _ = run("info", bundle, "--json")
    summary = last_line(out)
    assert code == 0
    assert summary["elements"] == ["H", "C", "O"]
    assert summary["uncertainty"] == {
        "error_bars": True, "novelty": True, "n_calibration": 7, "calibration": "out-of-bag",
    }  # fmt: skip


def test_info_for_people(run, bundle):
    code, out, _ = run("info", bundle)
    assert code == 0
    assert "functional PBE" in out


def test_md_writes_a_trajectory(run, bundle, water, tmp_path):
    code, out, _ = run(
        "md", bundle, water, "--steps", 6, "--timestep", 0.01, "--log-every", 2, "--out",
        tmp_path / "traj.xyz", "--json",
    )  # fmt: skip
    summary = last_line(out)
    frames = read_structures(tmp_path / "traj.xyz")
    assert (code, summary["status"], len(frames)) == (0, "done", 4)
    assert frames[-1].info["time_ps"] == pytest.approx(6e-5)
    assert summary["gamma_max"] > 0


def test_an_interrupted_trajectory_is_kept(run, bundle, water, tmp_path, monkeypatch):
    from gace.commands import md

    seen, part = [], tmp_path / "traj.xyz.part"

    def snapshot(frame):
        if len(seen) == 2:
            assert len(read_structures(part)) == 2  # what a killed run would leave
            raise KeyboardInterrupt
        seen.append(frame.step)
        return real(frame)

    real = md.snapshot
    monkeypatch.setattr(md, "snapshot", snapshot)
    code, _, _ = run(
        "md",
        bundle,
        water,
        "--steps",
        6,
        "--timestep",
        0.01,
        "--log-every",
        2,
        "--out",
        tmp_path / "traj.xyz",
    )
    assert code != 0
    assert len(read_structures(tmp_path / "traj.xyz")) == 2
    assert not part.exists()


def test_relax_that_does_not_converge_fails_with_a_summary(run, bundle, water):
    code, out, err = run("relax", bundle, water, "--steps", 1, "--fmax", 1e-9, "--json")
    assert code == 1
    assert last_line(out)["converged"] is False
    assert "not converged in 1 steps" in err


def test_relax_writes_the_structure(run, bundle, water, tmp_path):
    out_file = tmp_path / "relaxed.xyz"
    code, out, _ = run("relax", bundle, water, "--fmax", 1e6, "--out", out_file, "--json")
    assert (code, last_line(out)["converged"]) == (0, True)
    assert len(read_structures(out_file)[0]) == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["evaluate", "{tmp}/absent", "{data}"], "no such folder"),
        (["evaluate", "{bundle}", "{tmp}/absent.xyz"], "no such file"),
        (["evaluate", "{bundle}", "{bundle}/config.json"], "cannot read structures"),
        (["evaluate", "{bundle}", "{water}"], "no structure has a label"),
        (["evaluate", "{bundle}", "{data}", "--dtype", "float8"], "no dtype called 'float8'"),
        (["evaluate", "{bundle}"], "Missing argument 'DATA'"),
        (["md", "{bundle}", "{water}", "--steps", "-3"], "steps must be at least 0"),
        (["md", "{bundle}", "{water}", "--ensemble", "npt"], "'npt' is not one of"),
        (["md", "{bundle}", "{water}", "--out", "{water}/x.xyz"], "cannot write"),
        (["relax", "{bundle}", "{water}", "--cell"], "periodic in three directions"),
        (["evalute", "{bundle}"], "did you mean 'evaluate'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, bundle, data, water, tmp_path, arguments, reason):
    places = dict(bundle=bundle, data=data, water=water, tmp=tmp_path)
    code, out, err = run(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert reason in err
    assert len(err.strip().splitlines()) == 1


def test_foreign_element_is_one_line(run, bundle, tmp_path):
    from ase.build import bulk

    write_structures(tmp_path / "si.xyz", [bulk("Si")])
    code, _, err = run("relax", bundle, tmp_path / "si.xyz")
    assert code == 2
    assert "no parameters for element Si" in err


def test_help_says_what_each_command_is_for(capsys):
    main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "lammps-plugin LAMMPS' pair_style gace for a LAMMPS of one's own." in shown
    assert "train labelled structures in, a potential bundle out." in shown
    for name, point in commands().items():
        assert purpose_of(point) != point.value.partition(":")[0], name


def test_a_command_from_elsewhere_is_named_by_its_module():
    assert purpose_of(EntryPoint("mine", "absent_package.command:command", "gace.commands")) == (
        "absent_package.command"
    )
