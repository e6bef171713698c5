"""Label a few structures with a DFT program that AiiDA runs through its own plug-in."""

from __future__ import annotations

import contextlib
import typing as t

from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain, calcfunction, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec

from aiida_gace.adapters import Adapter, make_adapter
from aiida_gace.data.dataset import DatasetData
from gace.config import parse_config
from gace.structures.io import set_labels
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import Label
from gace_platform.labelling.exchange import is_finite, label_from_json, label_to_json
from gace_platform.labelling.gate import disproof
from gace_platform.labelling.ladder import Ladder
from gace_platform.labelling.run import describe, energies_of, summarise
from gace_platform.labelling.verdicts import Judge, Request, Verdict, make_record, make_request
from gace_platform.ledger.keys import settings_hash
from gace_platform.ledger.store import LabelRecord, LabelStore


@calcfunction
def gather(structures: DatasetData, labels: orm.Dict, **results: orm.Dict) -> DatasetData:
    """Structures whose label was accepted; ``results`` are the program's outputs the labels come from."""
    frames = structures.get_structures()
    return DatasetData([_with_label(frames[row["index"]], row) for row in labels.get_dict()["labels"]])


@calcfunction
def gather_atoms(labels: orm.Dict, **results: orm.Dict) -> DatasetData:
    """Isolated atoms whose label was accepted."""
    from ase import Atoms

    frames = []
    for row in labels.get_dict()["labels"]:
        atom = Atoms(row["symbol"], positions=[[0.0, 0.0, 0.0]], cell=row["cell"], pbc=row["pbc"])
        atom.info["config_type"] = "isolated_atom"
        frames.append(_with_label(atom, row))
    return DatasetData(frames)


def _with_label(atoms: t.Any, row: dict[str, t.Any]) -> t.Any:
    labelled = set_labels(atoms, row["energy"], row["forces"], row["stress"])
    labelled.info.update(charge=row["charge"], spin=row["spin"], label_key=row["key"])
    return labelled


