import json
import sys

import pytest
import yaml

from gace.cli import main
from gace.errors import ClusterError, ExplorationError, InputError
from gace.structures.io import read_structures, write_structures
from gace_platform.cluster import Local, supervise
from gace_platform.exploration.config import ExploreConfig, Ramp, Teacher
from gace_platform.exploration.explore import explore, plan

pytestmark = pytest.mark.dask


@pytest.fixture
def starts(tmp_path, copper_frames):
    write_structures(tmp_path / "start.xyz", copper_frames[:3])
    return tmp_path / "start.xyz"


def config(starts, **keys):
    base = {
        "start": starts,
        "teacher": Teacher(calculator="emt"),
        "walkers": 3,
        "together": 2,
        "steps": 40,
        "timestep_fs": 3.0,
        "sample_every": 10,
        "temperature": Ramp(start=300, end=600),
        "seed": 7,
        "cluster": Local(workers=2),
    }
    if "potential" in keys:
        del base["teacher"]
    return ExploreConfig(**{**base, **keys})


def test_candidates_say_where_they_come_from(tmp_path, starts):
    summary = explore(config(starts, name="walk-g0"), tmp_path / "out")
    frames = read_structures(tmp_path / "out" / "candidates.xyz")
    assert len(frames) == summary["n_candidates"] == 12
    assert summary["endings"] == {"completed": 3}
    assert [frame.info["walker"] for frame in frames] == [0] * 4 + [1] * 4 + [2] * 4
    first = frames[0].info
    assert first["ancestor"].startswith("walk-g0-w0-")
    assert first["structure_id"].startswith(first["ancestor"])
    assert first["parent"].startswith("cu-")
    assert first["time_ps"] == pytest.approx(0.03)
    assert first["temperature"] == pytest.approx(375.0)
    assert len({frame.info["structure_id"] for frame in frames}) == 12


def test_a_teacher_leaves_its_labels(tmp_path, starts):
    from ase.calculators.emt import EMT

    explore(config(starts, walkers=1), tmp_path / "out")
    frame = read_structures(tmp_path / "out" / "candidates.xyz")[2]
    frame.calc = EMT()
    assert frame.get_potential_energy() == pytest.approx(frame.info["teacher_energy"], abs=1e-6)
    # positions are written with eight decimals
    assert frame.get_forces() == pytest.approx(frame.arrays["teacher_forces"], abs=1e-5)


def test_neither_workers_nor_the_order_of_the_file_matter(tmp_path, starts, campaign_cluster):
    explore(config(starts), tmp_path / "a")
    write_structures(tmp_path / "other.xyz", read_structures(starts)[::-1])
    other = config(tmp_path / "other.xyz", cluster=campaign_cluster.config())
    explore(other, tmp_path / "b")
    assert (tmp_path / "a/candidates.xyz").read_bytes() == (tmp_path / "b/candidates.xyz").read_bytes()


def test_walks_that_are_finished_are_not_walked_again(tmp_path, starts):
    scratch = tmp_path / "scratch"
    first = explore(config(starts, scratch=scratch), tmp_path / "a")
    second = explore(config(starts, scratch=scratch), tmp_path / "b")
    assert (first["walked_before"], second["walked_before"]) == (0, 2)
    assert (tmp_path / "a/candidates.xyz").read_bytes() == (tmp_path / "b/candidates.xyz").read_bytes()


def test_another_setting_is_another_walk(tmp_path, starts):
    def folders(**keys):
        return {group.folder for group in plan(config(starts, **keys), tmp_path)}

    assert folders() == folders()
    assert not folders() & folders(steps=41)
    assert not folders() & folders(seed=8)
    assert not folders() & folders(teacher=Teacher(calculator="lj"))


def test_one_group_that_fails_does_not_stop_the_others(tmp_path, starts):
    # the second group's walker cannot write its result: something else stands there
    settings = config(starts)
    broken = plan(settings, tmp_path / "out")[1]
    (broken.folder / "frames.xyz").mkdir(parents=True)
    summary = explore(settings, tmp_path / "out")
    assert summary["endings"] == {"completed": 2, "failed": 1}
    assert summary["n_candidates"] == 8


