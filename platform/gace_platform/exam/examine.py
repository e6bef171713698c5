"""The frozen exam of a potential bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gace.errors import InputError
from gace_platform.exam.assess import Residuals, forces_mae_difference, residuals, set_errors
from gace_platform.exam.config import Criteria
from gace_platform.exam.physics import drift_check, rotation_check, strain_check
from gace_platform.exam.result import ExamResult
from gace_platform.report.record import Condition, Estimate, SetErrors


def examine(
    bundle: str | Path,
    structures: str | Path,
    criteria: Criteria | None = None,
    champion: str | Path | None = None,
) -> ExamResult:
    """Let a bundle sit the exam.

    Args:
        bundle: Folder of the potential examined.
        structures: File of the exam's labelled structures; they never enter training.
        criteria: What has to be shown.
        champion: Bundle of the present champion, when there is one.

    Returns:
        The verdict with every condition.

    Raises:
        InputError: no structures, a structure without label, or a bundle that cannot be read.
    """
    from gace.potential.bundle import bundle_hash, load
    from gace.structures.identity import dataset_hash
    from gace.structures.io import read_structures

    criteria = criteria or Criteria()
    begin = time.process_time()
    frames = read_structures(structures)
    if not frames:
        raise InputError(f"{structures} holds no structures to examine with")
    potential = load(bundle)
    found = residuals(potential, frames)
    reference = residuals(load(champion), frames) if champion is not None else None
    errors = set_errors(found, criteria.seed, criteria.bootstrap)
    champion_errors = None if reference is None else set_errors(reference, criteria.seed, criteria.bootstrap)
    conditions = [finite_check(found), *bounds(errors, criteria)]
    # a potential that is not finite would only raise in the checks below
    if conditions[0].met:
        if reference is not None and criteria.not_worse_than_champion:
            conditions.append(champion_check(found, reference, criteria))
        conditions += [rotation_check(potential, frames[0], criteria)]
        conditions += [strain_check(potential, frames[0], criteria)] if criteria.strains else []
        conditions += [drift_check(potential, frames[0], criteria)] if criteria.drift_steps else []
    return ExamResult(
        verdict="passed" if all(condition.met for condition in conditions) else "failed",
        conditions=conditions,
        errors=errors,
        champion_errors=champion_errors,
        content_hash=bundle_hash(bundle),
        champion_hash=None if champion is None else bundle_hash(champion),
        exam_hash=dataset_hash(frames),
        criteria=criteria,
        core_seconds=round(time.process_time() - begin, 3),
    )


def finite_check(found: Residuals) -> Condition:
    """Every predicted energy and force must be finite."""
    energy, forces = np.isfinite(found.energy).all(), np.isfinite(found.forces).all()
    met = bool(energy and forces)
    what = "finite" if met else "not finite"
    return Condition(name="finite", met=met, detail=f"energies and forces on the exam are {what}")


def bounds(errors: SetErrors, criteria: Criteria) -> Iterator[Condition]:
    """The bounds on the errors that were asked for."""
    asked = [
        ("force error", criteria.max_forces_mae, errors.forces_mae, "meV/Å"),
        ("energy error", criteria.max_energy_mae, errors.energy_mae, "meV/atom"),
    ]
    for name, bound, found, unit in asked:
        if bound is None:
            continue
        yield Condition(
            name=name,
            met=found is not None and found.value <= bound,
            value=None if found is None else found.value,
            threshold=bound,
            unit=unit,
            detail=f"mean absolute {name} {_shown(found)} {unit}, at most {bound:g} allowed",
        )


def champion_check(found: Residuals, reference: Residuals, criteria: Criteria) -> Condition:
    """The force error may exceed the champion's, but not by more than the interval of the difference.

    A single walk or structure gives no interval: the error itself must not exceed the champion's.
    """
    difference = forces_mae_difference(found, reference, criteria.seed, criteria.bootstrap)
    low = difference.value if difference.low is None else difference.low
    alone = " (no interval from a single walk or structure)" if difference.low is None else ""
    return Condition(
        name="not worse than the champion",
        met=low <= 0,
        value=difference.value,
        threshold=max(0.0, difference.value - low),
        unit="meV/Å",
        detail=f"force error minus the champion's: {_shown(difference)} meV/Å{alone}",
    )


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


__all__ = ["examine"]
