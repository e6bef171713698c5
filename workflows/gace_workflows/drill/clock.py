"""A campaign on a machine whose clock jumps by hours and years, forth and back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gace.files import write_atomic
from gace_workflows.drill.rehearsal import start, summary_of, write_rehearsal
from gace_workflows.drill.victims import end_all

JUMPS = (3600.0, -3600.0, 400 * 86400.0, -60.0)
"""By how much the clock is wrong, one after another, s; the last of them lasts."""

JUMP_EVERY = 15.0
"""Seconds between two jumps."""


def clock_jump(campaign: Path, scratch: Path, timeout: float = 1800.0) -> bool:
    """Whether a campaign on a jumping clock ends with the data of the one in peace and pays nothing twice."""
    peaceful = summary_of(campaign)
    file = write_rehearsal(scratch / "jumping", seed_of(campaign))
    offset = scratch / "offset"
    write_atomic(offset, "0")
    shim = Path(__file__).with_name("shifted_clock")
    paths = [str(shim), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "GACE_DRILL_CLOCK": str(offset)}
    folder = scratch / "jumping" / "campaign"
    with (scratch / "output").open("wb") as output:
        process = start(output, "run", file, "--dir", folder, environment=environment)
        try:
            for seconds in JUMPS:
                if _ended(process, JUMP_EVERY):
                    return False  # before it had met every jump
                write_atomic(offset, str(seconds))
            if not _ended(process, timeout):
                return False
        finally:
            end_all(folder)
    if process.returncode:
        return False
    found = summary_of(folder)
    return found["dataset_hash"] == peaceful["dataset_hash"] and found["labels_paid_twice"] == 0


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def seed_of(campaign: Path) -> int:
    """Seed of the campaign in a folder."""
    from gace_workflows.campaign.file import load_campaign

    return load_campaign(campaign / "campaign.yaml").seed


__all__ = ["clock_jump"]