MORTAL = """
import json
import os
import signal
import sys
from pathlib import Path

from ase.calculators.emt import EMT


def mortal():
    log = Path(os.environ["DEATHS"])
    deaths = len(log.read_text()) if log.exists() else 0
    walks = any(argument.startswith("gace_platform.exploration.walker") for argument in sys.orig_argv)
    second = walks and json.loads(Path("spec.json").read_text())["walkers"][0]["number"] == 1
    if second and deaths < 2:
        log.write_text("x" * (deaths + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return EMT()
"""


def test_a_walker_that_is_killed_twice_is_not_left_out(tmp_path, starts, monkeypatch):
    (tmp_path / "mortal_teacher.py").write_text(MORTAL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    monkeypatch.setattr(supervise, "KILLS_BORNE", 1)  # beside others, and once more alone
    settings = config(starts, walkers=2, together=1, teacher=Teacher(calculator="mortal_teacher:mortal"))
    with pytest.raises(ClusterError, match="w1"):
        explore(settings, tmp_path / "killed")
    assert not (tmp_path / "killed" / "candidates.xyz").exists()
    assert explore(settings, tmp_path / "killed")["walked_before"] == 1
    explore(settings, tmp_path / "peace")
    both = [(tmp_path / out / "candidates.xyz").read_bytes() for out in ("killed", "peace")]
    assert both[0] == both[1]


def test_nothing_found_is_an_error_with_the_walkers_endings(tmp_path, starts):
    with pytest.raises(ExplorationError, match="overheated"):
        explore(config(starts, timestep_fs=10.0, temperature=Ramp(start=1e5, end=1e5)), tmp_path / "out")


def test_a_potential_leaves_its_error_bars(tmp_path, starts, copper_committee):
    summary = explore(config(starts, potential=str(copper_committee), gamma_max=None), tmp_path / "out")
    frames = read_structures(tmp_path / "out" / "candidates.xyz")
    assert summary["endings"] == {"completed": 3}
    assert all(frame.info["gamma"] > 0 for frame in frames)
    assert all(frame.info["energy_std"] > 0 and frame.info["forces_std"] > 0 for frame in frames)
    assert "teacher_energy" not in frames[0].info


def test_novelty_ends_the_walks_of_a_potential(tmp_path, starts, copper_committee):
    hot = {"temperature": Ramp(start=300, end=6000), "steps": 200, "gamma_max": 3.0}
    summary = explore(config(starts, potential=str(copper_committee), **hot), tmp_path / "out")
    frames = read_structures(tmp_path / "out" / "candidates.xyz")
    assert summary["endings"] == {"novelty": 3}
    # γ decided in the walk by the batch in single precision is that of the frame up to rounding
    assert all(frame.info["gamma"] < 3.03 for frame in frames)


def test_an_element_the_potential_lacks_is_wrong_input(tmp_path, copper_committee, ethanol):
    write_structures(tmp_path / "start.xyz", [ethanol])
    with pytest.raises(InputError, match="C, H, O"):
        explore(config(tmp_path / "start.xyz", potential=str(copper_committee)), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"walker": 3}, "did you mean 'walkers'"),
        ({"start": "none.xyz"}, "none.xyz"),
        ({"walkers": -1}, "walkers"),
        ({"teacher": {"calculator": "tblight"}}, "did you mean 'tblite'"),
        ({"teacher": None}, "either potential or teacher"),
        ({"teacher": {"calculator": "tersoff-si"}}, "Cu"),
        ({"rattle": 3.0}, "distance_min"),
        ({"cluster": {"provider": "local", "worker": 2}}, "did you mean 'workers'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, starts, capsys, change, message):
    content = {"start": "start.xyz", "teacher": {"calculator": "emt"}, **change}
    (tmp_path / "explore.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as stop:
        main(["explore", str(tmp_path / "explore.yaml"), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert message in captured
    assert "\n" not in captured
    assert not (tmp_path / "out").exists()


def test_the_command_prints_its_summary_last(tmp_path, starts, capsys, monkeypatch):
    content = {
        "start": "start.xyz",
        "teacher": {"calculator": "emt"},
        "walkers": 1,
        "steps": 10,
        "sample_every": 5,
    }
    (tmp_path / "explore.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(sys, "argv", ["gace"])
    main(["explore", str(tmp_path / "explore.yaml"), "--out", str(tmp_path / "out"), "--json"])
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert summary["n_candidates"] == 2
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
