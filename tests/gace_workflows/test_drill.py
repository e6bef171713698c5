"""The drill: it tells processes apart, and in its short form the promises hold."""

import json
import subprocess
import sys

import pytest

from gace_workflows.drill.victims import kind_of, processes_of


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
