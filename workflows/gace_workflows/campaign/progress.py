"""What a campaign has done so far, read from AiiDA: one row per step, and the lines that tell it."""

from __future__ import annotations

import datetime
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from aiida.orm import WorkChainNode


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
    """The campaign's work chain: the one named, else the last one submitted in the profile."""
    from aiida import orm
    from aiida.common.exceptions import NotExistent

    from gace_workflows.active_learning import ActiveLearningWorkChain

    if uuid is not None:
        try:
            return t.cast("WorkChainNode", orm.load_node(uuid))
        except NotExistent:
            return None
    query = orm.QueryBuilder().append(ActiveLearningWorkChain, tag="chain")
    # by number: the clock may have been set back between two loops
    return query.order_by({"chain": {"id": "desc"}}).limit(1).first(flat=True)


COLUMNS = (
    "id",
    "uuid",
    "label",
    "ctime",
    "mtime",
    "extras.gace_step",
    "extras.gace_generation",
    "attributes.process_state",
    "attributes.exit_status",
    "attributes.exit_message",
    "attributes.exception",
)


def steps_of(chain: WorkChainNode) -> list[Step]:
    """All tries of all steps of a work chain, in the order of their start.

    One query that loads no node, since it is asked every second or two.
    """
    from aiida import orm

    query = orm.QueryBuilder().append(orm.WorkChainNode, filters={"id": chain.pk}, tag="chain")
    query.append(
        orm.ProcessNode,
        with_incoming="chain",
        filters={"extras": {"has_key": "gace_step"}},
        project=list(COLUMNS),
    )
    return sorted((as_step(*row) for row in query.iterall()), key=lambda step: step.pk)


def as_step(
    pk: int,
    uuid: str,
    label: str,
    ctime: datetime.datetime,
    mtime: datetime.datetime,
    name: str,
    generation: int,
    state: str | None,
    exit_status: int | None,
    exit_message: str | None,
    exception: str | None,
) -> Step:
    """One row of the table."""
    state = state or "created"
    lines = (exception or "").strip().splitlines()
    return Step(
        pk=pk,
        uuid=uuid,
        name=name,
        generation=int(generation),
        title=label,
        state=state,
        exit_status=exit_status,
        message=(exit_message or "") if state == "finished" else (lines[-1] if lines else ""),
        seconds=(mtime - ctime).total_seconds(),
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


__all__ = ["Step", "as_step", "find_work_chain", "news", "steps_of"]
