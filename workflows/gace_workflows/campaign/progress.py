"""What a campaign has done so far, read from AiiDA: one row per step, and the lines that tell it."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from aiida.orm import ProcessNode, WorkChainNode


@dataclass(frozen=True)
class Step:
    """One try of one step."""

    pk: int
    uuid: str
    name: str
    generation: int
    title: str
    state: str
    """``waiting``, ``running``, ``finished``, ``excepted`` or ``killed``, as AiiDA calls it."""
    exit_status: int | None
    message: str
    seconds: float
    """Wall time from creation to the last change, s."""

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ("finished", "excepted", "killed")

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.state == "finished" and self.exit_status == 0

    def line(self) -> str:
        """One line for people."""
        mark = "✓" if self.ok else ("✗" if self.ended else "…")
        trouble = "" if self.ok or not self.ended else f"  {self.message or self.state}"
        return f"{mark} {self.title:<46} {self.seconds:7.1f} s{trouble}"


def find_work_chain(uuid: str | None = None) -> WorkChainNode | None:
    """The campaign's work chain: the one named, else the newest in the profile."""
    from aiida import orm
    from aiida.common.exceptions import NotExistent

    from gace_workflows.active_learning import ActiveLearningWorkChain

    if uuid is not None:
        try:
            return t.cast("WorkChainNode", orm.load_node(uuid))
        except NotExistent:
            return None
    query = orm.QueryBuilder().append(ActiveLearningWorkChain, tag="chain")
    return query.order_by({"chain": {"ctime": "desc"}}).limit(1).first(flat=True)


def steps_of(chain: WorkChainNode) -> list[Step]:
    """All tries of all steps of a work chain, in the order of their start."""
    return [as_step(node) for node in sorted(chain.called, key=lambda node: node.pk) if is_step(node)]


def is_step(node: ProcessNode) -> bool:
    """Whether a process is a step of a campaign (and not one of its small calculation functions)."""
    return "gace_step" in node.base.extras.all


def as_step(node: ProcessNode) -> Step:
    """One row of the table."""
    state = node.process_state.value if node.process_state else "created"
    return Step(
        pk=t.cast("int", node.pk),
        uuid=node.uuid,
        name=node.base.extras.get("gace_step", ""),
        generation=node.base.extras.get("gace_generation", 0),
        title=node.label,
        state=state,
        exit_status=node.exit_status,
        message=(node.exit_message or "") if state == "finished" else (node.exception or "").strip(),
        seconds=(node.mtime - node.ctime).total_seconds(),
    )


def news(chain: WorkChainNode, told: set[str]) -> list[str]:
    """Lines on whatever happened since they were last asked for; ``told`` remembers."""
    from aiida import orm

    lines = []
    for step in steps_of(chain):
        if step.ended and step.uuid not in told:
            told.add(step.uuid)
            lines.append(step.line())
    for entry in orm.Log.collection.get_logs_for(chain):
        if entry.uuid not in told:
            told.add(entry.uuid)
            text = str(entry.message).rpartition("]: ")[2]
            lines.append(f"  {text.splitlines()[0] if text else ''}")
    return lines


__all__ = ["Step", "as_step", "find_work_chain", "is_step", "news", "steps_of"]
