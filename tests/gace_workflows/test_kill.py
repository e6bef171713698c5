"""SIGKILL everything, resume, and compare with the campaign that was left in peace."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.aiida, pytest.mark.daemon, pytest.mark.dask, pytest.mark.mlflow]


def processes_of(folder):
    """Every process that belongs to the campaign in a folder: keeper, daemon, broker, workers, jobs, cluster."""
    ours = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd(), process.environ().get("AIIDA_PATH", "")]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            ours.append(process)
    return ours


def kill_everything(folder):
    """SIGKILL to all of them at once, and again to whatever a supervisor still managed to start."""
    count = 0
    for _ in range(5):
        ours = processes_of(folder)
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=5)
        count += len(ours)
        time.sleep(0.5)
    assert processes_of(folder) == []
    return count


def wait_for(condition, process, seconds=400):
    """Wait until a condition holds while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the campaign ended before it could be killed"
        assert time.monotonic() < end, "the campaign did not get there in time"
        time.sleep(0.05)


def labels_in(folder):
    """Finished calculations in the label store."""
    return sum(1 for _ in (folder / "labels" / "records").glob("*/*.json"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["exploring", "labelling", "training", "labelling again"])
def test_killed_campaign_ends_with_the_same_data(when, rehearsal, write_campaign, gace_campaign, tmp_path):
    _, undisturbed, _ = rehearsal
    folder = tmp_path / "tiny"
    first = undisturbed["labels_exam"]
    moments = {
        "exploring": lambda: any((folder / "scratch" / "explore").glob("walk-*")),
        "labelling": lambda: labels_in(folder) >= 2,
        "training": lambda: any((folder / "scratch" / "train").glob("*")),
        "labelling again": lambda: labels_in(folder) > first + 1 + undisturbed["labels"] // 2,
    }
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gace.cli", "campaign", "run", str(write_campaign(tmp_path / "input"))]
            + ["--dir", str(folder)],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        wait_for(moments[when], process)
        assert kill_everything(folder) > 3
        process.wait(10)
    done = gace_campaign("resume", folder, "--json", timeout=900)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["dataset_hash"] == undisturbed["dataset_hash"]
    assert summary["labels_paid_twice"] == 0
    assert summary["labels"] == undisturbed["labels"]


@pytest.mark.timeout(1800)
def test_daemon_killed_under_a_living_keeper_is_started_again(rehearsal, write_campaign, tmp_path):
    _, undisturbed, _ = rehearsal
    folder = tmp_path / "tiny"
    process = subprocess.Popen(
        [sys.executable, "-m", "gace.cli", "campaign", "run", str(write_campaign(tmp_path / "input"))]
        + ["--dir", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: labels_in(folder) >= 2, process)
    for one in processes_of(folder):
        if "daemon" in one.cmdline():
            one.kill()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert "daemon had died" in err
    assert json.loads(out.splitlines()[-1])["dataset_hash"] == undisturbed["dataset_hash"]
