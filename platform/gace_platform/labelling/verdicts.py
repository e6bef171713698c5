"""From requests to records to verdicts: what every way to compute a label shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import time
from typing import Any, Literal, NamedTuple

from ase import Atoms

from gace_platform.labelling.config import QualityGate
from gace_platform.labelling.engines.base import Engine, Label
from gace_platform.labelling.gate import objection
from gace_platform.ledger.canonical import Placing, canonical
from gace_platform.ledger.keys import label_key, with_charge_and_spin
from gace_platform.ledger.store import (
    ENERGY_DIGITS,
    FORCE_DIGITS,
    STRESS_DIGITS,
    LabelRecord,
    LabelStore,
    rounded,
)


class Request(NamedTuple):
    """One structure on its way to a label."""

    number: int
    atoms: Atoms
    """As asked for, with charge and spin in ``info``."""
    key: str
    form: Atoms
    """Its canonical form, which is what is computed and stored."""
    placing: Placing
    """How the canonical form lies in the structure asked for."""

    def of_form(self, label: Label) -> Label:
        """A label of the structure asked for as one of its canonical form."""
        stress = None if label.stress is None else self.placing.stress_of_canonical(label.stress)
        return label._replace(forces=self.placing.forces_of_canonical(label.forces), stress=stress)


class Verdict(NamedTuple):
    """What became of one structure."""

    atoms: Atoms
    """The structure as asked for, with its label if accepted."""
    record: LabelRecord
    verdict: Literal["accepted", "quarantined"]
    reason: str
    """Why it was quarantined; empty if accepted."""
    reused: bool
    """Whether the label had been paid for before."""


class Judge:
    """Applies the quality gate to finished calculations, new or reused."""

    def __init__(self, limits: QualityGate, isolated: Mapping[str, float] | None, store: LabelStore) -> None:
        self.limits = limits
        self.isolated = isolated
        self.store = store

    def __call__(self, request: Request, record: LabelRecord, reused: bool) -> Verdict:
        """The verdict on one finished calculation."""
        reason: str | None = record.reason or None
        if record.status == "computed":
            reason = self.store.suspicion(record.key) or self._objection(request, record)
        if reason:
            return Verdict(request.atoms, record, "quarantined", reason, reused)
        return Verdict(labelled(request, record), record, "accepted", "", reused)

    def _objection(self, request: Request, record: LabelRecord) -> str | None:
        label = record.atoms()
        return objection(
            request.form,
            label.info["REF_energy"],
            label.arrays["REF_forces"],
            label.info.get("REF_stress"),
            self.limits,
            self.isolated,
            record.evidence,
        )


def make_request(number: int, atoms: Atoms, engine: Engine, settings: dict[str, Any]) -> Request:
    """A structure with its charge and spin made explicit, and its key."""
    resolved = with_charge_and_spin(atoms, *engine.charge_and_spin(atoms))
    return placed_request(number, resolved, settings)


def placed_request(number: int, atoms: Atoms, settings: dict[str, Any]) -> Request:
    """A structure whose charge and spin are explicit, with its key and canonical form."""
    return Request(number, atoms, label_key(atoms, settings), *canonical(atoms))


def attempts_before(store: LabelStore, keys: Collection[str]) -> list[list[dict[str, Any]]]:
    """The attempts at every structure in the store that took more than one, ordered by label key.

    Args:
        store: the label store.
        keys: of the present batch, which are left out.

    What the present batch has computed already (before a kill, or in a job beside this one) does not count,
    so that what the ladder knows at the start does not depend on how far the batch had come.
    """
    records = (record for record in store.records() if record.key not in keys)
    return [record.attempts for record in records if len(record.attempts) > 1]


def labelled(request: Request, record: LabelRecord) -> Atoms:
    """The structure as asked for, with the label; labels it came with are replaced."""
    atoms = request.atoms.copy()
    for name in ("energy", "free_energy", "stress", "REF_energy", "REF_stress"):
        atoms.info.pop(name, None)
    for name in ("forces", "REF_forces"):
        atoms.arrays.pop(name, None)
    label = record.atoms()
    atoms.info["REF_energy"] = label.info["REF_energy"]
    if "REF_stress" in label.info:
        atoms.info["REF_stress"] = request.placing.stress_as_asked(label.info["REF_stress"])
    atoms.arrays["REF_forces"] = request.placing.forces_as_asked(label.arrays["REF_forces"])
    atoms.info["label_key"] = request.key
    return atoms


def make_record(
    request: Request, run: str, label: Label | None, reason: str, attempts: list[dict[str, Any]]
) -> LabelRecord:
    """The record of a calculation that has ended, with its label or with the failure of every attempt.

    The label is that of the canonical form.
    """
    atoms = request.form
    return LabelRecord(
        key=request.key,
        run=run,
        status="failed" if label is None else "computed",
        numbers=atoms.numbers.tolist(),
        positions=atoms.positions.tolist(),
        cell=atoms.cell.array.tolist(),
        pbc=atoms.pbc.tolist(),
        charge=atoms.info["charge"],
        spin=atoms.info["spin"],
        energy=None if label is None else round(label.energy, ENERGY_DIGITS),
        forces=None if label is None else rounded(label.forces, FORCE_DIGITS),
        stress=None if label is None else rounded(label.stress, STRESS_DIGITS),
        evidence=None if label is None else label.evidence,
        reason=reason,
        attempts=attempts,
        core_seconds=round(sum(one["core_seconds"] for one in attempts), 3),
        finished=round(time(), 3),
    )
