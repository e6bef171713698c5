"""No label lost, none paid twice: real processes, SIGKILL, and two who ask at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase import Atoms

from gace.structures.identity import dataset_hash
from gace.structures.io import read_structures, write_structures
from gace_platform.ledger import LabelStore

COUNT = 4

SLOW = '''
"""A teacher that takes a while, busy, and writes down what it was asked."""

import os
import time

from ase.calculators.lj import LennardJones


class Slow(LennardJones):
    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        with open(os.environ["PAID"], "a") as stream:
            stream.write(f"{len(atoms)}\\n")
        end = time.process_time() + 0.4
        while time.process_time() < end:
            pass
'''


def make_campaign(folder: Path) -> Path:
    """A folder with a configuration that labels four structures by a slow teacher."""
    (folder / "slow_teacher.py").write_text(SLOW)
    (folder / "labels.yaml").write_text(
        "reference: {engine: teacher, calculator: 'slow_teacher:Slow'}\nstructures: pool.xyz\nstore: store\n"
    )
    frames = [
        Atoms(f"Ar{length}", positions=[[1.1 * number, 0.0, 0.0] for number in range(length)])
        for length in range(2, 2 + COUNT)
    ]
    write_structures(folder / "pool.xyz", frames)
    return folder


@pytest.fixture
def campaign(tmp_path) -> Path:
    """A fresh campaign with an empty store."""
    return make_campaign(tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> str:
    """The hash of the data set of a campaign that nobody disturbed."""
    folder = make_campaign(tmp_path_factory.mktemp("quiet"))
    finish(start(folder, "out"))
    assert LabelStore(folder / "store").lost() == []
    return dataset_hash(read_structures(folder / "out" / "labelled.xyz"))


def start(campaign: Path, out: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "gace.cli", "labels", "run", str(campaign / "labels.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(campaign), "PAID": str(campaign / "paid.txt")}
    command += ["--out", str(campaign / out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def paid(campaign: Path) -> list[int]:
    path = campaign / "paid.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_killed_run_is_resumed_without_paying_twice(campaign, uninterrupted):
    process = start(campaign, "out")
    wait_for(lambda: len(paid(campaign)) == 3)
    (engine,) = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not Path(f"/proc/{engine}").exists())
    store = LabelStore(campaign / "store")
    finished_before = len(store.keys())
    (loss,) = store.lost()
    finish(start(campaign, "out"))
    assert dataset_hash(read_structures(campaign / "out" / "labelled.xyz")) == uninterrupted
    assert store.paid_twice() == 0
    assert [one["run"] for one in store.lost()] == [loss["run"]]
    # only the calculation under way at the kill was begun a second time
    assert len(paid(campaign)) == COUNT + 1
    assert finished_before == 2


def test_killing_only_the_engine_costs_one_attempt(campaign, uninterrupted):
    process = start(campaign, "out")
    wait_for(lambda: len(paid(campaign)) == 2)
    (engine,) = children_of(process.pid)
    os.kill(engine, signal.SIGKILL)
    finish(process)
    store = LabelStore(campaign / "store")
    assert dataset_hash(read_structures(campaign / "out" / "labelled.xyz")) == uninterrupted
    assert store.paid_twice() == 0
    killed = [entry for entry in store.journal if entry["event"] == "failed"]
    assert [entry["failure_class"] for entry in killed] == ["killed"]
    assert killed[0]["core_seconds"] > 0


def test_repeated_kills_at_any_moment_end_with_the_same_data_set(campaign, uninterrupted):
    for delay in (0.8, 1.5, 2.2):
        process = start(campaign, "out")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(start(campaign, "out"))
    store = LabelStore(campaign / "store")
    assert dataset_hash(read_structures(campaign / "out" / "labelled.xyz")) == uninterrupted
    assert len(store.keys()) == COUNT
    assert store.paid_twice() == 0
    # a run killed before its engine was asked is lost for nothing
    assert COUNT <= len(paid(campaign)) <= COUNT + len(store.lost())


def test_two_processes_share_the_work_and_pay_once(campaign, uninterrupted):
    first, second = start(campaign, "out-1"), start(campaign, "out-2")
    finish(first)
    finish(second)
    store = LabelStore(campaign / "store")
    assert sorted(paid(campaign)) == list(range(2, 2 + COUNT))
    assert store.paid_twice() == 0
    hashes = {dataset_hash(read_structures(campaign / out / "labelled.xyz")) for out in ("out-1", "out-2")}
    assert hashes == {uninterrupted}


def test_a_waiting_process_takes_over_from_one_that_is_killed(campaign, uninterrupted):
    first = start(campaign, "out-1")
    wait_for(lambda: len(paid(campaign)) == 1)
    second = start(campaign, "out-2")
    wait_for(lambda: len(paid(campaign)) >= 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finish(second)
    assert dataset_hash(read_structures(campaign / "out-2" / "labelled.xyz")) == uninterrupted
    assert LabelStore(campaign / "store").paid_twice() == 0
