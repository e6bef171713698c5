import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

import gace
from gace.cli import main
from gace.errors import ClusterError, InputError
from gace.structures.io import read_structures, write_structures
from gace_platform.cluster import Local
from gace_platform.committee.config import CommitteeConfig, CommitteeSection
from gace_platform.committee.members import Member, plan_members
from gace_platform.committee.train import CommitteeError, train_committee

pytestmark = pytest.mark.dask


def changed(config, **sections):
    content = config.model_dump()
    for name, keys in sections.items():
        whole = name == "cluster" or not isinstance(keys, dict)
        content[name] = keys if whole else {**content[name], **keys}
    return CommitteeConfig(**content)


def tensors(bundle):
    return (bundle / "model.safetensors").read_bytes(), (bundle / "uncertainty.npz").read_bytes()


def test_the_bundle_holds_all_members_and_their_error_bars(copper_committee):
    potential = gace.load(copper_committee)
    assert len(potential.members) == 3
    assert potential.has_novelty
    assert potential.uncertainty.calibration == "out-of-bag"
    assert potential.uncertainty.n_calibration >= 4
    assert potential.metadata["committee"]["held_out"]["forces_mae"] > 0


def test_the_training_set_is_not_novel(copper_committee, copper_committee_config):
    potential = gace.load(copper_committee)
    frames = read_structures(copper_committee_config.data.train)
    gamma = np.concatenate([one.gamma for one in potential.predict(frames, uncertainty=True)])
    assert np.quantile(gamma, 0.9) < 1.5


