"""A disk that is full for a while: no member and no walker is left out for it."""

import errno
import sys
import tempfile

import pytest

from gace.errors import DiskFullError
from gace.files import write_atomic
from gace_platform.cluster import Job, Local, run_jobs
from gace_platform.cluster.jobs import refuse_losses
from gace_platform.cluster.supervise import run_supervised

pytestmark = pytest.mark.dask

FULL_ONCE = """
import pathlib, sys
here = pathlib.Path('once')
if not here.exists():
    here.touch()
    print('error: cannot write state.safetensors: No space left on device')
    sys.exit(2)
"""


def test_a_disk_that_has_space_again_costs_no_attempt(tmp_path):
    ended = run_supervised(
        [sys.executable, "-c", FULL_ONCE], str(tmp_path / "a"), str(tmp_path / "log"), retries=0
    )
    assert (ended.status, ended.attempts) == ("completed", 2)


def test_what_failed_on_a_full_disk_is_not_left_out(tmp_path, monkeypatch):
    """Nothing is said in its log, which lies on the same disk."""
    monkeypatch.setattr("gace_platform.cluster.supervise._has_room", lambda folder: False)
    job = Job("member", [sys.executable, "-c", "exit(1)"], str(tmp_path / "a"), str(tmp_path / "log"))
    found = run_jobs(Local(), [job])
    assert (found["member"].lost, found["member"].attempts) == (True, 1)
    with pytest.raises(DiskFullError, match="member could not be written; with space again"):
        refuse_losses(found)


def test_a_full_disk_is_not_wrong_input(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(
        DiskFullError, match=r"state\.json: Disk quota exceeded; .* the same command"
    ) as error:
        write_atomic(tmp_path / "state.json", "{}")
    assert error.value.exit_code == 1


def test_half_a_file_on_a_full_disk_is_none(tmp_path, monkeypatch):
    write_atomic(tmp_path / "state.json", "old")

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskFullError):
        write_atomic(tmp_path / "state.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert (tmp_path / "state.json").read_text() == "old"
