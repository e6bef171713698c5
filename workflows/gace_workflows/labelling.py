"""Label a set of structures in a few jobs; one structure that fails never fails the others."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain, append_, calcfunction, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec

from aiida_gace.calculations.label import LabelCalculation
from aiida_gace.calculations.review import ReviewCalculation
from aiida_gace.computers import job_options, label_code, label_resources
from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData
from gace.config import parse_config
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import THROUGH_AIIDA, make_engine
from gace_platform.labelling.verdicts import attempts_before, make_request
from gace_platform.ledger.store import LabelStore
from gace_workflows.patience import verdict, wants_another_try
from gace_workflows.reference_batch import ReferenceBatchWorkChain


@calcfunction
def split(structures: DatasetData, batches: orm.Int) -> dict[str, DatasetData]:
    """Deal structures out to batches in turn, so that every batch has its share of slow ones."""
    frames = structures.get_structures()
    return {f"batch_{n:03d}": DatasetData(frames[n :: batches.value]) for n in range(batches.value)}


@calcfunction
def join(**labelled: DatasetData) -> DatasetData:
    """All labelled structures as one data set, ordered by label key."""
    frames = [atoms for name in sorted(labelled) for atoms in labelled[name].get_structures()]
    return DatasetData(sorted(frames, key=lambda atoms: str(atoms.info.get("label_key", ""))))


@calcfunction
def join_atoms(**isolated: DatasetData) -> DatasetData:
    """One labelled isolated atom per element."""
    atoms = {
        frame.symbols[0]: frame for name in sorted(isolated) for frame in isolated[name].get_structures()
    }
    return DatasetData([atoms[symbol] for symbol in sorted(atoms)])


@calcfunction
def join_verdicts(suspects: orm.Dict, **verdicts: orm.Dict) -> orm.Dict:
    """The verdict tables of all batches as one, ordered by label key; suspects are quarantined in it."""
    rows = [row for name in sorted(verdicts) for row in verdicts[name].get_dict().get("structures", [])]
    atoms: dict[str, t.Any] = {}
    for name in sorted(verdicts):
        atoms.update(verdicts[name].get_dict().get("isolated_atoms", {}))
    for row in rows:
        if (reason := suspects.get_dict().get(row["key"])) is not None:
            row.update(verdict="quarantined", reason=f"audit: {reason}")
    return orm.Dict({"structures": sorted(rows, key=lambda row: row["key"]), "isolated_atoms": atoms})


@calcfunction
def without_suspects(labelled: DatasetData, suspects: orm.Dict) -> DatasetData:
    """The labels that nothing speaks against."""
    known = suspects.get_dict()
    return DatasetData([one for one in labelled.get_structures() if one.info.get("label_key") not in known])


class LabelWorkChain(WorkChain):
    """Structures in, accepted labels and a verdict on every structure out.

    The structures are dealt out to batches of the ``gace.label`` job, at most ``max_in_flight`` at a
    time. The label store on disk knows what is paid for, so a batch that was lost is submitted again
    and continues where it was.

    The labels that the quality gate accepted are then compared with what ``potential`` (else the teacher of
    the exploration) expects of them; suspects go into the store's quarantine (``quality.audit``).
    """

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:
        """Declare inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("code", valid_type=orm.AbstractCode, help="The gace command.")
        spec.input("structures", valid_type=DatasetData, help="Structures to label.")
        spec.input(
            "config", valid_type=orm.Dict, help="Configuration of gace labels run, less the structures."
        )
        spec.input(
            "batch_size", valid_type=orm.Int, required=False, help="Structures per job; else an even share."
        )
        spec.input(
            "potential",
            valid_type=PotentialData,
            required=False,
            help="Committee to compare the labels with; it must not have been trained on them.",
        )
        spec.input("max_in_flight", valid_type=orm.Int, default=lambda: orm.Int(2), help="Jobs at a time.")
        spec.outline(
            cls.split_into_batches,
            while_(cls.atoms_are_due)(cls.submit_atoms),
            while_(cls.batches_are_left)(
                cls.submit_batches,
                cls.note_verdicts,
            ),
            cls.gather_labels,
            while_(cls.review_is_due)(cls.submit_review),
            cls.collect,
        )
        spec.output(
            "labelled", valid_type=DatasetData, required=False, help="Structures with an accepted label."
        )
        spec.output(
            "isolated_atoms", valid_type=DatasetData, required=False, help="One labelled atom per element."
        )
        spec.output(
            "verdicts", valid_type=orm.Dict, help="Key, verdict, reason, price and attempts by structure."
        )
        spec.exit_code(400, "ERROR_BATCH_FAILED", message="{step} failed: {reason}")
        spec.exit_code(
            500,
            "ERROR_NO_LABEL",
            message="not one of {count} structures has a usable label; see the verdicts",
        )

    def split_into_batches(self) -> None:
        """Deal the structures out; a batch is as large as keeps all jobs busy to the end."""
        count = len(self.inputs.structures)
        in_flight = self.inputs.max_in_flight.value
        size = self.inputs.batch_size.value if "batch_size" in self.inputs else -(-count // in_flight)
        number = min(count, -(-count // max(1, size)))
        batches = split(self.inputs.structures, orm.Int(number)) if number > 1 else None
        self.ctx.batches = dict(batches) if batches else {"batch_000": self.inputs.structures}
        self.ctx.pending = sorted(self.ctx.batches)
        self.ctx.history = self.lessons()
        self.report(f"{count} structures in {number} batches")

    def lessons(self) -> list[list[dict[str, t.Any]]]:
        """What remedies did for other labels; frozen here, so that a kill changes nothing."""
        config = parse_config(self.inputs.config.get_dict(), LabelConfig)
        engine = make_engine(config.reference)
        settings = engine.settings()
        structures = self.inputs.structures.get_structures()
        keys = {make_request(number, one, engine, settings).key for number, one in enumerate(structures)}
        return attempts_before(LabelStore(config.store), keys)

    @property
    def through_aiida(self) -> bool:
        """Whether AiiDA runs the program itself, through the program's own plug-in."""
        return self.inputs.config["reference"]["engine"] in THROUGH_AIIDA

    def atoms_are_due(self) -> bool:
        """Whether isolated atoms have to be computed before the batches, which then share them."""
        wanted = self.through_aiida and bool(self.inputs.config.get_dict().get("isolated_atoms"))
        return wanted and wants_another_try(self.ctx.get("atoms_tries"))

    def submit_atoms(self) -> ToContext:
        """Compute the isolated atoms."""
        builder = ReferenceBatchWorkChain.get_builder()
        builder.structures = self.inputs.structures
        builder.config = self.batch_config()
        builder.atoms_only = orm.Bool(True)
        builder.metadata.label = f"{self.node.label}: isolated atoms"
        return ToContext(atoms_tries=append_(self.submit(builder)))

    def batch_config(self) -> orm.Dict:
        """The configuration of a batch, with what the ladder of remedies starts from."""
        return orm.Dict({**self.inputs.config.get_dict(), "history": self.ctx.history})

    def batches_are_left(self) -> bool:
        """Whether a batch has not ended for good."""
        return bool(self.ctx.pending)

    def submit_batches(self) -> ToContext:
        """Submit as many of the pending batches as may run at a time."""
        jobs = {}
        for name in self.ctx.pending[: self.inputs.max_in_flight.value]:
            builder = (ReferenceBatchWorkChain if self.through_aiida else LabelCalculation).get_builder()
            if not self.through_aiida:
                builder.code = label_code(self.inputs.code)
                builder.metadata.options = {"resources": label_resources(), **job_options()}
            builder.config = self.batch_config()
            builder.structures = self.ctx.batches[name]
            builder.metadata.label = f"{self.node.label}: {name}" if self.node.label else name
            builder.metadata.description = f"{len(self.ctx.batches[name])} reference calculations"
            jobs[f"tries.{name}"] = append_(self.submit(builder))
        return ToContext(**jobs)

    def note_verdicts(self) -> ExitCode | None:
        """Drop the batches that ended for good; a batch that failed for good ends the work chain."""
        for name in list(self.ctx.pending):
            tries = self.ctx.get("tries", {}).get(name, [])
            if wants_another_try(tries):
                continue
            failed = verdict(tries, name, self.exit_codes.ERROR_BATCH_FAILED)
            if failed is not None:
                return failed
            self.ctx.pending.remove(name)
        return None

    def gather_labels(self) -> None:
        """Put the accepted labels of the batches together."""
        jobs = {name: tries[-1] for name, tries in self.ctx.tries.items()}
        accepted = {name: job.outputs.labelled for name, job in jobs.items() if "labelled" in job.outputs}
        if accepted:
            self.ctx.labelled = join(**accepted)

    def review_is_due(self) -> bool:
        """Whether the accepted labels are still to be compared with what is expected of them."""
        config = parse_config(self.inputs.config.get_dict(), LabelConfig)
        wanted = config.quality.audit and "labelled" in self.ctx
        return wanted and wants_another_try(self.ctx.get("reviews"))

    def submit_review(self) -> ToContext:
        """Compare the labels with what the potential, or the teacher, expects."""
        builder = ReviewCalculation.get_builder()
        builder.code = self.inputs.code
        builder.config = orm.Dict({})
        builder.structures = self.ctx.labelled
        if "potential" in self.inputs:
            builder.potential = self.inputs.potential
        builder.metadata.label = f"{self.node.label}: audit" if self.node.label else "audit"
        return ToContext(reviews=append_(self.submit(builder)))

    def collect(self) -> ExitCode | None:
        """Put the batches together, less what the audit suspects."""
        suspects = orm.Dict({})
        if "reviews" in self.ctx:
            failed = verdict(self.ctx.reviews, "the audit", self.exit_codes.ERROR_BATCH_FAILED)
            if failed is not None:
                return failed
            suspects = self.ctx.reviews[-1].outputs.suspects
            self.quarantine(suspects.get_dict())
        jobs = {name: tries[-1] for name, tries in self.ctx.tries.items()}
        tables = {name: job.outputs.verdicts for name, job in jobs.items()}
        self.out("verdicts", join_verdicts(suspects, **tables))
        atoms = {
            name: job.outputs.isolated_atoms for name, job in jobs.items() if "isolated_atoms" in job.outputs
        }
        if atoms:
            self.out("isolated_atoms", join_atoms(**atoms))
        if "labelled" not in self.ctx or len(self.ctx.labelled) == len(suspects.get_dict()):
            return self.exit_codes.ERROR_NO_LABEL.format(count=len(self.inputs.structures))
        labelled = self.ctx.labelled
        self.out("labelled", without_suspects(labelled, suspects) if suspects.get_dict() else labelled)
        return None

    def quarantine(self, suspects: dict[str, str]) -> None:
        """Have the label store remember the suspects, so that nobody is handed them."""
        store = LabelStore(parse_config(self.inputs.config.get_dict(), LabelConfig).store)
        for key, reason in suspects.items():
            self.report(f"{key}: audit: {reason}")
            if store.suspicion(key) is None:
                store.suspect(key, f"audit: {reason}")


__all__ = ["LabelWorkChain"]
