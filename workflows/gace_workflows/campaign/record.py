"""From the history of a campaign to the record that the report shows."""

from __future__ import annotations

import datetime
import math
import typing as t
from importlib import metadata

from gace.structures.identity import structure_hash
from gace_platform.report.record import (
    CampaignRecord,
    Champion,
    Condition,
    ExamRecord,
    GenerationRecord,
    LabelRecord,
    Predictions,
    SetErrors,
    StopRecord,
    Totals,
    UncertaintyRecord,
    VersionRecord,
)
from gace_workflows.campaign.file import Campaign
from gace_workflows.campaign.history import History, Turn, fate, producers

if t.TYPE_CHECKING:
    from ase import Atoms


def make_record(history: History, campaign: Campaign, bill: Totals, stop: dict[str, t.Any]) -> CampaignRecord:
    """Everything the report of a campaign shows, finished or not."""
    generations, predictions = [], []
    accepted = 0
    for number, turn in sorted(history.turns.items()):
        # errors are those of a potential that knew only the labels of the turns before
        known = accepted
        accepted += sum(row["verdict"] == "accepted" for n, row in history.verdicts if n == number)
        if not number:
            generations.append(first_look(turn, accepted))
        elif turn.registration:
            errors, uncertainty, points = judge(turn, history.exam)
            predictions += points
            generations.append(generation_record(turn, known, errors, uncertainty))
        else:
            # what was spent on it, in this loop or in one that failed, is part of the bill
            generations.append(first_look(turn, known))
    versions = [version_record(turn) for turn in history.trained]
    champion = champion_of(history, campaign.campaign)
    if champion is not None:
        versions = [one.model_copy(update={"champion": one.version == champion.version}) for one in versions]
    return CampaignRecord(
        name=campaign.campaign,
        description=campaign.description,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        gace_version=metadata.version("gace"),
        elements=sorted({str(symbol) for atoms in history.exam for symbol in atoms.symbols}),
        level_of_theory=campaign.reference.model_dump(mode="json"),
        aiida_uuid=history.chain.uuid,
        champion=champion,
        totals=bill,
        generations=generations,
        predictions=predictions,
        labels=label_records(history),
        versions=versions,
        stop=stop_record(stop),
        notes=[
            "Errors, error bars and their calibration are measured on structures that the potential of that "
            "generation was not trained on: the exam, and the random reserve labelled after it.",
        ],
    )


def champion_of(history: History, name: str) -> Champion | None:
    """The champion after the last registration; in a loop begun anew it may be of a turn still to come."""
    current = history.trained[-1].registration.get("champion") if history.trained else None
    if current is None:
        return None
    turns = {str(turn.registration["version"]): turn.number for turn in history.trained}
    return Champion(
        uri=f"models:/{name}@champion",
        version=str(current),
        generation=turns.get(str(current)),
        bundle="potential",
    )


def first_look(turn: Turn, accepted: int) -> GenerationRecord:
    """A turn without a potential, such as generation 0: what was explored, selected and labelled."""
    return GenerationRecord(
        generation=turn.number,
        n_labels=accepted,
        core_seconds=dict(turn.core_seconds),
        wall_seconds=turn.wall_seconds,
        selected=counts(turn.summary("select").get("funnel")),
        walkers=counts(turn.summary("look_around").get("endings")),
    )


def generation_record(
    turn: Turn, known: int, errors: dict[str, SetErrors], uncertainty: UncertaintyRecord | None
) -> GenerationRecord:
    """One turn with a potential."""
    registration = turn.registration
    result = registration.get("exam_result")
    exam = None
    if result:
        conditions = [Condition.model_validate(one) for one in result["conditions"]]
        exam = ExamRecord(verdict=result["verdict"], conditions=conditions)
    return GenerationRecord(
        generation=turn.number,
        n_labels=known,
        n_train=len(turn.nodes["train"].inputs.train),
        errors=errors,
        uncertainty=uncertainty,
        exam=exam,
        core_seconds=dict(turn.core_seconds),
        wall_seconds=turn.wall_seconds,
        selected=counts(turn.summary("select").get("funnel")),
        walkers=counts(turn.summary("explore").get("endings")),
        version=str(registration["version"]),
    )


