"""One level of theory in one data set: labels whose settings differ are never trained on together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.files import read_json
from gace_platform.labelling.engines.base import make_engine
from gace_platform.ledger.keys import settings_hash
from gace_workflows.campaign.file import Campaign

if TYPE_CHECKING:
    from ase import Atoms


def settings_of(structures: Iterable[Atoms]) -> set[str]:
    """The settings hashes in the label keys of structures."""
    return {
        str(atoms.info["label_key"]).partition("-")[2] for atoms in structures if "label_key" in atoms.info
    }


def change_of_level(labelled: Iterable[Atoms], campaign: Campaign, store: Path) -> str | None:
    """What has changed since these labels were computed, in a few words; None: nothing that moves a label.

    A program that was exchanged under a campaign shows here, before anything is paid with it.

    Args:
        labelled: the labels so far.
        campaign: its reference section says what is computed now.
        store: folder of the label store, which knows the settings behind each hash.
    """
    now = make_engine(campaign.reference).settings()
    others = sorted(settings_of(labelled) - {settings_hash(now)})
    if not others:
        return None
    file = store / "settings" / f"{others[0]}.json"
    if not file.is_file():
        return f"settings {others[0]}"
    before: dict[str, Any] = read_json(file)
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys[:3])
