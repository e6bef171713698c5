"""One batch of labels: look up, compute what is missing, judge, and always go on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, Literal, NamedTuple

from ase import Atoms

from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import Engine, Label, make_engine
from gace_platform.labelling.gate import objection
from gace_platform.labelling.supervisor import EngineProcess
from gace_platform.ledger.keys import label_key, settings_hash, with_charge_and_spin
from gace_platform.ledger.store import (
    ENERGY_DIGITS,
    FORCE_DIGITS,
    STRESS_DIGITS,
    LabelRecord,
    LabelStore,
    new_run,
    rounded,
)


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


class Request(NamedTuple):
    """One structure on its way to a label."""

    number: int
    atoms: Atoms
    key: str


def label_structures(
    structures: Sequence[Atoms],
    config: LabelConfig,
    process: EngineProcess,
    isolated: Mapping[str, float] | None = None,
    progress: Callable[[Verdict, int, int], None] | None = None,
) -> list[Verdict]:
    """Label structures in order, reusing what the store has; each result is stored as soon as it is there.

    A failed calculation is retried with another remedy, then quarantined; the batch always goes on. A key
    that another process is computing is left to it and fetched at the end.

    Args:
        structures: what to label.
        config: reference, store, attempts, gate.
        process: the engine's process.
        isolated: energies of isolated atoms, eV, for the check of the binding energy.
        progress: called after each structure with its verdict, how many are done, and how many there are.

    Returns:
        One verdict per structure, in the order given.

    Raises:
        InputError: the engine refuses a structure; nothing was computed then.
    """
    engine = make_engine(config.reference)
    store = LabelStore(config.store)
    settings = engine.settings()
    store.remember_settings(settings_hash(settings), settings)
    requests = [_request(number, atoms, engine, settings) for number, atoms in enumerate(structures)]
    _refuse(requests, store, process)
    batch = Batch(config, engine, store, process, isolated)
    verdicts: dict[int, Verdict] = {}
    waiting = deque(requests)
    postponed: set[int] = set()
    while waiting:
        request = waiting.popleft()
        verdict = batch.label(request, wait=request.number in postponed)
        if verdict is None:
            postponed.add(request.number)
            waiting.append(request)
            continue
        verdicts[request.number] = verdict
        if progress is not None:
            progress(verdict, len(verdicts), len(requests))
    return [verdicts[number] for number in range(len(requests))]


def refuse_early(structures: Sequence[Atoms], config: LabelConfig, process: EngineProcess) -> None:
    """Have the engine look at the structures that are not labelled yet, and compute nothing.

    Raises:
        InputError: the engine refuses a structure.
    """
    engine = make_engine(config.reference)
    settings = engine.settings()
    requests = [_request(number, atoms, engine, settings) for number, atoms in enumerate(structures)]
    _refuse(requests, LabelStore(config.store), process)


def _refuse(requests: Sequence[Request], store: LabelStore, process: EngineProcess) -> None:
    unknown = [request.atoms for request in requests if store.get(request.key) is None]
    if unknown:
        process.check(unknown)


class Batch:
    """The parts that label one structure after another."""

    def __init__(
        self,
        config: LabelConfig,
        engine: Engine,
        store: LabelStore,
        process: EngineProcess,
        isolated: Mapping[str, float] | None,
    ) -> None:
        self.config = config
        self.remedies = engine.remedies()[: config.attempts]
        self.store = store
        self.process = process
        self.isolated = isolated
        self.losses = Counter(loss["key"] for loss in store.lost())

    def label(self, request: Request, wait: bool) -> Verdict | None:
        """The verdict on one structure; None if another process is computing it and we do not wait."""
        record = self.store.get(request.key)
        if record is not None:
            return self._reuse(request, record)
        with self.store.computing(request.key, wait) as obtained:
            if not obtained:
                return None
            record = self.store.get(request.key)
            if record is not None:
                return self._reuse(request, record)
            record = self._compute(request)
            verdict = self._judge(request, record, reused=False)
            event = "computed" if verdict.verdict == "accepted" else "quarantined"
            self.store.journal.append(
                event, request.key, run=record.run, core_seconds=record.core_seconds, reason=verdict.reason
            )
            self.store.forget_running(record.run)
        return verdict

    def _reuse(self, request: Request, record: LabelRecord) -> Verdict:
        self.store.journal.append("reused", request.key, run=record.run)
        return self._judge(request, record, reused=True)

    def _compute(self, request: Request) -> LabelRecord:
        """Pay for one structure: attempts in order, each with another remedy, until one converges."""
        run = new_run(request.key)
        attempts: list[dict[str, Any]] = []
        label: Label | None = None
        reason = ""
        kills = self.losses[request.key]
        attempt = 0
        self.store.journal.append("started", request.key, run=run)
        while label is None and attempt < len(self.remedies):
            if kills >= self.config.max_losses:
                reason = f"killed: its calculation was killed {kills} times; out of memory?"
                break
            label, reason = self._attempt(request, run, attempt, attempts)
            # a kill from outside says nothing about the remedy: the same one is tried again
            if attempts[-1]["failure_class"] == "killed":
                kills += 1
            else:
                attempt += 1
        price = round(sum(one["core_seconds"] for one in attempts), 3)
        record = _record(request, run, label, reason, attempts, price)
        self.store.put(record)
        return record

    def _attempt(
        self, request: Request, run: str, attempt: int, attempts: list[dict[str, Any]]
    ) -> tuple[Label | None, str]:
        """One attempt: the label or the reason of its failure; appended to ``attempts``."""
        before = sum(one["core_seconds"] for one in attempts)
        result = self.process.run(
            request.atoms,
            attempt,
            lambda spent: self.store.note_running(request.key, run, before + spent),
        )
        failure = result.failure
        entry: dict[str, Any] = {
            "attempt": attempt,
            "remedy": self.remedies[attempt],
            "failure_class": failure.failure_class if failure else None,
            "message": str(failure) if failure else "",
            "core_seconds": round(result.core_seconds, 3),
        }
        attempts.append(entry)
        if failure is None:
            return result.label, ""
        self.store.journal.append("failed", request.key, run=run, **entry)
        return None, f"{failure.failure_class}: {failure}" + (f"\n{failure.log}" if failure.log else "")

    def _judge(self, request: Request, record: LabelRecord, reused: bool) -> Verdict:
        """Apply the quality gate to a finished calculation, new or reused."""
        reason: str | None = record.reason
        if record.status == "computed":
            label = record.atoms()
            energy, forces = label.info["REF_energy"], label.arrays["REF_forces"]
            stress = label.info.get("REF_stress")
            reason = objection(request.atoms, energy, forces, stress, self.config.quality, self.isolated)
        if reason:
            return Verdict(request.atoms, record, "quarantined", reason, reused)
        return Verdict(_labelled(request, record), record, "accepted", "", reused)


def _request(number: int, atoms: Atoms, engine: Engine, settings: dict[str, Any]) -> Request:
    """A structure with its charge and spin made explicit, and its key."""
    resolved = with_charge_and_spin(atoms, *engine.charge_and_spin(atoms))
    return Request(number, resolved, label_key(resolved, settings))


def _labelled(request: Request, record: LabelRecord) -> Atoms:
    """The structure as asked for, with the label; labels it came with are replaced."""
    atoms = request.atoms.copy()
    for name in ("energy", "free_energy", "stress", "REF_energy", "REF_stress"):
        atoms.info.pop(name, None)
    for name in ("forces", "REF_forces"):
        atoms.arrays.pop(name, None)
    label = record.atoms()
    atoms.info.update({name: label.info[name] for name in ("REF_energy", "REF_stress") if name in label.info})
    atoms.arrays["REF_forces"] = label.arrays["REF_forces"]
    atoms.info["label_key"] = request.key
    return atoms


def _record(
    request: Request, run: str, label: Label | None, reason: str, attempts: list[dict[str, Any]], price: float
) -> LabelRecord:
    atoms = request.atoms
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
        reason=reason,
        attempts=attempts,
        core_seconds=price,
        finished=round(time(), 3),
    )
