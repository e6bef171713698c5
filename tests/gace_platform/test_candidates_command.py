import json

import numpy as np
import pytest
from ase.build import molecule
from click.testing import CliRunner

from gace.cli import main
from gace.errors import InputError
from gace.structures.io import read_structures, write_structures
from gace_platform.candidates.command import command


def shaken(number, name="CH3CH2OH"):
    atoms = molecule(name)
    atoms.positions += 0.1 * np.random.default_rng(number).standard_normal(atoms.positions.shape)
    atoms.positions = np.round(atoms.positions, 8)
    atoms.info["structure_id"] = f"s{number}"
    return atoms


@pytest.fixture
def with_novelty(tmp_path, make_potential):
    """A bundle of an untrained committee whose γ is fitted to six ethanol frames."""
    import torch

    from gace.potential.bundle import save_bundle
    from gace.structures.neighbours import build_graph
    from gace.uncertainty import Novelty, Uncertainty

    potential = make_potential(0)
    graph = build_graph(
        [shaken(n) for n in range(100, 106)], potential.elements, potential.cutoff, torch.float64
    )
    features = potential.members[0](graph).features
    novelty = Novelty.fit(features, graph.species, potential.elements, 0, graph.structure)
    potential.uncertainty = Uncertainty(novelty)
    return save_bundle(potential, tmp_path / "bundle" / "potential")


@pytest.fixture
def job(tmp_path, with_novelty):
    """A configuration beside its files, all named relative to it."""
    write_structures(tmp_path / "pool.xyz", [shaken(number) for number in range(24)])
    write_structures(tmp_path / "training.xyz", [shaken(number) for number in range(100, 106)])
    path = tmp_path / "select.yaml"
    path.write_text(
        "pool: pool.xyz\ntraining: training.xyz\npotential: bundle/potential\ncount: 6\nforces_max: null\n"
    )
    return path


def failing(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["select", *map(str, arguments)])
    return stop.value.code, capsys.readouterr().err


def test_the_command_ends_with_one_json_object(job, tmp_path):
    result = CliRunner().invoke(command, [str(job), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary == json.loads((tmp_path / "out" / "selection.json").read_text())
    assert (summary["n_selected"], summary["n_reserve"], summary["strategy"]) == (6, 1, "lcmd")


def test_with_a_potential_picks_carry_gamma_and_error_bars(job, tmp_path):
    CliRunner().invoke(command, [str(job), "--out", str(tmp_path / "out")], catch_exceptions=False)
    for atoms in read_structures(tmp_path / "out" / "selected.xyz"):
        assert atoms.info["gamma"] > 0
        assert atoms.info["energy_std"] > 0
    reasons = [
        pick["reason"] for pick in json.loads((tmp_path / "out" / "selection.json").read_text())["picks"]
    ]
    assert all("gradient features" in reason and "γ" in reason for reason in reasons[1:])


def test_with_a_potential_too_the_order_of_the_pool_changes_no_bit(job, tmp_path):
    CliRunner().invoke(command, [str(job), "--out", str(tmp_path / "one")], catch_exceptions=False)
    order = np.random.default_rng(0).permutation(24)
    write_structures(tmp_path / "pool.xyz", [shaken(number) for number in order])
    CliRunner().invoke(command, [str(job), "--out", str(tmp_path / "two")], catch_exceptions=False)
    for file in ("selected.xyz", "selection.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_element_the_potential_does_not_know_is_a_reason_not_a_crash(job, tmp_path):
    write_structures(tmp_path / "pool.xyz", [shaken(0), shaken(1), shaken(2, "CH3CN")])
    result = CliRunner().invoke(command, [str(job), "--out", str(tmp_path / "out"), "--json"])
    summary = json.loads(result.stdout.splitlines()[-1])
    assert [(entry["class"], entry["count"]) for entry in summary["rejected"]] == [("unknown_element", 1)]


def test_people_read_the_reasons(job, tmp_path):
    shown = CliRunner().invoke(command, [str(job), "--out", str(tmp_path / "out")]).stdout
    assert "random reserve: 1 of 1" in shown
    assert "pool 24 → physical 24" in shown


def test_an_unknown_key_names_its_nearest(job, tmp_path, capsys):
    code, message = failing(capsys, job, "--out", tmp_path / "out", "--set", "reserve_fracton=0.1")
    assert code == 2
    assert "unknown key 'reserve_fracton'; did you mean 'reserve_fraction'?" in message


@pytest.mark.parametrize(
    "override", ["count=0", "reserve_fraction=1.5", "strategy=lcdm", "exclude_keys=[abc]"]
)
def test_impossible_values_are_refused(job, tmp_path, capsys, override):
    code, message = failing(capsys, job, "--out", tmp_path / "out", "--set", override)
    assert code == 2
    assert override.partition("=")[0] in message


@pytest.mark.parametrize("key", ["pool", "training", "potential"])
def test_a_missing_file_is_named(job, tmp_path, capsys, key):
    code, message = failing(capsys, job, "--out", tmp_path / "out", "--set", f"{key}=nowhere")
    assert code == 2
    assert "nowhere" in message


def test_a_folder_that_cannot_be_made_is_named(job, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, message = failing(capsys, job, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot write" in message


def test_pymatgen_missing_is_said_with_its_remedy(monkeypatch):
    import sys

    from ase.build import bulk

    from gace_platform.candidates.crystals import same_crystal

    for name in ("pymatgen.core.structure_matcher", "pymatgen.analysis.structure_matcher"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'gace\[platform\]'"):
        same_crystal([bulk("Si"), bulk("Si")], 0.01)(0, 1)


def test_selection_raises_only_for_bad_input(tmp_path):
    from gace_platform.candidates.choose import select
    from gace_platform.candidates.config import SelectConfig

    with pytest.raises(InputError, match="no such file"):
        select(SelectConfig(pool=tmp_path / "none.xyz", count=1))
