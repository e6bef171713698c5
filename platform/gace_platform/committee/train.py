"""Train a committee on the cluster and join its members to one potential with error bars."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gace.errors import GaceError, InputError, TrainingDivergedError
from gace.files import replacing, write_json_atomic
from gace.structures.identity import dataset_hash
from gace.training.outcome import read_result
from gace.training.prepare import Data, check_writable, read_data
from gace_platform.cluster.jobs import Job, Outcome, refuse_losses, run_jobs
from gace_platform.committee.bags import Bags, draw_bags
from gace_platform.committee.config import CommitteeConfig
from gace_platform.committee.members import Member, joint_job, last_metrics, plan_members

TELL_SECONDS = 30.0
LESS_MEMORY = "a smaller potential.preset, data.on_disk: true, or a larger machine"


class CommitteeError(GaceError, RuntimeError):
    """Too few members of a committee could be trained."""


def train_committee(
    config: CommitteeConfig, out: Path, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Train all members, join them, fit novelty and error bars; paths in ``config`` are absolute.

    Leaves ``out/potential`` (the bundle), ``out/members/<m>/metrics.jsonl`` and ``out/summary.json``,
    whose content is returned. Members found trained in the scratch folder are not trained again, and
    those found half trained go on.

    Raises:
        InputError: configuration, data or folder are wrong; found before anything is computed.
        TrainingDivergedError: too many members diverged.
        CommitteeError: too few members could be trained, for other reasons.
        OutOfMemoryError: a member found no memory, also alone and with its batches in parts.
        ClusterError: the cluster was lost and did not come back in time, or members were killed again and
            again.
    """
    begin = time.monotonic()
    data = read_data(config)
    check_writable(out)
    new = data.train[: data.n_new]
    bags = draw_bags(new, config.committee.members, config.committee.subsample, config.seed)
    members = plan_members(config, data, bags, config.scratch or out.absolute() / "scratch")
    for line in data.warnings:
        progress(f"warning: {line}")
    before = {member.number for member in members if member.done}
    outcomes = _run(config, members, out, progress)
    missing = {f"member {one.number}": outcomes[one.number] for one in members if not one.done}
    refuse_losses(missing, LESS_MEMORY)
    trained = [member for member in members if member.done]
    if len(trained) < config.committee.needed:
        raise _too_few(members, outcomes, config)
    start = time.process_time()
    torch.set_num_threads(1)  # one thread sums in one order, on any machine
    potential, errors = _join(config, data, bags, trained)
    from gace.potential.bundle import save_bundle

    save_bundle(potential, out / "potential")
    summary = _summary(members, outcomes, errors, before)
    joining = time.process_time() - start
    summary |= {
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "left_out_by": bags.by,
        "calibration": potential.uncertainty.calibration if potential.uncertainty else "none",
        "n_calibration": potential.uncertainty.n_calibration if potential.uncertainty else 0,
        "energy_scale": potential.uncertainty.energy_scale if potential.uncertainty else 1.0,
        "forces_scale": potential.uncertainty.forces_scale if potential.uncertainty else 1.0,
        "dataset_hash": potential.metadata["dataset_hash"],
        "core_seconds": summary["core_seconds"] + joining,
        "wall_seconds": time.monotonic() - begin,
        "bundle": str(out / "potential"),
        "warnings": data.warnings,
    }
    _bring_metrics(trained, out)
    write_json_atomic(out / "summary.json", summary)
    return summary


def _run(
    config: CommitteeConfig, members: Sequence[Member], out: Path, progress: Callable[[str], None]
) -> dict[int, Outcome]:
    """Train the members that are not trained yet; how each job ended, by member."""
    waiting = [member for member in members if not member.done]
    gpu = config.device.startswith("cuda")
    for member in waiting:
        member.lay_out()
    together = config.committee.together and len(waiting) > 1
    jobs = (
        [joint_job(waiting, config.name, gpu)]
        if together
        else [member.job(config.name, gpu) for member in waiting]
    )
    told = time.monotonic()

    def end(job: Job, outcome: Outcome) -> None:
        progress(f"{job.name}: {outcome.status} after {outcome.wall_seconds:.0f} s")

    def poll() -> None:
        nonlocal told
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            for line in last_metrics(waiting):
                progress(line)

    outcomes = run_jobs(config.cluster, jobs, end, poll)
    if together:  # each has its share of the work, and its own ending
        (whole,) = outcomes.values()
        share = whole._replace(core_seconds=whole.core_seconds / len(waiting))
        return {
            member.number: share._replace(status="completed", exit_code=0, lost=False)
            if member.done
            else share
            for member in waiting
        }
    return {member.number: outcomes[job.name] for member, job in zip(waiting, jobs, strict=True)}


