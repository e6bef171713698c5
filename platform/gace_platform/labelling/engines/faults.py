"""A teacher that fails as DFT programs do, for rehearsals of the remedies, the gate and the accounts.

Six kinds of failure: a field that does not converge and says so, one that does not and hands over its numbers
all the same, a time limit, memory, a lost node (the process is really killed), and a senseless geometry.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
from ase import Atoms

from gace.randomness import generator
from gace.structures.identity import structure_hash
from gace_platform.labelling.engines.base import Failure, Label
from gace_platform.labelling.engines.teacher import TeacherEngine
from gace_platform.labelling.ladder import Remedy
from gace_platform.labelling.references import Faults, TeacherReference

KINDS = ("unconverged", "silent", "timeout", "memory", "killed", "geometry")
"""What can be met; ``silent`` hands over unconverged numbers whose evidence says so."""

REMEDIES = (
    Remedy("as given"),
    Remedy("damping", ("unconverged",)),
    Remedy("second order", ("unconverged",)),
    Remedy("less memory", ("memory",)),
    Remedy("more time", ("timeout",), patience=4.0),
)

DAMPING_HELPS = 0.1
"""Chance that damping helps where something does; second order helps the others, as a ladder has to learn."""


class FaultyEngine(TeacherEngine):
    """A teacher with planted failures; a label that gets through is the teacher's own."""

    def __init__(self, reference: TeacherReference, faults: Faults) -> None:
        super().__init__(reference)
        self.faults = faults

    def remedies(self) -> list[Remedy]:
        """Stand-ins for the remedies of a DFT program."""
        return list(REMEDIES)

    def fate(self, atoms: Atoms) -> tuple[str | None, str | None]:
        """Kind of failure a structure meets, and the remedy that helps; None: none."""
        draw = generator(self.faults.seed, "fault", structure_hash(atoms)).random(4)
        if draw[0] >= self.faults.fraction:
            return None, None
        kind = KINDS[int(draw[1] * len(KINDS))]
        if kind == "geometry" or draw[2] < self.faults.hopeless:
            return kind, None
        if kind in ("unconverged", "silent"):
            return kind, "damping" if draw[3] < DAMPING_HELPS else "second order"
        return kind, {"timeout": "more time", "memory": "less memory", "killed": "as given"}[kind]

    def run(self, atoms: Atoms, attempt: int) -> Label:
        """The teacher's label, unless the structure meets its failure.

        Raises:
            Failure: it does.
        """
        kind, helps = self.fate(atoms)
        remedy = REMEDIES[attempt].name
        if kind == "killed":
            self._lose_node(atoms, for_good=helps is None)
        elif kind is not None and remedy != helps:
            if kind == "silent":
                return self._unconverged(super().run(atoms, 0), atoms)
            raise Failure(kind, f"planted: {kind} with '{remedy}'")
        label = super().run(atoms, 0)
        return label._replace(evidence={"converged": True})

    def _lose_node(self, atoms: Atoms, for_good: bool) -> None:
        """Be killed, once or each time."""
        marker = self.faults.scratch / structure_hash(atoms)[:32]
        if for_good or not marker.exists():
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _unconverged(self, label: Label, atoms: Atoms) -> Label:
        """Numbers that are a little wrong, as a field that has not converged leaves them."""
        random = generator(self.faults.seed, "noise", structure_hash(atoms))
        evidence: dict[str, Any] = {"converged": False}
        noise = random.normal(scale=0.05, size=np.shape(label.forces))
        return Label(label.energy + 0.05, label.forces + noise, label.stress, evidence)
