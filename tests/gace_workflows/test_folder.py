"""The campaign's folder: layout, frozen inputs, one keeper at a time."""

import resource
import subprocess
import sys

import pytest

from gace.errors import InputError
from gace_workflows.campaign.file import load_campaign
from gace_workflows.campaign.folder import CampaignFolder
from gace_workflows.campaign.prepare import prepare


@pytest.fixture
def prepared(tmp_path, write_campaign):
    """A prepared campaign folder, and the file it was made from."""
    file = write_campaign(tmp_path / "input")
    folder = CampaignFolder.at(tmp_path / "there")
    prepare(folder, load_campaign(file))
    return folder, file


def test_frozen_campaign_needs_none_of_the_originals(prepared):
    folder, file = prepared
    before = load_campaign(file)
    for original in file.parent.iterdir():
        original.unlink()
    after = load_campaign(folder.file)
    assert after.with_files(before.system.files) == before
    assert after.system.files[0].is_file()


def test_prepared_folder_is_not_prepared_again(prepared):
    folder, file = prepared
    with pytest.raises(InputError, match="holds a campaign already: gace campaign resume"):
        prepare(folder, load_campaign(file))


def test_folder_of_something_else_is_left_alone(tmp_path, write_campaign):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty"):
        prepare(CampaignFolder.at(tmp_path / "there"), load_campaign(write_campaign(tmp_path / "input")))


def test_two_keepers_are_refused(prepared):
    folder, _ = prepared
    with folder.kept(), pytest.raises(InputError, match="looked after by process"), folder.kept():
        pass


def test_lock_ends_with_its_holder(prepared):
    folder, _ = prepared
    with folder.kept():
        assert folder.is_kept
    assert not folder.is_kept


def test_wall_time_adds_up_over_sessions(prepared):
    folder, _ = prepared
    folder.update_state(sessions=[{"begin": 0.0, "end": 10.0}, {"begin": 100.0, "end": 105.0}])
    assert folder.wall_seconds() == 15.0


def test_damaged_state_counts_as_none(prepared):
    folder, _ = prepared
    (folder.path / "state.json").write_text("{half")
    assert folder.read_state() == {}


def test_resuming_on_a_full_disk_ends_with_one_line(prepared):
    folder, _ = prepared
    # the limit on the size of a file stands for the space that is left
    done = subprocess.run(
        [sys.executable, "-m", "gace.cli", "campaign", "resume", str(folder.path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write")
    assert f"gace campaign resume {folder.path} goes on" in done.stderr
    assert done.stderr.count("\n") == 1
