"""A campaign file that is edited between two commands is not ignored in silence."""

from pathlib import Path

import pytest

from gace.errors import InputError
from gace_workflows.campaign.changes import changed_keys, refuse_changes
from gace_workflows.campaign.file import dump_campaign, load_campaign


def dumped(file):
    return dump_campaign(load_campaign(file))


def test_edited_keys_are_named(tmp_path, write_campaign):
    before = dumped(write_campaign(tmp_path))
    now = dumped(write_campaign(tmp_path, training={"max_epochs": 12}, committee={"members": 3}))
    with pytest.raises(
        InputError, match=r"campaign.yaml was changed .*committee.members, training.max_epochs"
    ):
        refuse_changes(before, now, Path("campaign.yaml"))
    refuse_changes(before, before, Path("campaign.yaml"))


def test_workers_may_be_changed_at_any_time(tmp_path, write_campaign):
    before = dumped(write_campaign(tmp_path))
    assert changed_keys(before, dumped(write_campaign(tmp_path, cluster={"workers": 1}))) == []


def test_a_linked_folder_is_no_change(tmp_path, write_campaign):
    before, linked = dumped(write_campaign(tmp_path / "one")), dumped(write_campaign(tmp_path / "two"))
    assert before != linked
    assert changed_keys(before, linked) == []