def _join(
    config: CommitteeConfig, data: Data, bags: Bags, trained: Sequence[Member]
) -> tuple[Any, dict[str, Any]]:
    """One potential of all trained members, and its held-out errors."""
    from gace.potential.bundle import load
    from gace.potential.potential import Potential
    from gace_platform.committee.calibrate import calibrate

    singles = [load(member.run / "potential", device="cpu", dtype="float64") for member in trained]
    metadata: dict[str, Any] = {
        "dataset_hash": dataset_hash(data.train[: data.n_new]),
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "committee": {
            "members": len(trained),
            "subsample": config.committee.subsample,
            "left_out_by": bags.by,
            "seeds": [member.seed for member in trained],
            "errors": [single.metadata.get("errors") for single in singles],
        },
        "training": {
            "training": config.training.model_dump(mode="json"),
            "seed": config.seed,
            "dtype": config.dtype,
        },
        "software": singles[0].metadata.get("software"),
    }
    potential = Potential(
        [single.members[0] for single in singles],
        isolated_atom_energies=data.isolated_atoms,
        level_of_theory=config.data.level_of_theory,
        metadata=metadata,
    )
    kept = Bags(bags.in_bag[[member.number for member in trained]], bags.by)
    uncertainty, found = calibrate(potential, data.train[: data.n_new], kept, data.validation, config.seed)
    potential.uncertainty = uncertainty
    if found is None:
        return potential, {}
    energy = 1e3 * np.abs(found.energy_residual / np.sqrt(found.sizes))
    errors: dict[str, Any] = {"n_structures": len(found.sizes)}
    if np.isfinite(energy).any():
        errors["energy_per_atom_mae"] = float(np.nanmean(energy))
    if np.isfinite(found.forces_residual).any():
        errors["forces_mae"] = float(1e3 * np.nanmean(np.abs(found.forces_residual)))
    potential.metadata["committee"] = {**metadata["committee"], "held_out": errors}
    return potential, errors


def _summary(
    members: Sequence[Member], outcomes: dict[int, Outcome], held_out: dict[str, Any], before: set[int]
) -> dict[str, Any]:
    """What became of each member; errors in meV/atom and meV/Å."""
    entries: list[dict[str, Any]] = []
    for member in members:
        count = len(member.train) + len(member.replay)
        entry: dict[str, Any] = {"member": member.number, "seed": member.seed, "n_train": count}
        outcome = outcomes.get(member.number)
        if (found := read_result(member.run)) is not None:
            result = found[0].summary()
            entry |= {"status": "trained", "reused": member.number in before}
            entry |= {name: result[name] for name in ("ending", "epochs", "steps")}
            # the training counts what earlier, interrupted runs took; the supervisor counts imports
            spent = 0.0 if outcome is None else outcome.core_seconds
            entry |= {"core_seconds": max(result["core_seconds"], spent), "errors": result["metrics"]}
        else:
            entry |= {"status": "failed", "reason": _reason(member, outcome)}
            entry["core_seconds"] = 0.0 if outcome is None else outcome.core_seconds
        entries.append(entry)
    return {
        "n_members": sum(entry["status"] == "trained" for entry in entries),
        "members": entries,
        "held_out": held_out,
        "core_seconds": float(sum(entry["core_seconds"] for entry in entries)),
    }


def _bring_metrics(trained: Sequence[Member], out: Path) -> None:
    """Copy each member's learning curve beside the bundle."""
    for member in trained:
        target = out / "members" / str(member.number)
        for name in ("metrics.jsonl", "config.yaml"):
            with replacing(target / name) as temporary:
                shutil.copyfile(member.run / name, temporary)


def _reason(member: Member, outcome: Outcome | None) -> str:
    """Why a member is not trained, in one line."""
    kind, message = member.error()
    if message:
        return f"{kind}: {message}"
    lines = [] if outcome is None else outcome.error_tail.splitlines()
    code = None if outcome is None else outcome.exit_code
    return f"exit code {code}: {lines[-1] if lines else 'no message'}"


def _too_few(members: Sequence[Member], outcomes: dict[int, Outcome], config: CommitteeConfig) -> GaceError:
    """The error for a committee that cannot be made, by what most of its members died of."""
    failed = [member for member in members if not member.done]
    kinds = {member.error()[0] for member in failed}
    reason = _reason(failed[0], outcomes.get(failed[0].number))
    count = len(members) - len(failed)
    needed = config.committee.needed
    text = f"only {count} of {len(members)} members could be trained, {needed} are needed; {reason}"
    if kinds == {"TrainingDivergedError"}:
        return TrainingDivergedError(text)
    if kinds & {"InputError", "BundleError"}:
        return InputError(text)
    return CommitteeError(text)