def test_the_summary_tells_of_each_member(copper_committee):
    summary = json.loads((copper_committee.parent / "summary.json").read_text())
    assert [entry["status"] for entry in summary["members"]] == ["trained"] * 3
    assert all(entry["errors"]["train"]["forces"]["mae"] > 0 for entry in summary["members"])
    assert all(entry["core_seconds"] > 0 for entry in summary["members"])
    assert len({entry["seed"] for entry in summary["members"]}) == 3
    for number in range(3):
        lines = (copper_committee.parent / "members" / str(number) / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["epoch"] == 8


def test_the_number_of_workers_changes_no_bit(
    tmp_path, copper_committee, copper_committee_config, campaign_cluster
):
    config = changed(copper_committee_config, cluster=campaign_cluster.config())
    train_committee(config, tmp_path / "out")
    assert tensors(tmp_path / "out" / "potential") == tensors(copper_committee)


def test_one_job_for_all_members(tmp_path, copper_committee, copper_committee_config):
    config = changed(copper_committee_config, committee={"together": True}, scratch=tmp_path / "scratch")
    summary = train_committee(config, tmp_path / "out")
    assert [entry["status"] for entry in summary["members"]] == ["trained"] * 3
    assert summary["core_seconds"] > 0
    assert len(list((tmp_path / "scratch").glob("together-*/train.log"))) == 1
    frames = read_structures(copper_committee_config.data.train)
    both = [
        gace.load(bundle).predict(frames) for bundle in (tmp_path / "out" / "potential", copper_committee)
    ]
    for one, other in zip(*both, strict=True):
        # trained in single precision: its rounding, grown over 8 epochs
        assert np.allclose(one.forces, other.forces, atol=2e-3 * np.abs(other.forces).max())


def test_a_second_call_trains_nothing_and_gives_the_same(tmp_path, copper_committee, copper_committee_config):
    config = changed(copper_committee_config, scratch=copper_committee.parent / "scratch")
    summary = train_committee(config, tmp_path / "out")
    assert all(entry["reused"] for entry in summary["members"])
    assert tensors(tmp_path / "out" / "potential") == tensors(copper_committee)


def test_killed_and_run_again_it_ends_with_the_same(tmp_path, copper_committee, copper_committee_config):
    config = copper_committee_config.model_dump(mode="json") | {"scratch": str(tmp_path / "scratch")}
    config["training"]["checkpoint_seconds"] = 0.0
    (tmp_path / "committee.yaml").write_text(yaml.safe_dump(config))
    arguments = ["committee", "train", str(tmp_path / "committee.yaml"), "--out", str(tmp_path / "out")]
    command = subprocess.Popen(
        [sys.executable, "-m", "gace.cli", *arguments, "--quiet"], start_new_session=True
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("scratch/*/run/checkpoint*")) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    assert not (tmp_path / "out" / "summary.json").exists()
    main(arguments)
    assert tensors(tmp_path / "out" / "potential") == tensors(copper_committee)


def test_a_member_that_cannot_be_trained_is_left_out(tmp_path, copper_committee_config):
    config = changed(
        copper_committee_config,
        scratch=tmp_path / "scratch",
        committee={"members": 2},
        training={"max_epochs": 2},
    )
    block(config, tmp_path, count=1)
    summary = train_committee(config, tmp_path / "out")
    assert [entry["status"] for entry in summary["members"]] == ["failed", "trained"]
    assert "run" in summary["members"][0]["reason"]
    assert len(gace.load(tmp_path / "out" / "potential").members) == 1


def test_a_member_that_is_only_killed_is_not_left_out(tmp_path, copper_committee_config, monkeypatch):
    config = changed(
        copper_committee_config,
        scratch=tmp_path / "scratch",
        committee={"members": 2, "min_members": 1},
        training={"max_epochs": 1},
    )
    make_job = Member.job

    def killed_first(member, name, gpu):
        job = make_job(member, name, gpu)
        suicide = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
        return job if member.number else dataclasses.replace(job, command=suicide)

    monkeypatch.setattr(Member, "job", killed_first)
    with pytest.raises(ClusterError, match="member 0"):
        train_committee(config, tmp_path / "out")
    assert not (tmp_path / "out" / "potential").exists()


def test_too_few_members_are_an_error(tmp_path, copper_committee_config):
    config = changed(
        copper_committee_config,
        scratch=tmp_path / "scratch",
        committee={"members": 2, "min_members": 2},
        training={"max_epochs": 1},
    )
    block(config, tmp_path, count=2)
    with pytest.raises((CommitteeError, InputError), match="only 0 of 2 members"):
        train_committee(config, tmp_path / "out")
    assert not (tmp_path / "out" / "potential").exists()


def block(config, tmp_path, count):
    """Put a file where the first members' output folders shall be."""
    from gace.training.prepare import read_data
    from gace_platform.committee.bags import draw_bags

    data = read_data(config)
    bags = draw_bags(data.train, config.committee.members, config.committee.subsample, config.seed)
    for member in plan_members(config, data, bags, tmp_path / "scratch")[:count]:
        member.folder.mkdir(parents=True)
        member.run.write_text("in the way")


def test_members_start_from_the_members_of_a_bundle(tmp_path, copper_committee, copper_committee_config):
    config = changed(
        copper_committee_config,
        potential={"preset": None, "cutoff": None, "start_from": copper_committee},
        committee={"members": 4},
    )
    from gace.training.prepare import read_data
    from gace_platform.committee.bags import draw_bags

    data = read_data(config)
    members = plan_members(config, data, draw_bags(data.train, 4, 0.8, 0), tmp_path)
    assert [member.config["potential"]["member"] for member in members] == [0, 1, 2, 0]


def test_a_second_start_bundle_of_the_same_content_is_the_same_training(
    tmp_path, copper_committee, copper_committee_config
):
    import shutil

    from gace.training.prepare import read_data
    from gace_platform.committee.bags import draw_bags

    shutil.copytree(copper_committee, tmp_path / "copy")
    folders = []
    for bundle in (copper_committee, tmp_path / "copy"):
        config = changed(
            copper_committee_config, potential={"preset": None, "cutoff": None, "start_from": bundle}
        )
        data = read_data(config)
        bags = draw_bags(data.train, 3, 0.8, 0)
        folders.append([member.folder for member in plan_members(config, data, bags, tmp_path)])
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comittee": {}}, "did you mean 'committee'"),
        ({"committee": {"memebers": 4}}, "did you mean 'members'"),
        ({"committee": {"members": 0}}, "committee.members"),
        ({"committee": {"members": 2, "min_members": 3}}, "min_members"),
        ({"committee": {"subsample": 0.1}}, "subsample"),
        ({"data": {"train": "none.xyz"}}, "none.xyz"),
        ({"data": {"train": "bare.xyz"}}, "neither REF_energy nor REF_forces"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, ethanol, capsys, change, message):
    write_structures(tmp_path / "bare.xyz", [ethanol])
    (tmp_path / "committee.yaml").write_text(yaml.safe_dump({"data": {"train": "bare.xyz"}, **change}))
    with pytest.raises(SystemExit) as stop:
        main(["committee", "train", str(tmp_path / "committee.yaml"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_one_member_may_fail_by_default():
    assert [CommitteeSection(members=n).needed for n in (1, 2, 4)] == [1, 1, 3]


def test_relative_paths_are_those_of_the_file(tmp_path):
    config = CommitteeConfig(data={"train": "train.xyz"}, scratch="scratch", cluster=Local(workers=2))
    moved = config.relative_to(tmp_path)
    assert isinstance(moved, CommitteeConfig)
    assert (moved.data.train, moved.scratch) == (tmp_path / "train.xyz", tmp_path / "scratch")
    assert moved.cluster.workers == 2
