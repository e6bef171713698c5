"""Jobs that find no memory beside others run alone, and are never left out in silence."""

import sys

import pytest

from gace.errors import OutOfMemoryError
from gace_platform.cluster import Job, Local, run_jobs
from gace_platform.cluster.jobs import refuse_losses
from gace_platform.cluster.supervise import Ended, run_supervised
from gace_platform.committee import train as committee

pytestmark = pytest.mark.dask

BESIDE_OTHERS = """
import os, pathlib, time
mine, place = pathlib.Path.cwd().name, pathlib.Path('..')
(place / f'{mine}.here').touch()
time.sleep(1.5)
others = [one for one in place.glob('*.here') if one.stem != mine]
if mine == 'large' and others:
    (place / f'{mine}.here').unlink()
    END
time.sleep(1.5)
(place / f'{mine}.here').unlink()
"""
PYTHONS_OWN = "raise MemoryError"
KERNELS = "(place / 'oom').touch(); os.kill(os.getpid(), 9)"
KILLED = "os.kill(os.getpid(), 9)"


def job(folder, name, program):
    return Job(name, [sys.executable, "-c", program], str(folder / name), str(folder / f"{name}.log"))


def test_a_lack_of_memory_is_not_tried_again_beside_the_same_others(tmp_path):
    ended = run_supervised(
        [sys.executable, "-c", "raise MemoryError"], str(tmp_path / "a"), str(tmp_path / "log"), retries=3
    )
    assert (ended.status, ended.attempts, ended.starved, ended.lost) == ("failed", 1, True, False)


@pytest.mark.parametrize("end", [PYTHONS_OWN, KERNELS, KILLED], ids=["python", "kernel", "unexplained"])
def test_a_job_without_memory_runs_again_alone(tmp_path, monkeypatch, end):
    monkeypatch.setattr(
        "gace_platform.cluster.supervise.kernel_kills", lambda: int((tmp_path / "oom").exists())
    )
    program = BESIDE_OTHERS.replace("END", end)
    jobs = [job(tmp_path, name, program) for name in ("large", "small", "other")]
    found = run_jobs(Local(workers=2), jobs)
    assert list(found) == ["large", "small", "other"]
    assert [one.status for one in found.values()] == ["completed"] * 3
    assert found["large"].attempts >= 2


def test_a_job_the_kernel_kills_also_alone_is_asked_to_need_less(tmp_path, monkeypatch):
    kills = iter(range(100))
    monkeypatch.setattr("gace_platform.cluster.supervise.kernel_kills", lambda: next(kills))
    program = "import os\nif os.environ.get('GACE_SPARE_MEMORY') != '2': os.kill(os.getpid(), 9)"
    (found,) = run_jobs(Local(), [job(tmp_path, "large", program)]).values()
    assert (found.status, found.attempts) == ("completed", 4)


def test_a_job_without_memory_ends_with_the_key_to_change(tmp_path):
    (found,) = run_jobs(Local(), [job(tmp_path, "large", "raise MemoryError")]).values()
    assert found.starved
    with pytest.raises(
        OutOfMemoryError, match=r"large had no memory, also alone .*MemoryError; needs less: x"
    ):
        refuse_losses({"large": found}, "x")


def test_a_member_without_memory_is_not_left_out(tmp_path, copper_committee_config, monkeypatch):
    """Memory depends on what else runs, so forgiving it would make the committee depend on that."""
    plain = committee.run_jobs

    def starving(config, jobs, *more):
        found = plain(config, jobs[1:], *more)
        return {jobs[0].name: Ended("failed", 1, 2, 1.0, 1.0, "MemoryError", starved=True), **found}

    config = copper_committee_config.model_copy(update={"scratch": tmp_path / "scratch"})
    with monkeypatch.context() as patched:
        patched.setattr(committee, "run_jobs", starving)
        with pytest.raises(OutOfMemoryError, match=r"member 0 .*potential\.preset"):
            committee.train_committee(config, tmp_path / "out")
    summary = committee.train_committee(config, tmp_path / "out")
    assert [one["reused"] for one in summary["members"]] == [False, True, True]
