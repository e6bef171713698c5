"""One batch of labels: look up, compute what is missing, judge, and always go on."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from gace.errors import MissingDependencyError
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import Engine, Failure, Label, make_engine
from gace_platform.labelling.gate import disproof
from gace_platform.labelling.ladder import Ladder
from gace_platform.labelling.spot import is_due, spot_check
from gace_platform.labelling.supervisor import EngineProcess
from gace_platform.labelling.verdicts import (
    Judge,
    Request,
    Verdict,
    attempts_before,
    make_record,
    make_request,
)
from gace_platform.ledger.keys import settings_hash
from gace_platform.ledger.store import LabelRecord, LabelStore, new_run


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
        MissingDependencyError: its program is not installed.
        OSError: the disk is full or broken; what was computed is stored.
    """
    engine = make_engine(config.reference)
    store = LabelStore(config.store)
    settings = engine.settings()
    store.remember_settings(settings_hash(settings), settings)
    requests = [make_request(number, atoms, engine, settings) for number, atoms in enumerate(structures)]
    _refuse(requests, store, process)
    batch = Batch(config, engine, store, process, isolated)
    keys = {request.key for request in requests}
    batch.ladder.learn_all(attempts_before(store, keys) if config.history is None else config.history)
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
        batch.ladder.learn(verdict.record.attempts)
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
    requests = [make_request(number, atoms, engine, settings) for number, atoms in enumerate(structures)]
    _refuse(requests, LabelStore(config.store), process)


def _refuse(requests: Sequence[Request], store: LabelStore, process: EngineProcess) -> None:
    unknown = [request.form for request in requests if store.get(request.key) is None]
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
        self.ladder = Ladder(engine.remedies(), config.attempts)
        self.store = store
        self.process = process
        self.judge = Judge(config.quality, isolated, store)
        self.losses = Counter(loss["key"] for loss in store.lost() if not loss["retired"])

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
            run = new_run(request.key)
            room = self.store.reserve(request.key, len(request.atoms))
            try:
                record = self._compute(request, run, room)
            except (MissingDependencyError, OSError) as error:
                # the run has its end, or it would count as killed
                with contextlib.suppress(OSError):
                    room.unlink(missing_ok=True)
                    self.store.journal.append("refused", request.key, run=run, reason=str(error))
                raise
            verdict = self.judge(request, record, reused=False)
            event = "computed" if verdict.verdict == "accepted" else "quarantined"
            self.store.journal.append(
                event, request.key, run=record.run, core_seconds=record.core_seconds, reason=verdict.reason
            )
            self.store.forget_running(record.run)
        return verdict

    def _reuse(self, request: Request, record: LabelRecord) -> Verdict:
        self.store.journal.append("reused", request.key, run=record.run)
        return self.judge(request, record, reused=True)

    def _compute(self, request: Request, run: str, room: Path) -> LabelRecord:
        """Pay for one structure: attempts in order, each with another remedy, until one converges."""
        attempts: list[dict[str, Any]] = []
        label: Label | None = None
        reason = ""
        kills = self.losses[request.key]
        self.store.journal.append("started", request.key, run=run)
        while label is None:
            if kills >= self.config.max_losses:
                reason = f"killed: its calculation was killed {kills} times; out of memory?"
                break
            attempt = self.ladder.next(attempts)
            if attempt is None:
                break
            label, reason = self._attempt(request, run, attempt, attempts)
            kills += attempts[-1]["failure_class"] == "killed"
        if label is not None and is_due(request.key, self.config.quality.spot_check):
            label = self._spot_checked(request, label, attempts[-1])
        record = make_record(request, run, label, reason, attempts)
        self.store.put(record, room)
        return record

    def _spot_checked(self, request: Request, label: Label, last: dict[str, Any]) -> Label:
        """The label with the spot check among its evidence; its price is added to the last attempt's."""

        def energy_of(moved: Atoms) -> float | None:
            result = self.process.run(moved, last["attempt"])
            last["core_seconds"] = round(last["core_seconds"] + result.core_seconds, 3)
            return None if result.label is None else result.label.energy

        found = spot_check(request.form, request.key, label, energy_of)
        if found is None:
            return label
        evidence = {**(label.evidence or {}), "spot_check": found, "atoms": len(request.atoms)}
        return label._replace(evidence=evidence)

    def _attempt(
        self, request: Request, run: str, attempt: int, attempts: list[dict[str, Any]]
    ) -> tuple[Label | None, str]:
        """One attempt: the label or the reason of its failure; appended to ``attempts``."""
        before = sum(one["core_seconds"] for one in attempts)
        result = self.process.run(
            request.form,
            attempt,
            lambda spent: self.store.note_running(request.key, run, before + spent),
            self.ladder.remedies[attempt].patience,
        )
        failure = result.failure
        if result.label is not None and (contradiction := disproof(result.label.evidence or {})):
            failure = Failure("unconverged", contradiction)
        entry: dict[str, Any] = {
            "attempt": attempt,
            "remedy": self.ladder.remedies[attempt].name,
            "failure_class": failure.failure_class if failure else None,
            "message": str(failure) if failure else "",
            "core_seconds": round(result.core_seconds, 3),
        }
        attempts.append(entry)
        if failure is None:
            return result.label, ""
        self.store.journal.append("failed", request.key, run=run, **entry)
        return None, f"{failure.failure_class}: {failure}" + (f"\n{failure.log}" if failure.log else "")
