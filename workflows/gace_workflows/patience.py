"""Bounded retry of what failed for a passing reason: a killed process, a lost cluster, a locked store."""

from __future__ import annotations

from collections.abc import Sequence

from aiida.engine import ExitCode
from aiida.orm import ProcessNode

from aiida_gace.calculations.base import GaceCalculation

MAX_TRIES = 6
"""Tries of one step, the first included, within one work chain."""

SCHEDULER_LOST = frozenset({100, 110, 120, 140})
"""Exit codes by which AiiDA itself says that a job was lost: no output, memory, time, node failure."""


def is_passing(node: ProcessNode) -> bool:
    """Whether a process failed for a reason that another try may not meet.

    An exception of the engine itself (say, its database was busy for too long) counts as such.
    """
    if node.is_excepted:
        return True
    return node.exit_status in GaceCalculation.transient_exit_codes | SCHEDULER_LOST


def wants_another_try(tries: Sequence[ProcessNode] | None) -> bool:
    """Whether a step is to be submitted (again), given the processes that tried it so far."""
    if not tries:
        return True
    last = tries[-1]
    return not last.is_finished_ok and is_passing(last) and len(tries) < MAX_TRIES


def verdict(tries: Sequence[ProcessNode], name: str, failed: ExitCode) -> ExitCode | None:
    """None when the last try ended well, else ``failed`` with the name of the step and the reason."""
    last = tries[-1]
    if last.is_finished_ok:
        return None
    reason = last.exit_message or (str(last.exception).strip().splitlines() or ["it was killed"])[-1]
    return failed.format(step=name, reason=f"{reason} (node {last.pk}, try {len(tries)})")


__all__ = ["MAX_TRIES", "is_passing", "verdict", "wants_another_try"]
