"""SIGKILL everything, resume, and compare with the campaign that was left in peace."""

import contextlib
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.aiida, pytest.mark.daemon, pytest.mark.dask, pytest.mark.mlflow]


def processes_of(folder):
    """Every process of the campaign in a folder: keeper, daemon, broker, workers, jobs, cluster."""
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
            with contextlib.suppress(psutil.NoSuchProcess):  # what ended by itself since it was listed
                process.kill()
        psutil.wait_procs(ours, timeout=5)
        count += len(ours)
        time.sleep(0.5)
    assert processes_of(folder) == []
    return count


def wait_for(condition, process, seconds=600):
    """Wait until a condition holds while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the campaign ended before it could be killed"
        assert time.monotonic() < end, "the campaign did not get there in time"
        time.sleep(0.05)


def labels_in(folder):
    """Finished calculations in the label store."""
    return sum(1 for _ in (folder / "labels" / "records").glob("*/*.json"))


def start(output, *arguments):
    """Start ``gace campaign …`` in a session of its own."""
    command = [sys.executable, "-m", "gace.cli", "campaign", *map(str, arguments)]
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


@pytest.mark.timeout(3600)
def test_campaign_killed_again_and_again_ends_with_the_same_data(
    rehearsal, write_campaign, gace_campaign, tmp_path
):
    _, undisturbed, _ = rehearsal
    folder = tmp_path / "tiny"
    training = folder / "scratch" / "train"
    later = undisturbed["labels_exam"] + 1 + undisturbed["labels"] // 2
    moments = {
        "exploring": lambda: any((folder / "scratch" / "explore").glob("walk-*")),
        "labelling": lambda: labels_in(folder) >= 2,
        "training": lambda: training.is_dir() and any(training.iterdir()),
        "labelling again": lambda: labels_in(folder) > later,
    }
    with (tmp_path / "output").open("wb") as output:
        process = start(output, "run", write_campaign(tmp_path / "input"), "--dir", folder)
        for moment, has_come in moments.items():
            wait_for(has_come, process)
            assert kill_everything(folder) > 3, moment
            process.wait(10)
            if moment != "labelling again":
                process = start(output, "resume", folder)
    done = gace_campaign("resume", folder, "--json", timeout=1200)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["dataset_hash"] == undisturbed["dataset_hash"]
    assert summary["labels_paid_twice"] == 0
    assert summary["labels"] == undisturbed["labels"]


@pytest.mark.timeout(1800)
def test_daemon_killed_under_a_living_keeper_is_started_again(rehearsal, write_campaign, tmp_path):
    _, undisturbed, _ = rehearsal
    folder = tmp_path / "tiny"
    with (tmp_path / "output").open("wb") as output:
        process = start(output, "run", write_campaign(tmp_path / "input"), "--dir", folder)
        wait_for(lambda: labels_in(folder) >= 2, process)
        for one in processes_of(folder):
            if "daemon" in one.cmdline():
                one.kill()
        assert process.wait(1500) == 0
    assert "daemon had died" in (tmp_path / "output").read_text()
    assert json.loads((folder / "summary.json").read_text())["dataset_hash"] == undisturbed["dataset_hash"]


@pytest.mark.timeout(1800)
def test_campaign_in_the_background_ends_by_itself(rehearsal, write_campaign, gace_campaign, tmp_path):
    _, undisturbed, _ = rehearsal
    folder = tmp_path / "tiny"
    done = gace_campaign("submit", write_campaign(tmp_path / "input"), "--dir", folder, "--json")
    assert done.returncode == 0, done.stderr
    keeper = psutil.Process(json.loads(done.stdout.splitlines()[-1])["keeper"])
    second = gace_campaign("resume", folder)
    assert (second.returncode, "looked after by process" in second.stderr) == (2, True)
    shown = json.loads(gace_campaign("status", folder, "--json").stdout.splitlines()[-1])
    assert (shown["state"], shown["kept"]) == ("running", True)
    keeper.wait(1500)
    assert json.loads((folder / "summary.json").read_text())["dataset_hash"] == undisturbed["dataset_hash"]


@pytest.mark.timeout(1800)
def test_workers_lost_after_a_resume_lose_no_process(rehearsal, write_campaign, tmp_path):
    """What a repair queued is as safe with a worker that dies as what was queued at first."""
    _, undisturbed, _ = rehearsal
    folder = tmp_path / "tiny"
    output_file = tmp_path / "output"

    def workers():
        return [one for one in processes_of(folder) if {"daemon", "worker"} <= set(one.cmdline())]

    with output_file.open("wb") as output:
        process = start(output, "run", write_campaign(tmp_path / "input"), "--dir", folder)
        wait_for(lambda: labels_in(folder) >= 2, process)
        kill_everything(folder)
        process.wait(10)
        process = start(output, "resume", folder)
        # every process was revived by the repair and is with one of the workers by now
        wait_for(lambda: output_file.read_text().count("✓") >= 4, process)
        for one in workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        assert process.wait(1500) == 0
    assert json.loads((folder / "summary.json").read_text())["dataset_hash"] == undisturbed["dataset_hash"]
