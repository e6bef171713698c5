"""One round of the drill: a campaign whose processes are killed until it has ended all the same."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gace.randomness import generator
from gace_workflows.drill.rehearsal import start, summary_of, write_rehearsal
from gace_workflows.drill.victims import KINDS, end_all, kill, victims

Tell = Callable[[str], None]
Record = Callable[[dict[str, Any]], None]

EVERYTHING = "everything"
"""All processes at once, as a machine does that loses its power."""

NEVER = {"teacher": "DFT program", "quantum-espresso": "program"}
"""The kind of process that a rehearsal with this engine does not have."""


def targets_of(engine: str) -> tuple[str, ...]:
    """What a kill may be aimed at in a rehearsal with this engine."""
    return (*(name for name, _ in KINDS if name != NEVER[engine]), EVERYTHING)


TARGETS = targets_of("teacher")

LOOK_SECONDS = 0.25
PATIENCE = 8.0
"""How long a kill waits for a process of its kind; then it strikes another that is there, s."""

SURPLUS = 3.0
"""A kind that was hit this much more often than the average is not struck in another's place: else a command
that takes long to start would be killed again and again before it has started anything."""

HESITATION = 1.0
"""Longest time between the sight of a process and the blow, so that it is met at any point of its life, s."""

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


class Hunter:
    """Aims kills at one campaign: at every kind of process alike, at random points of its life."""

    def __init__(
        self,
        campaign: Path,
        random: np.random.Generator,
        before: Counter[str],
        targets: tuple[str, ...] = TARGETS,
    ) -> None:
        self.campaign = campaign
        self.targets = targets
        self.random = random
        self.before = before
        """Kills of earlier rounds by kind."""
        self.kills: Counter[str] = Counter()

    def hits(self, kind: str) -> int:
        """How often a kind was hit so far, in all rounds."""
        return self.before[kind] + self.kills[kind]

    def aim(self, among: Sequence[str] | None = None) -> str:
        """The kind to kill next, drawn in favour of those that were hit least."""
        kinds = self.targets if among is None else among
        least = min(map(self.hits, kinds))
        weight = np.array([1.0 / (1 + self.hits(kind) - least) ** 2 for kind in kinds])
        return kinds[int(self.random.choice(len(kinds), p=weight / weight.sum()))]

    def rare(self, seen: Iterable[str]) -> str | None:
        """The kind in sight that was hit least, if that is less than half as often as the average.

        Some live for seconds only, and would hardly ever be met by a kill that is aimed at them by chance.
        """
        average = sum(map(self.hits, self.targets)) / len(self.targets)
        least = min(sorted(seen), key=self.hits, default=None)
        return least if least is not None and self.hits(least) < average / 2 else None

    def substitutes(self) -> list[str]:
        """Kinds that are there and were not hit far more often than the others."""
        most = sum(map(self.hits, self.targets)) / len(self.targets) + SURPLUS
        return [kind for kind in sorted(victims(self.campaign)) if self.hits(kind) < most]

    def strike(self, ended: Callable[[float], bool]) -> dict[str, Any] | None:
        """Wait for a process of the kind aimed at and kill it; else another's; None if nothing was killed.

        Args:
            ended: waits for the campaign's command so long and tells whether it has ended.
        """
        kind = self.aim()
        deadline = time.monotonic() + PATIENCE
        hesitation = float(self.random.uniform(0, HESITATION))
        while time.monotonic() < deadline:
            if ended(LOOK_SECONDS):
                return None
            seen = victims(self.campaign)
            chosen = kind if kind == EVERYTHING or kind in seen else self.rare(seen)
            if chosen is not None:
                if ended(hesitation):
                    return None
                if (blow := self._kill(chosen)) is not None:
                    return blow
        found = self.substitutes()
        return self._kill(self.aim(found)) if found else None

    def _kill(self, kind: str) -> dict[str, Any] | None:
        """Kill one process of a kind; the kill counts when it is seen to be dead."""
        if kind == EVERYTHING:
            dead = end_all(self.campaign)
            blow = {"kind": kind, "processes": dead} if dead else None
        else:
            found = sorted(victims(self.campaign).get(kind, []), key=lambda one: one.pid)
            blow = kill(found[int(self.random.integers(len(found)))]) if found else None
            blow = None if blow is None else {"kind": kind, **blow}
        if blow is not None:
            self.kills[kind] += 1
        return blow


def kill_through(
    folder: Path,
    seed: int,
    number: int,
    most: int,
    pause: float,
    timeout: float,
    tell: Tell,
    record: Record = lambda blow: None,
    before: Counter[str] | None = None,
    engine: str = "teacher",
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
        record: takes each kill: kind, process number, command line.
        before: kills of earlier rounds by kind; the kinds hit least are aimed at.
        engine: that labels.
    """
    campaign = folder / "campaign"
    file = write_rehearsal(folder, seed, engine)
    random = generator(seed, "drill", number)
    hunter = Hunter(campaign, random, before or Counter(), targets_of(engine))
    deadline = time.monotonic() + timeout
    resumes = 0
    with (folder / "output").open("ab") as output:
        process = start(output, "run", file, "--dir", campaign)
        try:
            while time.monotonic() < deadline:
                hunting = hunter.kills.total() < most
                if _ended(process, float(random.exponential(pause)) if hunting else 2.0):
                    if (campaign / "summary.json").is_file():
                        return _result(campaign, hunter.kills)
                    if process.returncode and process.returncode > 0:
                        resumes += 1
                        if resumes > RESUMES:
                            return Round(hunter.kills, None, 0, f"it failed: {_last_line(folder)}")
                    process = _again(output, file, campaign)
                    continue
                if hunting and (blow := hunter.strike(lambda wait: _ended(process, wait))) is not None:  # noqa: B023
                    record({"round": number, **blow})
                    tell(f"round {number}: kill {hunter.kills.total()}, {blow['kind']}")
            return Round(hunter.kills, None, 0, f"it did not end within {timeout:g} s")
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


def _last_line(folder: Path) -> str:
    lines = (folder / "output").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
