"""The campaign as it stands in AiiDA's database, gathered for summary and report."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gace_platform.ledger.store import LabelStore
from gace_workflows.campaign.progress import Step, steps_of

if t.TYPE_CHECKING:
    from aiida.orm import ProcessNode, WorkChainNode
    from ase import Atoms

Row = dict[str, t.Any]


@dataclass
class Turn:
    """What the steps of one turn of the loop left behind; absent where a step has not ended well."""

    number: int
    nodes: dict[str, ProcessNode] = field(default_factory=dict)
    """The process that ended each step well, by the name of the step."""
    core_seconds: dict[str, float] = field(default_factory=dict)
    """Processor time by step, failed tries included; that of the labels is the ledger's."""
    wall_seconds: float = 0.0

    def output(self, step: str, name: str) -> t.Any:
        """An output node of a step, or None."""
        node = self.nodes.get(step)
        return None if node is None or name not in node.outputs else node.outputs[name]

    def summary(self, step: str) -> Row:
        """The summary that a step's command printed."""
        node = self.output(step, "summary")
        return {} if node is None else node.get_dict()

    @property
    def registration(self) -> Row:
        """What the registry answered."""
        node = self.output("register", "registration")
        return {} if node is None else node.get_dict()


@dataclass
class History:
    """All turns of a campaign; turn 0 is the first look around."""

    chain: WorkChainNode
    turns: dict[int, Turn]
    steps: list[Step]

    @property
    def trained(self) -> list[Turn]:
        """Turns whose potential is registered, in order."""
        return [turn for _, turn in sorted(self.turns.items()) if turn.registration]

    @property
    def verdicts(self) -> list[tuple[int, Row]]:
        """Turn and verdict of every structure sent to the reference calculation."""
        rows = []
        for number, turn in sorted(self.turns.items()):
            table = turn.output("label", "verdicts")
            rows += [(number, row) for row in (table.get_dict()["structures"] if table is not None else [])]
        return rows

    @property
    def isolated_atoms(self) -> Row:
        """Verdict on each isolated atom, by element."""
        found: Row = {}
        for turn in self.turns.values():
            table = turn.output("label", "verdicts")
            if table is not None:
                found |= table.get_dict().get("isolated_atoms", {})
        return found

    @property
    def exam(self) -> list[Atoms]:
        """The labelled structures of the exam; empty before they are labelled."""
        first = self.turns.get(0)
        labelled = first.output("label", "labelled") if first is not None else None
        if labelled is None:
            return []
        return [atoms for atoms in labelled.get_structures() if atoms.info.get("purpose") == "exam"]

    def core_seconds(self) -> dict[str, float]:
        """Processor time by step over all turns, s."""
        total: dict[str, float] = {}
        for turn in self.turns.values():
            for step, seconds in turn.core_seconds.items():
                total[step] = total.get(step, 0.0) + seconds
        return {step: round(seconds, 1) for step, seconds in total.items()}


def read_history(chain: WorkChainNode, labels: Path) -> History:
    """Gather what a work chain has done so far.

    Earlier work chains of the same campaign that failed count into the price, not into the results.

    Args:
        chain: the work chain.
        labels: folder of the label store, which knows what labels cost; it may not exist yet.
    """
    from aiida import orm

    history = History(chain, {}, steps_of(chain))
    steps = all_steps()
    for node in steps:
        name, generation = (node.base.extras.get(key) for key in ("gace_step", "gace_generation"))
        turn = history.turns.setdefault(generation, Turn(generation))
        line = group_of(name)
        turn.core_seconds[line] = turn.core_seconds.get(line, 0.0) + processor_time(node)
    for step in history.steps:
        turn = history.turns[step.generation]
        turn.wall_seconds += step.seconds
        if step.ok or (step.name == "label" and step.exit_status == 500):
            turn.nodes[step.name] = t.cast("ProcessNode", orm.load_node(step.pk))
    if labels.is_dir():
        shares = label_shares(LabelStore(labels), [one for one in steps if step_of(one) == "label"])
        for turn in history.turns.values():
            turn.core_seconds.pop("label", None)
        for number, seconds in shares.items():
            history.turns.setdefault(number, Turn(number)).core_seconds["label"] = seconds
    return history


def all_steps() -> list[ProcessNode]:
    """Every try of every step of every work chain in this profile, in the order of their start."""
    from aiida import orm

    query = orm.QueryBuilder()
    query.append(orm.ProcessNode, filters={"extras": {"has_key": "gace_step"}}, tag="step")
    return list(query.order_by({"step": {"id": "asc"}}).all(flat=True))


def step_of(node: ProcessNode) -> str:
    """Name of the step that a process is a try of."""
    return str(node.base.extras.get("gace_step"))


def label_shares(store: LabelStore, steps: list[ProcessNode]) -> dict[int, float]:
    """What the labels of each turn cost, s, calculations set aside or lost to a kill included.

    The jobs cannot tell: one that was killed leaves no summary, and the next finds in the store what it had
    paid for. So the price is the ledger's, for the turn that asked for a label first. What no table names yet
    (the labels of a step under way) belongs to the turn that labels now.
    """
    asked: dict[str, int] = {}
    number = 0
    for step in steps:
        number = int(step.base.extras.get("gace_generation"))
        for table in verdict_tables(step):
            for row in (*table.get("structures", []), *table.get("isolated_atoms", {}).values()):
                asked.setdefault(row["key"], number)
    shares: dict[int, float] = {}
    for key, seconds in store.prices():
        turn = asked.get(key, number)
        shares[turn] = shares.get(turn, 0.0) + seconds
    return shares


def verdict_tables(step: ProcessNode) -> Iterator[Row]:
    """The verdict tables of a labelling step, or of those of its jobs that have ended."""
    for node in (step, *getattr(step, "called", [])):
        if "verdicts" in node.outputs:
            yield node.outputs.verdicts.get_dict()


def fate(row: Row) -> t.Literal["accepted", "quarantined", "failed"]:
    """What became of a structure; ``failed``: no remedy led to an energy that could be distrusted."""
    if row["verdict"] == "accepted":
        return "accepted"
    return "failed" if row.get("energy") is None else "quarantined"


def group_of(step: str) -> str:
    """The line of the bill a step belongs to."""
    return {"look_around": "explore", "look_for_exam": "explore", "register": "examine"}.get(step, step)


def processor_time(node: ProcessNode) -> float:
    """Processor time of a step and everything it called, s; 0 where the job left no summary."""
    if "summary" in node.outputs:
        return float(node.outputs.summary.get_dict().get("core_seconds") or 0.0)
    return sum(processor_time(child) for child in node.called) if hasattr(node, "called") else 0.0


def producers(turn: Turn) -> dict[str, str]:
    """UUID of the job that looked after each label key of a turn."""
    found: dict[str, str] = {}
    for job in getattr(turn.nodes.get("label"), "called", []):
        if "verdicts" in job.outputs:
            found |= {row["key"]: job.uuid for row in job.outputs.verdicts.get_dict().get("structures", [])}
    return found


__all__ = ["History", "Turn", "fate", "producers", "read_history"]
