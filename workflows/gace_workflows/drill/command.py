"""``gace drill``: does this installation keep its promises when everything is killed?"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from gace.cli import print_json


@click.command()
@click.option(
    "--kills", default=20, show_default=True, type=click.IntRange(min=1), help="How many processes."
)
@click.option(
    "--per-round", default=25, show_default=True, type=click.IntRange(min=1), help="Kills in a campaign."
)
@click.option("--pause", default=3.0, show_default=True, help="Mean seconds between two kills.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds a campaign may take.")
@click.option("--seed", default=3, show_default=True, help="Of the campaign and of the kills.")
@click.option(
    "--engine",
    default="teacher",
    show_default=True,
    type=click.Choice(["teacher", "quantum-espresso"]),
    help="What labels the rehearsal: a teacher in milliseconds, or pw.x, run by AiiDA, in seconds.",
)
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Where to work; default: a temporary folder."
)
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append every kill to this file, as JSON.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def command(
    kills: int,
    per_round: int,
    pause: float,
    timeout: float,
    seed: int,
    engine: str,
    folder: Path | None,
    record: Path | None,
    as_json: bool,
) -> None:
    """Kill processes of rehearsal campaigns at random, resume, and compare with an undisturbed one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gace-drill-", dir=folder, ignore_cleanup_errors=True) as scratch:
        found = drill(Path(scratch).resolve(), kills, per_round, pause, timeout, seed, record, engine)
    if as_json:
        print_json(found)
    else:
        click.echo("{kills} kills in {rounds} campaigns, {wall_seconds:.0f} s".format(**found))
        for kind, count in found["by_kind"].items():
            click.echo(f"  {kind:12s} {count:4d}")
        click.echo(f"same data every time: {'yes' if found['hash_equal'] else 'NO'}")
        click.echo(f"labels paid twice: {found['labels_paid_twice']}")
        for name, met in found["faults"].items():
            click.echo(f"{name}: {'met' if met else 'NOT MET'}")
        for failure in found["failures"]:
            click.echo(failure)
    if not (found["hash_equal"] and not found["labels_paid_twice"] and all(found["faults"].values())):
        sys.exit(1)


def drill(
    folder: Path,
    kills: int,
    per_round: int,
    pause: float,
    timeout: float,
    seed: int,
    record: Path | None = None,
    engine: str = "teacher",
) -> dict[str, Any]:
    """Carry out the drill; returns what it found.

    Returns:
        ``kills`` (done), ``by_kind`` (0 for a kind that was never met), ``rounds``, ``hash_equal`` (of every
        round), ``labels_paid_twice``, ``faults`` (name: met as it should), ``failures`` (rounds that did not
        end and faults that were not met, why), ``wall_seconds``.

    Raises:
        DrillError: the undisturbed campaign failed.
    """
    from gace_workflows.drill.faults import FAULTS
    from gace_workflows.drill.rehearsal import DrillError, undisturbed
    from gace_workflows.drill.rounds import kill_through, targets_of

    began = time.monotonic()

    def tell(line: str) -> None:
        click.echo(line, err=True)

    def note(blow: dict[str, Any]) -> None:
        if record is not None:
            with record.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"seconds": round(time.monotonic() - began, 1), **blow}) + "\n")

    tell("a rehearsal in peace")
    peaceful = undisturbed(folder / "peace", seed, timeout, engine)
    done: Counter[str] = Counter()
    hashes, failures, paid_twice, number = [], [], 0, 0
    while done.total() < kills:
        number += 1
        most = min(per_round, kills - done.total())
        outcome = kill_through(
            folder / f"round-{number}", seed, number, most, pause, timeout, tell, note, done.copy(), engine
        )
        done += outcome.kills
        paid_twice += outcome.paid_twice
        hashes.append(outcome.dataset_hash)
        if outcome.dataset_hash is None:
            failures.append(f"round {number}: {outcome.detail}")
            break
        same = outcome.dataset_hash == peaceful["dataset_hash"]
        tell(f"round {number}: {outcome.kills.total()} kills, {'the same data' if same else 'OTHER DATA'}")
    faults = {}
    # they have to do with the label store and the commands, not with who labels
    for name, meet in FAULTS.items() if engine == "teacher" else ():
        scratch = folder / name.replace(" ", "-")
        scratch.mkdir()
        try:
            faults[name] = meet(folder / "peace" / "campaign", scratch)
        except DrillError as error:
            faults[name] = False
            failures.append(f"{name}: {error}")
        tell(f"{name}: {'met' if faults[name] else 'NOT MET'}")
    return {
        "kills": done.total(),
        "by_kind": {kind: done[kind] for kind in targets_of(engine)},
        "rounds": number,
        "hash_equal": bool(hashes) and all(one == peaceful["dataset_hash"] for one in hashes),
        "labels_paid_twice": paid_twice,
        "faults": faults,
        "failures": failures,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