def judge(
    turn: Turn, exam: list[Atoms]
) -> tuple[dict[str, SetErrors], UncertaintyRecord | None, list[Predictions]]:
    """Errors, calibration and plot points of a turn's potential on structures it has not seen."""
    from gace_platform.exam.assess import plot_points, residuals, set_errors, uncertainty_record

    potential = turn.output("train", "potential").load()
    bars = bool(potential.has_error_bars)
    new = turn.output("label", "labelled")
    fresh = [] if new is None else new.get_structures()
    sets = {
        "exam": exam,
        "reserve": [atoms for atoms in fresh if atoms.info.get("origin") == "reserve"],
        "selected": [atoms for atoms in fresh if atoms.info.get("origin") != "reserve"],
    }
    errors, points = {}, []
    for name, structures in sets.items():
        if structures:
            found = residuals(potential, structures, uncertainty=bars)
            errors[name] = set_errors(found)
            points.append(plot_points(found, turn.number, name))
    unseen = sets["exam"] + sets["reserve"]
    uncertainty = (
        uncertainty_record(residuals(potential, unseen, uncertainty=bars)) if unseen and bars else None
    )
    return errors, uncertainty, points


def version_record(turn: Turn) -> VersionRecord:
    """A turn's version in the registry."""
    registration = turn.registration
    return VersionRecord(
        version=str(registration["version"]),
        generation=turn.number,
        aiida_uuid=registration.get("aiida_uuid") or None,
        content_hash=registration.get("content_hash"),
        run_id=registration.get("run_id"),
        exam_verdict=registration.get("exam"),
        promoted=bool(registration.get("promoted")),
        created=turn.nodes["register"].ctime.isoformat(timespec="seconds"),
    )


def label_records(history: History) -> list[LabelRecord]:
    """One line per structure that was sent to the reference calculation."""
    records = []
    for number, turn in sorted(history.turns.items()):
        if "label" not in turn.nodes:
            continue
        jobs = producers(turn)
        asked = {identity(atoms): atoms for atoms in turn.nodes["label"].inputs.structures.get_structures()}
        for _, row in (pair for pair in history.verdicts if pair[0] == number):
            atoms = asked.get(str(row.get("structure_id")))
            info = {} if atoms is None else atoms.info
            is_exam = info.get("purpose") == "exam"
            why = "drawn at random for the exam" if is_exam else str(info.get("selection_reason", ""))
            records.append(
                LabelRecord(
                    key=row["key"],
                    structure_id=str(row.get("structure_id") or ""),
                    generation=number,
                    reason=why,
                    verdict=fate(row),
                    detail=row.get("reason") or "",
                    core_seconds=float(row.get("price") or 0.0),
                    attempts=len(row.get("attempts") or []),
                    reused=bool(row.get("reused")),
                    origin="exam"
                    if is_exam
                    else str(info.get("selection_origin") or info.get("origin") or ""),
                    ancestor=str(info.get("ancestor", "")),
                    formula=str(row.get("formula", "")),
                    n_atoms=row.get("n_atoms"),
                    gamma=number_or_none(info.get("gamma")),
                    force_std=finite_or_none(info.get("forces_std")),
                    aiida_uuid=jobs.get(row["key"]),
                )
            )
    return records


def identity(atoms: Atoms) -> str:
    """Name by which verdict tables call a structure."""
    return str(atoms.info.get("structure_id") or structure_hash(atoms))


def counts(table: t.Any) -> dict[str, int]:
    """The whole numbers of a table; empty without one."""
    return {str(key): value for key, value in (table or {}).items() if isinstance(value, int) and value >= 0}


def number_or_none(value: t.Any) -> float | None:
    """A number, infinite ones included, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def finite_or_none(value: t.Any) -> float | None:
    """A finite number or None."""
    number = number_or_none(value)
    return number if number is not None and math.isfinite(number) else None


def stop_record(stop: dict[str, t.Any]) -> StopRecord | None:
    """The verdict of the stop rule, when there is one yet."""
    return StopRecord.model_validate(stop) if stop else None


__all__ = ["make_record"]
