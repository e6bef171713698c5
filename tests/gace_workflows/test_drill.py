"""The drill: it tells processes apart, and in its short form the promises hold."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gace.randomness import generator
from gace_workflows.drill import clock, faults, rehearsal, rounds
from gace_workflows.drill.command import drill
from gace_workflows.drill.faults import unreadable_scratch
from gace_workflows.drill.rehearsal import REHEARSALS, DrillError
from gace_workflows.drill.rounds import TARGETS, Hunter, targets_of
from gace_workflows.drill.victims import kill, kind_of, processes_of


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("python -m gace.cli campaign resume /x/campaign", "command"),
        ("python verdi -p drill daemon start-circus 2", "daemon"),
        ("python verdi -p drill daemon worker", "worker"),
        ("python verdi -p drill daemon broker --service-dir /x", "broker"),
        ("python -m gace_platform.cluster.service /x/scheduler.json --workers 2", "scheduler"),
        ("python -m gace_platform.labelling.worker 123", "program"),
        ("python -m gace_platform.exploration.walker spec.json", "walker"),
        ("python -m gace.cli train config.yaml --out /x", "training"),
        ("bash _aiidasubmit.sh", "job"),
        ("gace labels run config.yaml --out out --json", "step"),
        ("python -c from multiprocessing.spawn import spawn_main", "Dask worker"),
        ("/usr/bin/pw.x -in aiida.in", "DFT program"),
        ("bash", None),
    ],
)
def test_kinds_of_processes(line, kind):
    assert kind_of(line.split()) == kind


def test_only_processes_of_the_folder_are_victims(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "ours-too"
    ours.mkdir(), other.mkdir()
    sleepers = [subprocess.Popen(["sleep", "60"], cwd=folder) for folder in (ours, other)]
    try:
        found = {process.pid for process in processes_of(ours)}
        assert sleepers[0].pid in found
        assert sleepers[1].pid not in found
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_children_of_victims_are_victims(tmp_path):
    # the child itself names the folder nowhere
    command = [
        sys.executable,
        "-c",
        "import subprocess; subprocess.run(['sleep', '61'], cwd='/')",
        str(tmp_path),
    ]
    parent = subprocess.Popen(command, cwd="/", env={})
    try:
        deadline = time.monotonic() + 30
        while len(processes_of(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        found = processes_of(tmp_path)
        assert [process.cmdline()[0] for process in found if process.pid != parent.pid] == ["sleep"]
    finally:
        for process in processes_of(tmp_path):
            process.kill()
        parent.wait()


def test_a_kill_counts_when_the_process_is_dead(tmp_path):
    sleeper = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    process = processes_of(tmp_path)[0]
    assert kill(process) == {"pid": sleeper.pid, "command": "sleep 60"}
    assert not Path(f"/proc/{sleeper.pid}").exists()
    assert kill(process) is None


def test_kills_are_aimed_at_the_kinds_hit_least(tmp_path):
    before = Counter({**dict.fromkeys(TARGETS, 7), "walker": 5})
    hunter = Hunter(tmp_path, generator(1, "test"), before)
    aims = Counter(hunter.aim() for _ in range(200))
    # weights 1 against 11 times 1/9: 90 of 200 are expected, with a standard deviation of 7
    assert aims["walker"] > 60


def test_a_command_that_starts_slowly_is_not_all_that_is_killed(tmp_path):
    # in the start nothing is there but the command
    line = [sys.executable, "-c", "import time; time.sleep(60)", "gace.cli", "campaign", str(tmp_path)]
    process = subprocess.Popen(line)
    try:
        hunter = Hunter(tmp_path, generator(1, "test"), Counter())
        assert hunter.substitutes() == ["command"]
        hunter.kills.update(command=4)
        assert hunter.substitutes() == []
        hunter.kills.update(dict.fromkeys(TARGETS, 2))
        assert hunter.substitutes() == []
        hunter.kills.update({kind: 3 for kind in TARGETS if kind != "command"})
        assert hunter.substitutes() == ["command"]
    finally:
        process.kill()
        process.wait()


def test_what_is_seldom_there_is_struck_when_it_is(tmp_path):
    hunter = Hunter(tmp_path, generator(1, "test"), Counter(dict.fromkeys(TARGETS, 6)))
    assert hunter.rare(["worker", "command"]) is None
    hunter.before["program"] = 2
    assert hunter.rare(["worker", "program", "command"]) == "program"
    assert hunter.rare([]) is None


def test_no_kind_is_left_out(tmp_path):
    hunter = Hunter(tmp_path, generator(1, "test"), Counter())
    for _ in range(150):
        hunter.kills[hunter.aim()] += 1
    assert min(hunter.kills[kind] for kind in TARGETS) >= 8


@pytest.mark.parametrize("engine", REHEARSALS)
def test_every_rehearsal_is_a_campaign_and_has_a_program_to_kill(engine):
    from gace_workflows.campaign.file import parse_campaign

    assert parse_campaign(REHEARSALS[engine]).reference.engine == engine
    assert sum(kind in ("program", "DFT program") for kind in targets_of(engine)) == 1


def test_the_shifted_clock_follows_its_file(tmp_path):
    (tmp_path / "offset").write_text("-1000000")
    shim = Path(clock.__file__).with_name("shifted_clock")
    done = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time(), time.time_ns())"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(shim), "GACE_DRILL_CLOCK": str(tmp_path / "offset")},
    )
    seconds, nanoseconds = map(float, done.stdout.split())
    assert seconds == pytest.approx(time.time() - 1e6, abs=60)
    assert nanoseconds == pytest.approx(seconds * 1e9, abs=60e9)


def test_unreadable_scratch_is_told_and_survived(tmp_path):
    assert unreadable_scratch(tmp_path / "no campaign is needed", tmp_path)


def test_a_campaign_that_ends_before_its_clock_has_jumped_says_so(monkeypatch, tmp_path):
    script = "print('✓ generation 0: select\\nerror: no more disk')"

    def short(output, *arguments, environment):
        return subprocess.Popen([sys.executable, "-c", script], stdout=output)

    monkeypatch.setattr(clock, "start", short)
    monkeypatch.setattr(clock, "summary_of", lambda folder: {})
    monkeypatch.setattr(clock, "seed_of", lambda folder: 3)
    with pytest.raises(DrillError, match="before its clock had jumped: error: no more disk"):
        clock.clock_jump(tmp_path, tmp_path)
    assert (tmp_path / "offset").read_text() == str(clock.JUMPS[0])


def test_a_fault_that_could_not_be_tried_is_not_met_and_says_why(monkeypatch, tmp_path):
    def broken(campaign, scratch):
        raise DrillError("the campaign ended early")

    peaceful = {"dataset_hash": "a"}
    monkeypatch.setattr(rehearsal, "undisturbed", lambda *arguments: peaceful)
    monkeypatch.setattr(
        rounds, "kill_through", lambda *arguments: rounds.Round(Counter(daemon=2), "a", 0, "")
    )
    monkeypatch.setattr(faults, "FAULTS", {"broken": broken, "fine": lambda campaign, scratch: True})
    found = drill(tmp_path, 2, 2, 1.0, 10.0, 3)
    assert found["faults"] == {"broken": False, "fine": True}
    assert found["failures"] == ["broken: the campaign ended early"]


@pytest.mark.parametrize(("shift", "restarts"), [(-3600.0, 1), (3600.0, 0)])
def test_a_clock_set_back_restarts_the_daemon(monkeypatch, tmp_path, shift, restarts):
    from gace_workflows.campaign import daemon
    from gace_workflows.campaign.file import parse_campaign
    from gace_workflows.campaign.folder import CampaignFolder
    from gace_workflows.campaign.keeper import DaemonCare
    from gace_workflows.drill.rehearsal import REHEARSAL

    started = []
    monkeypatch.setattr(daemon, "daemon_runs", lambda: True)
    monkeypatch.setattr(daemon, "daemon_workers", lambda: 2)
    monkeypatch.setattr(daemon, "has_tasks", lambda: True)
    monkeypatch.setattr(daemon, "stop_daemon", lambda folder: None)
    monkeypatch.setattr(daemon, "repair", lambda folder, name: None)
    monkeypatch.setattr(daemon, "start_daemon", lambda: started.append(True))
    care = DaemonCare(CampaignFolder.at(tmp_path), parse_campaign(REHEARSAL))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    care.look_after()
    care.look_after()
    assert len(started) == restarts


@pytest.mark.slow
@pytest.mark.aiida
@pytest.mark.daemon
@pytest.mark.dask
@pytest.mark.mlflow
@pytest.mark.timeout(5400)
def test_twenty_kills_change_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gace.cli", "drill", "--kills", "20", "--json", "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=5300,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == []
    assert found["kills"] >= 20
    assert found["hash_equal"]
    assert found["labels_paid_twice"] == 0
    assert all(found["faults"].values()), found["faults"]
    assert done.returncode == 0