class ReferenceBatchWorkChain(WorkChain):
    """Structures one after another: looked up, else computed with remedies, stored, judged.

    It keeps the promises of ``gace labels run`` with the same label store, ladder and gate; only the
    calculation itself is another work chain. What a killed daemon had submitted is found again, not repeated.
    """

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:
        """Declare inputs, outline and outputs (those of the ``gace.label`` job)."""
        super().define(spec)
        spec.input("structures", valid_type=DatasetData, help="Structures to label.")
        spec.input("config", valid_type=orm.Dict, help="Configuration of gace labels run.")
        spec.input(
            "atoms_only", valid_type=orm.Bool, default=lambda: orm.Bool(False), help="Isolated atoms only."
        )
        spec.outline(
            cls.open_batch,
            while_(cls.requests_are_left)(
                cls.look_up,
                while_(cls.wants_attempt)(
                    cls.submit_attempt,
                    cls.inspect_attempt,
                ),
                cls.conclude,
            ),
            cls.collect,
        )
        spec.output("labelled", valid_type=DatasetData, required=False)
        spec.output("isolated_atoms", valid_type=DatasetData, required=False)
        spec.output("verdicts", valid_type=orm.Dict)
        spec.output("summary", valid_type=orm.Dict)
        spec.exit_code(
            420,
            "ERROR_DISK_FULL",
            message="the disk is full where the program runs, what was computed is stored: {detail}",
        )

    # --- what follows from the inputs alone, made anew after every checkpoint ---------------------------

    @property
    def config(self) -> LabelConfig:
        """The configuration."""
        return parse_config(self.inputs.config.get_dict(), LabelConfig)

    @property
    def adapter(self) -> Adapter:
        """The adapter of the reference's program."""
        return make_adapter(self.config.reference)

    @property
    def store(self) -> LabelStore:
        """The label store."""
        return LabelStore(self.config.store)

    def requests(self) -> list[Request]:
        """Isolated atoms (numbered -1), then the structures (numbered as in the input)."""
        config, engine = self.config, self.adapter.engine
        settings = engine.settings()
        structures = self.inputs.structures.get_structures()
        requests = []
        if config.isolated_atoms:
            symbols = {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}
            for symbol in sorted(symbols | set(config.elements)):
                requests.append(make_request(-1, engine.isolated_atom(symbol), engine, settings))
        if not self.inputs.atoms_only.value:
            requests += [make_request(i, one, engine, settings) for i, one in enumerate(structures)]
        return requests

    def ladder(self) -> Ladder:
        """The ladder with what was known at the start and what this batch has taught since."""
        ladder = Ladder(self.adapter.engine.remedies(), self.config.attempts)
        return ladder.learn_all(self.config.history or []).learn_all(self.ctx.lessons)

    # --- outline -----------------------------------------------------------------------------------------

    def open_batch(self) -> None:
        """Begin with the first request."""
        self.adapter.prepare()
        settings = self.adapter.engine.settings()
        self.store.remember_settings(settings_hash(settings), settings)
        self.ctx.position = 0
        self.ctx.count = len(self.requests())
        self.ctx.lessons = []
        self.ctx.reused = []
        self.ctx.results = {}

    def requests_are_left(self) -> bool:
        """Whether a structure has no verdict yet."""
        return self.ctx.position < self.ctx.count

    def look_up(self) -> None:
        """Reuse what the store knows; else note that a calculation begins."""
        request = self.requests()[self.ctx.position]
        self.ctx.attempts = []
        self.ctx.label = None
        self.ctx.run = f"aiida:{self.uuid}:{request.key[:8]}"
        record = self.store.get(request.key)
        # a record of this very run was written just before a kill: it is ours, not reused
        self.ctx.known = record is not None
        if record is None:
            self.store.journal.append("started", request.key, run=self.ctx.run, through="aiida")
        elif record.run != self.ctx.run:
            self.store.journal.append("reused", request.key, run=record.run)
            self.ctx.reused = [*self.ctx.reused, request.key]

    def wants_attempt(self) -> bool:
        """Whether the present structure has no label yet and a remedy is left."""
        if self.ctx.known or self.ctx.label is not None:
            return False
        kills = sum(one["failure_class"] == "killed" for one in self.ctx.attempts)
        return kills < self.config.max_losses and self.ladder().next(self.ctx.attempts) is not None

    def submit_attempt(self) -> ToContext:
        """Submit the calculation with the next remedy, unless that was done before a kill."""
        request = self.requests()[self.ctx.position]
        remedy = self.ladder().next(self.ctx.attempts)
        assert remedy is not None
        label = f"{request.key} remedy {remedy} try {len(self.ctx.attempts)}"
        node = self.submitted_before(label)
        if node is None:
            chosen = self.adapter.engine.remedies()[remedy]
            limit = self.config.time_limit and self.config.time_limit * chosen.patience
            builder = self.adapter.builder(request.form, remedy, limit)
            builder.metadata.label = label
            builder.metadata.description = f"{request.atoms.get_chemical_formula()}, {chosen.name}"
            node = self.submit(builder)
        self.ctx.remedy = remedy
        return ToContext(attempt=node)

    def submitted_before(self, label: str) -> orm.ProcessNode | None:
        """The calculation of this attempt, if it was submitted already and has not failed elsewhere.

        One behind a record that a person has set aside since is spent: it was asked to be computed again.
        """
        spent = {one.get("node") for record in self.store.retired() for one in record.attempts}
        query = orm.QueryBuilder().append(orm.ProcessNode, filters={"label": label})
        for node in query.all(flat=True):
            ours = node.caller is not None and node.caller.uuid == self.uuid
            if node.uuid not in spent and (ours or node.is_finished_ok or not node.is_terminated):
                return node
        return None

    def inspect_attempt(self) -> ExitCode | None:
        """Keep the label, or the reason why there is none; a full disk ends the batch."""
        request = self.requests()[self.ctx.position]
        node = self.ctx.attempt
        outcome = self.adapter.outcome(node, request.form)
        failure, message = outcome.failure_class, outcome.message
        if outcome.label is not None and not is_finite(outcome.label):
            failure, message = "not_finite", "energy, forces or stress hold NaN or infinity"
        elif outcome.label is not None and (contradiction := disproof(outcome.label.evidence or {})):
            failure, message = "unconverged", contradiction
        entry = {
            "attempt": self.ctx.remedy,
            "remedy": self.adapter.engine.remedies()[self.ctx.remedy].name,
            "failure_class": failure,
            "message": message,
            "core_seconds": outcome.core_seconds,
            "node": node.uuid,
        }
        self.ctx.attempts = [*self.ctx.attempts, entry]
        if failure is None:
            self.ctx.label = label_to_json(t.cast("Label", outcome.label))
            self.ctx.results = {**self.ctx.results, request.key: node.uuid}
            return None
        if failure == "disk":
            return self.refuse(request, message)
        self.report(f"{request.key}: {entry['remedy']}: {failure}: {message}")
        self.ctx.reason = f"{failure}: {message}" + (f"\n{outcome.log}" if outcome.log else "")
        self.store.journal.append("failed", request.key, run=self.ctx.run, **entry)
        return None

    def refuse(self, request: Request, message: str) -> ExitCode:
        """End the batch without a word against the structure; what it has cost so far stays on the bill."""
        spent = sum(one["core_seconds"] for one in self.ctx.attempts)
        self.store.note_running(request.key, self.ctx.run, spent)
        with contextlib.suppress(OSError):
            self.store.journal.append("refused", request.key, run=self.ctx.run, reason=message)
        return self.exit_codes.ERROR_DISK_FULL.format(
            detail=f"{request.key}: {message} (node {self.ctx.attempt.pk})"
        )

    def conclude(self) -> None:
        """Store what was computed, and go on to the next structure."""
        request = self.requests()[self.ctx.position]
        store = self.store
        record = store.get(request.key)
        if record is None:
            label = None if self.ctx.label is None else label_from_json(self.ctx.label)
            reason = "" if label is not None else self.ctx.reason
            record = make_record(request, self.ctx.run, label, reason, self.ctx.attempts)
            store.put(record)
            verdict = Judge(self.config.quality, None, store)(request, record, reused=False)
            store.journal.append(
                "computed" if verdict.verdict == "accepted" else "quarantined",
                request.key,
                run=record.run,
                core_seconds=record.core_seconds,
                reason=verdict.reason,
            )
        if len(record.attempts) > 1:
            self.ctx.lessons = [*self.ctx.lessons, record.attempts]
        self.ctx.position += 1

    def collect(self) -> None:
        """Judge everything, now that the isolated atoms are known, and hand over what was accepted."""
        requests = self.requests()
        alone = [self._verdict(one, None) for one in requests if one.number < 0]
        energies = energies_of(alone) or None
        verdicts = [self._verdict(one, energies) for one in requests if one.number >= 0]
        summary = summarise(verdicts, alone)
        table = {
            "settings_hash": settings_hash(self.adapter.engine.settings()),
            "structures": [describe(one, number) for number, one in enumerate(verdicts)],
            "isolated_atoms": {str(one.atoms.symbols[0]): describe(one, None) for one in alone},
            "summary": summary,
        }
        self.out("verdicts", orm.Dict(table).store())
        self.out("summary", orm.Dict(summary).store())
        if rows := [_row(one, number) for number, one in enumerate(verdicts) if one.verdict == "accepted"]:
            results = self._results(rows)
            self.out("labelled", gather(self.inputs.structures, orm.Dict({"labels": rows}), **results))
        if rows := [_row(one, None) for one in alone if one.verdict == "accepted"]:
            self.out("isolated_atoms", gather_atoms(orm.Dict({"labels": rows}), **self._results(rows)))

    def _verdict(self, request: Request, isolated: dict[str, float] | None) -> Verdict:
        record = t.cast("LabelRecord", self.store.get(request.key))
        reused = request.key in self.ctx.reused
        return Judge(self.config.quality, isolated, self.store)(request, record, reused)

    def _results(self, rows: list[dict[str, t.Any]]) -> dict[str, orm.Dict]:
        """Output parameters of the calculations behind these labels, as far as this work chain ran them."""
        found = {}
        for row in rows:
            if (uuid := self.ctx.results.get(row["key"])) is not None:
                node = orm.load_node(uuid)
                if "output_parameters" in node.outputs:
                    found["label_" + row["key"].replace("-", "_")] = node.outputs.output_parameters
        return found


def _row(one: Verdict, number: int | None) -> dict[str, t.Any]:
    """What the data set needs of an accepted label, in the frame and order that were asked for."""
    row: dict[str, t.Any] = one.record.model_dump(include={"key", "charge", "spin", "energy"})
    stress = one.atoms.info.get("REF_stress")
    return {
        **row,
        "forces": one.atoms.arrays["REF_forces"].tolist(),
        "stress": None if stress is None else stress.tolist(),
        "cell": one.atoms.cell.array.tolist(),
        "pbc": one.atoms.pbc.tolist(),
        "index": number,
        "symbol": str(one.atoms.symbols[0]),
    }


__all__ = ["ReferenceBatchWorkChain"]
