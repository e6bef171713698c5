"""Lay out a campaign's folder: the frozen campaign file and copies of all it names."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from gace.errors import DiskFullError, InputError
from gace.files import write_atomic
from gace_workflows.campaign.file import Campaign, dump_campaign
from gace_workflows.campaign.folder import CampaignFolder


def prepare(folder: CampaignFolder, campaign: Campaign) -> None:
    """Make ``folder`` a campaign's: inputs first, the campaign file last, so that its presence means "ready".

    Raises:
        InputError: the folder holds a campaign or something else already, or cannot be written.
    """
    if folder.file.exists():
        raise InputError(
            f"{folder.path} holds a campaign already: "
            f"gace campaign resume {folder.path}, or choose another --dir"
        )
    # a keeper that was killed before it had frozen the file may have left these
    own = {folder.inputs.name, "keeper.lock", "keeper.log", "state.json"}
    if folder.path.is_dir() and any(entry.name not in own for entry in folder.path.iterdir()):
        raise InputError(f"{folder.path} is not empty; choose another --dir")
    try:
        folder.inputs.mkdir(parents=True, exist_ok=True)
        files = [_copy(file, folder.inputs, number) for number, file in enumerate(campaign.system.files)]
        frozen = campaign.with_files([file.relative_to(folder.path) for file in files])
        content = dump_campaign(frozen)
        header = "# Frozen copy of the campaign file; gace campaign resume reads this one.\n"
        write_atomic(folder.file, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    except DiskFullError:
        raise
    except OSError as error:
        raise InputError(f"cannot write in {folder.path}: {error.strerror or error}") from None


def _copy(file: Path, inputs: Path, number: int) -> Path:
    """Copy one input; two files of one name stay apart."""
    target = inputs / file.name
    if number and target.exists():
        target = inputs / f"{number}-{file.name}"
    shutil.copyfile(file, target)
    return target


__all__ = ["prepare"]
