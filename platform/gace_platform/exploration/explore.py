"""One exploration: assign starts, let groups of walkers run on the cluster, gather what they found."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms

from gace.engines.named import arguments_by_content
from gace.errors import ExplorationError, InputError
from gace.files import read_json, write_json_atomic
from gace.structures.identity import structure_hash
from gace.structures.io import read_structures, write_structures
from gace_platform.cluster.jobs import Job, Outcome, refuse_losses, run_jobs
from gace_platform.exploration.config import ExploreConfig
from gace_platform.exploration.drive import check_potential, check_teacher
from gace_platform.exploration.geometry import shortest_distance
from gace_platform.exploration.starts import assign, prepare
from gace_platform.exploration.walker import FRAMES, LOG, RESULT, SPEC, STARTS

TELL_SECONDS = 15.0
ALGORITHM = 1
"""Part of every group's hash: raised when the same settings would give another walk."""


class Group(NamedTuple):
    """Walkers that one subprocess moves together, in a folder named by what decides their walks."""

    name: str
    folder: Path
    spec: dict[str, Any]
    starts: list[Atoms]

    @property
    def done(self) -> bool:
        """Whether the walk has been walked, now or by an earlier call."""
        return (self.folder / RESULT).exists()


def explore(
    config: ExploreConfig, out: Path, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Run an exploration; paths in ``config`` are absolute.

    Leaves ``out/candidates.xyz`` (frames in the order of the walkers) and ``out/summary.json``, whose
    content is returned. Walks found finished in the scratch folder are not walked again.

    Raises:
        InputError: start, potential, teacher or cluster are wrong; found before anything runs.
        ExplorationError: no walker left a usable frame.
        ClusterError: the cluster was lost and did not come back in time, or walkers were killed again and
            again.
    """
    begin = time.monotonic()
    groups = plan(config, out)
    lay_out(groups)
    open_groups = [group for group in groups if not group.done]
    jobs = [_job(group, config) for group in open_groups]

    def tell(job: Job, outcome: Outcome) -> None:
        progress(f"{job.name}: {outcome.status} after {outcome.wall_seconds:.0f} s")

    told = time.monotonic()

    def poll() -> None:
        nonlocal told
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            for line in last_lines(open_groups):
                progress(line)

    outcomes = run_jobs(config.cluster, jobs, tell, poll)
    missing = {group.name: outcomes[group.name] for group in open_groups if not group.done}
    refuse_losses(missing, "exploration.together: 1, a smaller supercell, or a larger machine")
    summary = gather(groups, outcomes, out)
    summary["wall_seconds"] = time.monotonic() - begin
    write_json_atomic(out / "summary.json", summary)
    return summary


def plan(config: ExploreConfig, out: Path) -> list[Group]:
    """The groups of walkers, fully decided; nothing is written.

    Raises:
        InputError: as :func:`explore`.
    """
    starts = read_structures(config.start)
    teacher = None
    if config.teacher is not None:
        drive: dict[str, Any] = {"teacher": check_teacher(config.teacher, starts)}
        teacher = config.teacher.model_dump()
    else:
        drive = {"potential": check_potential(str(config.potential), starts), "drive": config.drive}
        drive |= {"dtype": config.dtype, "device": config.device.partition(":")[0]}
        # sums over a batch round differently in another batch
        drive["together"] = config.together
    schedule = config.schedule().model_dump()
    prepared: list[tuple[int, Atoms, str, str]] = []
    for number, start in enumerate(assign(starts, config.walkers, config.seed)):
        atoms = prepare(start, number, config.seed, config.supercell, config.rattle, config.strain)
        key = _hash(ALGORITHM, drive, schedule, config.seed, number, structure_hash(atoms))
        parent = str(start.info.get("structure_id") or structure_hash(start)[:16])
        prepared.append((number, atoms, f"{config.name}-w{number}-{key[:8]}", parent))
    _refuse_crushed([atoms for _, atoms, _, _ in prepared], config)
    scratch = config.scratch or out.absolute() / "scratch"
    groups = []
    for first in range(0, len(prepared), config.together):
        members = prepared[first : first + config.together]
        walkers = [
            {"number": number, "name": name, "parent": parent, "teacher_labels": teacher is not None}
            for number, _, name, parent in members
        ]
        own = {"schedule": schedule, "seed": config.seed, "walkers": walkers, "teacher": teacher}
        named = {**own, "teacher": _by_content(teacher)}
        digest = _hash(ALGORITHM, drive, named, [structure_hash(atoms) for _, atoms, _, _ in members])
        spec = {
            **own,
            "format_version": 1,
            "potential": config.potential,
            **{"drive": config.drive, "dtype": config.dtype, "device": config.device},
        }
        label = f"{members[0][0]}" if len(members) == 1 else f"{members[0][0]}-{members[-1][0]}"
        starts_of = [atoms for _, atoms, _, _ in members]
        groups.append(Group(f"{config.name} w{label}", scratch / f"walk-{digest[:24]}", spec, starts_of))
    return groups


def lay_out(groups: Sequence[Group]) -> None:
    """Write each open group's folder.

    Raises:
        InputError: the scratch folder cannot be written.
    """
    for group in groups:
        if not group.done:
            write_structures(group.folder / STARTS, group.starts)
            write_json_atomic(group.folder / SPEC, group.spec)


def gather(groups: Sequence[Group], outcomes: dict[str, Outcome], out: Path) -> dict[str, Any]:
    """Write ``candidates.xyz`` and sum up; a group whose subprocess failed counts as walks that failed.

    Raises:
        ExplorationError: there is no frame at all.
    """
    frames: list[Atoms] = []
    walkers: list[dict[str, Any]] = []
    core_seconds = 0.0
    for group in groups:
        outcome = outcomes.get(group.name)
        if not group.done:
            detail = "" if outcome is None else outcome.error_tail.splitlines()[-1:]
            reason = f"subprocess ended with {outcome and outcome.exit_code}: {''.join(detail)}"
            walkers += [
                {
                    "walker": one["number"],
                    "name": one["name"],
                    "ending": "failed",
                    "detail": reason,
                    "frames": 0,
                }
                for one in group.spec["walkers"]
            ]
            core_seconds += 0.0 if outcome is None else outcome.core_seconds
            continue
        result = read_json(group.folder / RESULT)
        walkers += result["walkers"]
        core_seconds += result["core_seconds"] if outcome is None else outcome.core_seconds
        if (group.folder / FRAMES).stat().st_size:
            frames += read_structures(group.folder / FRAMES)
    if not frames:
        reasons = "; ".join(
            f"walker {one['walker']}: {one['ending']} ({one['detail']})" for one in walkers[:3]
        )
        raise ExplorationError(f"no walker left a usable structure: {reasons}")
    write_structures(out / "candidates.xyz", frames)
    return {
        "n_candidates": len(frames),
        "endings": dict(sorted(Counter(str(one["ending"]) for one in walkers).items())),
        "walkers": walkers,
        "walked_before": sum(group.name not in outcomes for group in groups),
        "core_seconds": core_seconds,
        "candidates": str(out / "candidates.xyz"),
    }


def last_lines(groups: Sequence[Group]) -> list[str]:
    """One line on each group under way: how far it has come."""
    lines = []
    for group in groups:
        try:
            last = (group.folder / LOG).read_text(encoding="utf-8").splitlines()[-1]
        except (OSError, IndexError):
            continue
        if not group.done:
            lines.append(f"{group.name}: {last}")
    return lines


def _job(group: Group, config: ExploreConfig) -> Job:
    command = [sys.executable, "-m", "gace_platform.exploration.walker", "."]
    return Job(
        group.name,
        command,
        str(group.folder),
        str(group.folder / LOG),
        gpu=config.teacher is None and config.device.startswith("cuda"),
    )


def _refuse_crushed(starts: Sequence[Atoms], config: ExploreConfig) -> None:
    """Refuse starts that would end at once."""
    if all(shortest_distance(atoms) < config.distance_min for atoms in starts):
        raise InputError(
            "in every start structure two atoms are closer than distance_min = "
            f"{config.distance_min:g} of their covalent distance: "
            "wrong geometry or unit, or too large a rattle or strain"
        )


def _by_content(teacher: dict[str, Any] | None) -> dict[str, Any] | None:
    """A teacher as walks are named by it: where its bundle lies does not matter."""
    if teacher is None:
        return None
    return {**teacher, "kwargs": arguments_by_content(teacher["calculator"], teacher["kwargs"])}


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
