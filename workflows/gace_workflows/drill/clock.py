"""A campaign on a machine whose clock jumps by hours and years, forth and back."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from gace.files import write_atomic
from gace_workflows.drill.rehearsal import DrillError, last_line, start, summary_of, write_rehearsal
from gace_workflows.drill.victims import end_all

JUMPS = (3600.0, -3600.0, 400 * 86400.0, -60.0)
"""By how much the clock is wrong, one after another, s; the last of them lasts."""

STEPS = (1, 3, 5, 7)
"""After how many finished steps of the campaign, of nine, each jump comes: however fast the machine is."""


def clock_jump(campaign: Path, scratch: Path, timeout: float = 1800.0) -> bool:
    """Whether a campaign on a jumping clock ends with the data of the one in peace and pays nothing twice.

    Raises:
        DrillError: it failed, did not end in ``timeout`` seconds or ended before the clock had jumped.
    """
    peaceful = summary_of(campaign)
    file = write_rehearsal(scratch / "jumping", seed_of(campaign))
    offset = scratch / "offset"
    write_atomic(offset, "0")
    shim = Path(__file__).with_name("shifted_clock")
    paths = [str(shim), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "GACE_DRILL_CLOCK": str(offset)}
    folder, told = scratch / "jumping" / "campaign", scratch / "output"
    limit = time.monotonic() + timeout
    with told.open("wb") as output:
        process = start(output, "run", file, "--dir", folder, environment=environment)
        try:
            for steps, seconds in zip(STEPS, JUMPS, strict=True):
                while steps_done(told) < steps:
                    _check(process, limit, told)
                    time.sleep(0.2)
                write_atomic(offset, str(seconds))
            process.wait(max(limit - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise DrillError(f"the campaign on a jumping clock did not end: {last_line(told)}") from None
        finally:
            end_all(folder)
    if process.returncode:
        raise DrillError(f"the campaign on a jumping clock failed: {last_line(told)}")
    found = summary_of(folder)
    return found["dataset_hash"] == peaceful["dataset_hash"] and found["labels_paid_twice"] == 0


def steps_done(output: Path) -> int:
    """How many steps a campaign has told to be done."""
    return output.read_text(encoding="utf-8", errors="replace").count("✓")


def _check(process: subprocess.Popen[bytes], limit: float, output: Path) -> None:
    """Raise ``DrillError`` if the campaign has ended, ``TimeoutExpired`` if its time is up."""
    if process.poll() is not None:
        raise DrillError(f"the campaign ended before its clock had jumped: {last_line(output)}")
    if time.monotonic() > limit:
        raise subprocess.TimeoutExpired("gace campaign run", limit)


def seed_of(campaign: Path) -> int:
    """Seed of the campaign in a folder."""
    from gace_workflows.campaign.file import load_campaign

    return load_campaign(campaign / "campaign.yaml").seed


__all__ = ["clock_jump"]
