"""A disk that fills up: what is being paid for is kept, and nobody takes it for a structure's fault."""

import errno
import os
import tempfile

import pytest
from ase import Atoms

from gace.structures.io import write_structures
from gace_platform.labelling.batch import label_structures
from gace_platform.labelling.config import load_label_config
from gace_platform.labelling.run import run_labels
from gace_platform.labelling.supervisor import EngineProcess
from gace_platform.ledger.store import LabelStore

FULL = OSError(errno.ENOSPC, "No space left on device")
TEACHER = """
import errno, os
from ase.calculators.lj import LennardJones

class Writing(LennardJones):
    def calculate(self, *arguments, **more):
        if os.path.exists(os.environ["FULL"]):
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/integrals")
        super().calculate(*arguments, **more)
"""


def argon(length):
    return Atoms(f"Ar{length}", positions=[[1.1 * number, 0.0, 0.0] for number in range(length)])


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "writing_teacher.py").write_text(TEACHER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FULL", str(tmp_path / "full"))
    write_structures(tmp_path / "pool.xyz", [argon(2), argon(3)])
    (tmp_path / "labels.yaml").write_text(
        "reference: {engine: teacher, calculator: 'writing_teacher:Writing'}\n"
        "structures: pool.xyz\nstore: store\n"
    )
    return load_label_config(tmp_path / "labels.yaml", ())


def refuse(*arguments, **options):
    raise FULL


def label(config, folder):
    with EngineProcess(config, folder / "engine.log") as process:
        return label_structures([argon(2), argon(3)], config, process)


def test_what_is_computed_while_the_disk_fills_up_is_kept(config, tmp_path, monkeypatch):
    """No new file can be made once a calculation has begun: it has its place already."""
    run = EngineProcess.run

    def fill_up(process, *arguments):
        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        return run(process, *arguments)

    monkeypatch.setattr(EngineProcess, "run", fill_up)
    label(config, tmp_path)
    store = LabelStore(config.store)
    assert len(store.keys()) == 2
    assert (store.lost(), store.paid_twice()) == ([], 0)
    assert list((store.folder / "records").rglob(".*")) == []


def test_nothing_is_begun_without_room_for_its_label(config, tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(LabelStore, "reserve", refuse)
        for _ in range(6):
            with pytest.raises(OSError, match="No space left"):
                label(config, tmp_path)
    store = LabelStore(config.store)
    assert [entry["event"] for entry in store.journal] == []
    assert [one.verdict for one in label(config, tmp_path)] == ["accepted", "accepted"]


def test_room_that_cannot_be_taken_leaves_nothing(config, tmp_path, monkeypatch):
    store = LabelStore(config.store)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            store.reserve("abcd-ef", 3)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_a_calculation_goes_on_where_its_price_cannot_be_noted(config, tmp_path):
    store = LabelStore(config.store)
    (store.folder / "running").write_text("no folder")
    store.note_running("key", "run", 1.0)
    assert (store.folder / "running").read_text() == "no folder"
    assert not list(store.folder.rglob(".key.*"))


def test_a_full_disk_of_the_program_is_no_failure_of_the_structure(config, tmp_path):
    """Six times, one more than a structure may be killed before it is given up."""
    (tmp_path / "full").touch()
    for _ in range(6):
        with pytest.raises(OSError, match="No space left on device"):
            run_labels(config, tmp_path / "out")
    store = LabelStore(config.store)
    assert store.keys() == []
    (tmp_path / "full").unlink()
    assert run_labels(config, tmp_path / "out")["accepted"] == 2
    assert store.paid_twice() == 0
