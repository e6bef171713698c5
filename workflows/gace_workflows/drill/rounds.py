"""One round of the drill: a campaign whose processes are killed until it has ended all the same."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from gace.randomness import generator
from gace_workflows.drill.rehearsal import start, summary_of, write_rehearsal
from gace_workflows.drill.victims import end_all, victims

Tell = Callable[[str], None]

EVERYTHING = "everything"
"""All processes at once, as a machine does that loses its power."""

EVERYTHING_SHARE = 0.05
"""How often it is everything."""

RESUMES = 20
"""How often a campaign that ended with an error by itself is resumed before it counts as failed."""


class Round(NamedTuple):
    """How a round went."""

    kills: Counter[str]
    """By kind of process."""
    dataset_hash: str | None
    """None: the campaign did not end."""
    paid_twice: int
    detail: str
    """Why it did not end; empty if it did."""


def kill_through(
    folder: Path, seed: int, number: int, most: int, pause: float, timeout: float, tell: Tell
) -> Round:
    """Carry a rehearsal to its end while its processes are killed.

    Args:
        folder: of this round, empty.
        seed: of the campaign and of the kills.
        number: of this round.
        most: kills after which the rest runs in peace.
        pause: mean time between two kills, s.
        timeout: time after which the round has failed, s.
        tell: takes each line of progress.
    """
    campaign = folder / "campaign"
    file = write_rehearsal(folder, seed)
    kills: Counter[str] = Counter()
    random = generator(seed, "drill", number)
    deadline = time.monotonic() + timeout
    resumes = 0
    with (folder / "output").open("ab") as output:
        process = start(output, "run", file, "--dir", campaign)
        try:
            while time.monotonic() < deadline:
                wait = float(random.exponential(pause)) if kills.total() < most else 5.0
                if _ended(process, wait):
                    if (campaign / "summary.json").is_file():
                        return _result(campaign, kills)
                    if process.returncode and process.returncode > 0:
                        resumes += 1
                        if resumes > RESUMES:
                            return Round(kills, None, 0, f"it failed: {_last_line(folder)}")
                    process = _again(output, file, campaign)
                    continue
                if kills.total() < most:
                    kind = _kill_one(campaign, random.random(3).tolist())
                    if kind is not None:
                        kills[kind] += 1
                        tell(f"round {number}: kill {kills.total()}, {kind}")
            return Round(kills, None, 0, f"it did not end within {timeout:g} s")
        finally:
            end_all(campaign)
            if process.poll() is None:
                process.kill()
            process.wait(30)


def _again(output: IO[bytes], file: Path, campaign: Path) -> subprocess.Popen[bytes]:
    """Go on with the campaign, or begin it if it was killed before it had its folder."""
    if (campaign / "campaign.yaml").is_file():
        return start(output, "resume", campaign)
    return start(output, "run", file, "--dir", campaign)


def _result(campaign: Path, kills: Counter[str]) -> Round:
    summary = summary_of(campaign)
    return Round(kills, summary["dataset_hash"], int(summary["labels_paid_twice"]), "")


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_one(campaign: Path, draws: list[float]) -> str | None:
    """SIGKILL to a process drawn at random, the kind first; returns the kind."""
    import psutil

    if draws[0] < EVERYTHING_SHARE:
        end_all(campaign)
        return EVERYTHING
    found = victims(campaign)
    if not found:
        return None
    kind = sorted(found)[int(draws[1] * len(found))]
    chosen = sorted(found[kind], key=lambda one: one.pid)
    try:
        chosen[int(draws[2] * len(chosen))].kill()
    except psutil.NoSuchProcess:
        return None
    return kind


def _last_line(folder: Path) -> str:
    lines = (folder / "output").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
