"""What the steps of a campaign share: when one is tried again, its name, where its results are found."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain, append_
from aiida.engine.processes.workchains.workchain import WorkChainSpec
from aiida.plugins import CalculationFactory

from gace_workflows import recipes
from gace_workflows.campaign.file import Campaign, parse_campaign
from gace_workflows.patience import verdict, wants_another_try


class StepwiseWorkChain(WorkChain):
    """A work chain of steps in numbered turns; each step is one process, tried again for passing reasons.

    A subclass sets ``ctx.turn``. The tries of a step are kept in the context under :meth:`key`.
    """

    @classmethod
    def define(cls, spec: WorkChainSpec) -> None:
        """Declare the inputs that every step needs, and the exit code of a step that failed for good."""
        super().define(spec)
        spec.input("code", valid_type=orm.AbstractCode, help="The gace command.")
        spec.input("campaign", valid_type=orm.Dict, help="The campaign file.")
        spec.input(
            "places", valid_type=orm.Dict, help="Absolute paths: labels, scratch, mlflow, scheduler_file."
        )
        spec.exit_code(400, "ERROR_STEP_FAILED", message="{step} failed: {reason}")

    @property
    def campaign(self) -> Campaign:
        """The campaign file."""
        return parse_campaign(self.inputs.campaign.get_dict())

    @property
    def places(self) -> dict[str, str]:
        """Absolute paths of stores and scratch."""
        return self.inputs.places.get_dict()

    def key(self, step: str) -> str:
        """Where the tries of a step of the present turn are kept in the context."""
        return f"{step}_{self.ctx.turn}"

    def must(self, step: str) -> bool:
        """Whether a step of the present turn is to be submitted (again)."""
        return wants_another_try(self.ctx.get(self.key(step)))

    def ended(self, step: str) -> orm.ProcessNode:
        """The process that ended a step of the present turn."""
        return self.ctx[self.key(step)][-1]

    def check(self, step: str) -> ExitCode | None:
        """None when a step of the present turn ended well, else the exit code that ends the campaign."""
        return verdict(self.ctx[self.key(step)], self.title(step), self.exit_codes.ERROR_STEP_FAILED)

    def title(self, step: str) -> str:
        """How a step is called wherever users see it."""
        return f"generation {self.ctx.turn}: {recipes.STEP_TITLES[step]}"

    def start_step(self, step: str, process: t.Any, **inputs: t.Any) -> ToContext:
        """Submit one process as (another try of) a step, and wait for it."""
        return ToContext(**{self.key(step): append_(self.send(step, process, inputs))})

    def send(self, step: str, process: t.Any, inputs: dict[str, t.Any]) -> orm.ProcessNode:
        """Submit a process with the label and the extras by which users and reports find it."""
        if isinstance(process, str):
            process = CalculationFactory(process)
        if "config" in inputs and not isinstance(inputs["config"], orm.Dict):
            inputs["config"] = orm.Dict(inputs["config"])
        metadata = {"label": self.title(step), "description": f"campaign {self.campaign.campaign}"}
        node = self.submit(process, code=self.inputs.code, metadata=metadata, **inputs)
        node.base.extras.set_many({"gace_step": step, "gace_generation": self.ctx.turn})
        return node

    def note(self, what: str, node: orm.Data) -> None:
        """Put a node into the campaign's group and mark what it is."""
        node.base.extras.set_many({"gace_role": what, "gace_generation": self.ctx.turn})
        group, _ = orm.Group.collection.get_or_create(label=f"gace/{self.campaign.campaign}/{what}")
        group.add_nodes([node])


__all__ = ["StepwiseWorkChain"]
