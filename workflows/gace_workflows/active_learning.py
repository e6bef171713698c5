"""The loop: train, examine, explore, select, label, decide; from a geometry to a registered potential."""

from __future__ import annotations

import typing as t
from pathlib import Path

from aiida import orm
from aiida.engine import ExitCode, ToContext, append_, if_, while_
from aiida.engine.processes.workchains.workchain import WorkChainSpec

from aiida_gace.data.dataset import DatasetData
from aiida_gace.data.potential import PotentialData
from gace_workflows import datasets, recipes
from gace_workflows.labelling import LabelWorkChain
from gace_workflows.level import change_of_level, settings_of
from gace_workflows.stepwise import StepwiseWorkChain


class ActiveLearningWorkChain(StepwiseWorkChain):
    """One campaign.

    Generation 0 explores with a cheap teacher (or by rattling) and labels a diverse first batch and the
    frozen exam. Every further turn trains a committee on all labels, registers it, lets it sit the exam,
    explores with it, selects, and labels the next batch. The last turn only trains, registers and examines.
    Each step is one plain command run as a job; a step that failed for a passing reason is tried again.
    """

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:
        """Declare inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("start", valid_type=DatasetData, help="Geometries the campaign starts from.")
        spec.outline(
            cls.open_campaign,
            while_(cls.must_look_around)(cls.look_around),
            cls.set_exam_aside,
            while_(cls.must_select)(cls.select_first),
            cls.keep_selection,
            while_(cls.must_label)(cls.label),
            cls.keep_labels,
            if_(cls.wants_pretraining)(
                while_(cls.must_pretrain)(cls.pretrain),
                cls.keep_pretrained,
            ),
            while_(cls.goes_on)(
                while_(cls.must_train)(cls.train),
                cls.keep_potential,
                while_(cls.must_register)(cls.register_and_examine),
                cls.keep_exam_result,
                cls.decide,
                if_(cls.wants_labels)(
                    while_(cls.must_explore)(cls.explore),
                    cls.keep_candidates,
                    while_(cls.must_select)(cls.select),
                    cls.keep_selection,
                    while_(cls.must_label)(cls.label),
                    cls.keep_labels,
                ),
            ),
            cls.close_campaign,
        )
        spec.output(
            "potential", valid_type=PotentialData, help="The champion, or the last potential without one."
        )
        spec.output("dataset", valid_type=DatasetData, help="All labels that may be trained on.")
        spec.output("exam", valid_type=DatasetData, required=False, help="The frozen exam.")
        spec.output("isolated_atoms", valid_type=DatasetData, required=False)
        spec.output("mlflow_version", valid_type=orm.Str, required=False, help="Version of the champion.")
        spec.output("outcome", valid_type=orm.Dict, help="Stop verdict and champion.")
        spec.exit_code(410, "ERROR_NO_LABELS", message="none of the first structures could be labelled")
        spec.exit_code(
            420,
            "ERROR_OTHER_LEVEL",
            message="the level of theory is no longer that of the labels so far ({detail}): bring it back, "
            "or go on to have all labels computed anew",
        )

    # --- generation 0: first structures, exam, first labels ---------------------------------------------

    def open_campaign(self) -> None:
        """Begin with nothing but the geometry."""
        self.ctx.turn = 0
        self.ctx.spent = 0
        self.ctx.batch = 0
        self.ctx.done = False
        self.ctx.finished = False
        self.ctx.stop = {}
        self.ctx.exam_history = []
        self.ctx.refused = []
        self.note("start", self.inputs.start)

    def must_look_around(self) -> bool:
        """Whether the first exploration is due; the exam's own trajectories belong to it."""
        return self.must("look_around") or (
            bool(self.campaign.exam.structures) and self.must("look_for_exam")
        )

    def look_around(self) -> ToContext:
        """Explore with the teacher; other trajectories, from other seeds, are for the exam."""
        waiting = {}
        for step in ("look_around", "look_for_exam"):
            if step == "look_for_exam" and not self.campaign.exam.structures:
                continue
            if self.must(step):
                config = recipes.first_exploration(self.campaign, self.places, step)
                node = self.send(step, "gace.explore", {"config": config, "start": self.inputs.start})
                waiting[self.key(step)] = append_(node)
        return ToContext(**waiting)

    def set_exam_aside(self) -> ExitCode | None:
        """Draw the exam; its trajectories are used for nothing else."""
        failed = self.check("look_around")
        if failed is not None:
            return failed
        self.ctx.pool = self.ended("look_around").outputs.candidates
        self.note("candidates", self.ctx.pool)
        count = self.campaign.exam.structures
        if count:
            failed = self.check("look_for_exam")
            if failed is not None:
                return failed
            candidates = self.ended("look_for_exam").outputs.candidates
            self.ctx.exam_request = datasets.draw_exam(
                candidates, orm.Int(count), orm.Int(self.campaign.seed)
            )
        return None

    def select_first(self) -> ToContext:
        """Select for diversity alone: nothing is known yet."""
        config = recipes.selection(self.campaign, 0, self.campaign.initial.labels)
        return self.start_step("select", "gace.select", config=config, pool=self.ctx.pool)

    # --- selection and labels, in every turn -------------------------------------------------------------

    def must_select(self) -> bool:
        """Whether the selection is due."""
        return not self.ctx.done and self.must("select")

    def keep_selection(self) -> ExitCode | None:
        """Keep the picks; that nothing is worth a label ends the labelling, not the campaign."""
        if self.ctx.done:
            return None
        job = self.ended("select")
        if job.exit_status == 430 and self.ctx.turn:
            self.finish(recipes.ending("nothing_selected", "no candidate was worth a label"))
            return None
        failed = self.check("select")
        if failed is not None:
            return failed
        self.ctx.selected = job.outputs.selected
        self.note("selected", self.ctx.selected)
        return None

    def must_label(self) -> bool:
        """Whether the labelling is due."""
        return not self.ctx.done and self.must("label")

    def label(self) -> ToContext | ExitCode:
        """Label the picks; in generation 0 also the exam. Labels of two levels never meet."""
        if "dataset" in self.ctx:
            known, store = self.ctx.dataset.get_structures(), Path(self.places["labels"])
            if (detail := change_of_level(known, self.campaign, store)) is not None:
                return self.exit_codes.ERROR_OTHER_LEVEL.format(detail=detail)
        structures = self.ctx.selected
        if not self.ctx.turn and "exam_request" in self.ctx:
            structures = datasets.together(structures, self.ctx.exam_request)
        inputs = recipes.labelling_inputs(self.campaign)
        if "potential" in self.ctx:
            inputs["potential"] = self.ctx.potential
        config = recipes.labelling(self.campaign, self.places)
        return self.start_step("label", LabelWorkChain, config=config, structures=structures, **inputs)

    def keep_labels(self) -> ExitCode | None:
        """Add the accepted labels to the data set."""
        if self.ctx.done:
            return None
        process = self.ended("label")
        if process.exit_status != 500:
            failed = self.check("label")
            if failed is not None:
                return failed
        self.ctx.spent += len(process.inputs.structures)
        rows = process.outputs.verdicts.get_dict()["structures"]
        self.ctx.refused += [row["key"] for row in rows if row["verdict"] != "accepted"]
        if "isolated_atoms" in process.outputs and "isolated_atoms" not in self.ctx:
            self.ctx.isolated_atoms = process.outputs.isolated_atoms
            self.note("isolated_atoms", self.ctx.isolated_atoms)
        self.ctx.turn += 1
        if "labelled" not in process.outputs:
            self.ctx.batch += 1
            return None if "dataset" in self.ctx else self.exit_codes.ERROR_NO_LABELS
        labelled = process.outputs.labelled
        known = self.ctx.dataset.get_structures() if "dataset" in self.ctx else []
        if len(kinds := settings_of([*known, *labelled.get_structures()])) > 1:
            return self.exit_codes.ERROR_OTHER_LEVEL.format(detail=f"settings {' and '.join(sorted(kinds))}")
        if "dataset" not in self.ctx:
            purposes = [atoms.info.get("purpose") for atoms in labelled.get_structures()]
            if all(purpose == "exam" for purpose in purposes):
                return self.exit_codes.ERROR_NO_LABELS
            if "exam" in purposes:
                self.ctx.exam = datasets.only_exam(labelled)
                self.note("exam", self.ctx.exam)
                labelled = datasets.without_exam(labelled)
            self.ctx.dataset = labelled
        else:
            self.ctx.dataset = datasets.together(self.ctx.dataset, labelled)
            self.ctx.batch += 1
        self.note("dataset", self.ctx.dataset)
        self.report(f"{len(self.ctx.dataset)} labels to train on, {self.ctx.spent} structures paid for")
        return None

    # --- pretraining on the teacher's free labels --------------------------------------------------------

    def wants_pretraining(self) -> bool:
        """Whether the campaign file asks for a warm start on the teacher's labels."""
        return self.campaign.pretraining is not None

    def must_pretrain(self) -> bool:
        """Whether the pretraining is due."""
        return self.must("pretrain")

    def pretrain(self) -> ToContext:
        """Train on energies and forces of the teacher, which cost nothing."""
        settings = self.campaign.pretraining
        assert settings is not None
        if "pretraining_set" not in self.ctx:
            self.ctx.pretraining_set = datasets.with_teacher_labels(
                self.ctx.pool, orm.Int(settings.structures), orm.Int(self.campaign.seed)
            )
        config = recipes.pretraining(self.campaign, self.places)
        return self.start_step("pretrain", "gace.committee", config=config, train=self.ctx.pretraining_set)

    def keep_pretrained(self) -> ExitCode | None:
        """Keep the bundle that members start from."""
        failed = self.check("pretrain")
        if failed is not None:
            return failed
        self.ctx.pretrained = self.ended("pretrain").outputs.potential
        self.note("pretrained", self.ctx.pretrained)
        return None

    # --- the loop ------------------------------------------------------------------------------------------

    def goes_on(self) -> bool:
        """Whether another turn is due."""
        return not self.ctx.finished

    def must_train(self) -> bool:
        """Whether the training is due."""
        return self.must("train")

    def train(self) -> ToContext:
        """Train a committee on all labels; the last one with the settings for the end."""
        inputs = {"config": recipes.committee(self.campaign, self.places, self.ctx.turn, self.is_last)}
        if "isolated_atoms" in self.ctx:
            inputs["isolated_atoms"] = self.ctx.isolated_atoms
        start = self.ctx.get("pretrained") if self.campaign.warm_start != "none" else None
        if self.campaign.warm_start == "previous":
            start = self.ctx.get("potential") or start
        if start is not None:
            inputs["start_from"] = start
        return self.start_step("train", "gace.committee", train=self.ctx.dataset, **inputs)

    def keep_potential(self) -> ExitCode | None:
        """Keep the new bundle."""
        failed = self.check("train")
        if failed is not None:
            return failed
        self.ctx.potential = self.ended("train").outputs.potential
        self.note("potential", self.ctx.potential)
        return None

    def must_register(self) -> bool:
        """Whether registration and exam are due."""
        return self.must("register")

    def register_and_examine(self) -> ToContext:
        """Register the bundle in MLflow; on a passed exam the alias champion moves to it."""
        job = self.ended("train")
        nodes = {"workflow": self.uuid, "committee": job.uuid, "potential": self.ctx.potential.uuid}
        nodes["dataset"] = self.ctx.dataset.uuid
        config = recipes.registration(
            self.campaign, self.places, self.ctx.turn, self.ctx.spent, nodes, job.outputs.summary.get_dict()
        )
        inputs: dict[str, t.Any] = {"potential": self.ctx.potential, "committee": job.outputs.retrieved}
        if "exam" in self.ctx:
            inputs["exam"] = self.ctx.exam
            nodes["exam"] = self.ctx.exam.uuid
        return self.start_step("register", "gace.register", config=config, **inputs)

    def keep_exam_result(self) -> ExitCode | None:
        """Remember the champion."""
        failed = self.check("register")
        if failed is not None:
            return failed
        registration = self.ended("register").outputs.registration.get_dict()
        if recipes.became_champion(registration):
            self.ctx.champion = self.ctx.potential
            self.ctx.champion_version = str(registration["version"])
            self.note("champion", self.ctx.champion)
        self.ctx.exam_history.append(recipes.exam_result(registration, self.ctx.turn, self.ctx.spent))
        self.report(recipes.exam_line(registration, self.ctx.turn))
        return None

    def batches_left(self) -> int:
        """How many batches of labels the campaign file still plans."""
        return max(0, len(self.campaign.batches) - self.ctx.batch)

    def labels_wanted(self) -> int:
        """Size of the next batch, as far as the budget goes."""
        if not self.batches_left():
            return 0
        return max(
            0, min(self.campaign.batches[self.ctx.batch], self.campaign.budget.labels - self.ctx.spent)
        )

    def decide(self) -> None:
        """Apply the stop rule; a last training may still follow."""
        if self.ctx.done:
            self.ctx.finished = True
            return
        left = self.campaign.budget.labels - self.ctx.spent
        stop = recipes.stop_verdict(self.campaign, self.ctx.exam_history, self.batches_left(), left)
        if stop["stopped"]:
            self.finish(stop)

    def finish(self, stop: dict[str, t.Any]) -> None:
        """Ask for no more labels; settings for the end make another training worth while."""
        was_last = self.is_last
        self.ctx.stop = stop
        self.ctx.done = True
        if was_last or self.campaign.final_training is None:
            self.ctx.finished = True
        else:
            self.ctx.turn += 1
        self.report(f"no more labels: {stop['detail']}")

    @property
    def is_last(self) -> bool:
        """Whether the present turn can be seen to be the last: nothing more will be labelled."""
        return self.ctx.done or self.labels_wanted() == 0

    def wants_labels(self) -> bool:
        """Whether this turn labels another batch."""
        return not self.ctx.done and self.labels_wanted() > 0

    def must_explore(self) -> bool:
        """Whether the exploration is due."""
        return self.must("explore")

    def explore(self) -> ToContext:
        """Run walkers with the newest potential from labelled structures."""
        config = recipes.exploration(self.campaign, self.places, self.ctx.turn)
        inputs = {"config": config, "start": self.ctx.dataset, "potential": self.ctx.potential}
        return self.start_step("explore", "gace.explore", **inputs)

    def keep_candidates(self) -> ExitCode | None:
        """Keep what the walkers found; that they found nothing ends the labelling, not the campaign."""
        job = self.ended("explore")
        if job.exit_status == 420:
            self.finish(recipes.ending("no_candidates", "no walker left a usable structure"))
            return None
        failed = self.check("explore")
        if failed is not None:
            return failed
        self.ctx.pool = job.outputs.candidates
        self.note("candidates", self.ctx.pool)
        return None

    def select(self) -> ToContext:
        """Filter, deduplicate, diversify, and add the random reserve."""
        config = recipes.selection(self.campaign, self.ctx.turn, self.labels_wanted(), self.ctx.refused)
        inputs = {"config": config, "pool": self.ctx.pool, "training": self.ctx.dataset}
        return self.start_step("select", "gace.select", potential=self.ctx.potential, **inputs)

    def close_campaign(self) -> None:
        """Hand over the champion and the data."""
        champion = self.ctx.get("champion")
        self.out("potential", champion or self.ctx.potential)
        self.out("dataset", self.ctx.dataset)
        for name in ("exam", "isolated_atoms"):
            if name in self.ctx:
                self.out(name, self.ctx[name])
        if champion is not None:
            self.out("mlflow_version", orm.Str(self.ctx.champion_version).store())
        outcome = {
            "stop": self.ctx.stop,
            "exam_history": self.ctx.exam_history,
            "champion_version": self.ctx.get("champion_version"),
            "spent": self.ctx.spent,
        }
        self.out("outcome", orm.Dict(outcome).store())


__all__ = ["ActiveLearningWorkChain"]
