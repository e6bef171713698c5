"""What a campaign leaves: the champion's bundle, the data, summary.json and the report."""

from __future__ import annotations

import tempfile
import typing as t
from pathlib import Path

from gace.files import write_json_atomic
from gace_platform.ledger.store import LabelStore
from gace_platform.report.record import Totals
from gace_workflows.campaign.file import Campaign
from gace_workflows.campaign.folder import CampaignFolder
from gace_workflows.campaign.history import History, fate, read_history

if t.TYPE_CHECKING:
    from aiida.orm import WorkChainNode

Summary = dict[str, t.Any]


def finish(
    folder: CampaignFolder, campaign: Campaign, chain: WorkChainNode, tell: t.Callable[[str], None]
) -> Summary:
    """Write everything a finished campaign leaves; returns the summary."""
    place_bundle(folder, chain)
    place_data(folder, chain)
    history = read_history(chain, folder.labels)
    summary = summarise(folder, campaign, history)
    write_json_atomic(folder.summary, summary)
    write_report(folder, campaign, history)
    tell(f"report  {folder.report}")
    return summary


def place_bundle(folder: CampaignFolder, chain: WorkChainNode) -> None:
    """Copy the champion's bundle to ``potential/``, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".potential-") as scratch:
        new = Path(scratch) / "potential"
        chain.outputs.potential.copy_to(new)
        if folder.potential.exists():
            folder.potential.rename(Path(scratch) / "old")
        new.rename(folder.potential)


def place_data(folder: CampaignFolder, chain: WorkChainNode) -> None:
    """Write the labelled data sets as extended XYZ into ``data/``."""
    from gace.files import write_atomic

    folder.data.mkdir(exist_ok=True)
    for name in ("dataset", "exam", "isolated_atoms"):
        if name in chain.outputs:
            with chain.outputs[name].open(mode="rb") as source:
                write_atomic(folder.data / f"{name}.xyz", source.read())


def bill(folder: CampaignFolder, history: History) -> Totals:
    """What the campaign has cost so far; labels that were lost to a kill are paid for too."""
    rows = [row for _, row in history.verdicts]
    fates = list({row["key"]: fate(row) for row in rows}.values())
    return Totals(
        labels=len(fates),
        labels_failed=fates.count("failed"),
        labels_quarantined=fates.count("quarantined"),
        labels_reused=len(
            {row["key"] for row in rows} - {row["key"] for row in rows if not row.get("reused")}
        ),
        wall_seconds=round(folder.wall_seconds(), 1),
        core_seconds=history.core_seconds(),
    )


def summarise(folder: CampaignFolder, campaign: Campaign, history: History) -> Summary:
    """The content of ``summary.json``."""
    from gace.structures.identity import dataset_hash

    chain = history.chain
    outputs = chain.outputs
    totals = bill(folder, history)
    accepted = {row["key"] for _, row in history.verdicts if row["verdict"] == "accepted"}
    atoms = [row for row in history.isolated_atoms.values() if row["verdict"] == "accepted"]
    labelled = outputs.dataset.get_structures() + (outputs.exam.get_structures() if "exam" in outputs else [])
    outcome = outputs.outcome.get_dict()
    champion = outcome.get("champion_version")
    return {
        "campaign": campaign.campaign,
        "labels": len(accepted),
        "labels_failed": totals.labels_quarantined + totals.labels_failed,
        "labels_exam": len(outputs.exam) if "exam" in outputs else 0,
        "isolated_atoms": len(atoms),
        "labels_paid_twice": LabelStore(folder.labels).paid_twice(),
        "generations": len(history.trained),
        "champion": f"models:/{campaign.campaign}@champion" if champion else None,
        "champion_version": champion,
        "bundle": str(folder.potential),
        "core_seconds": totals.core_seconds,
        "wall_seconds": totals.wall_seconds,
        "report": str(folder.report),
        "dataset_hash": dataset_hash(labelled),
        "learning_curve": outcome["exam_history"],
        "stop": outcome["stop"],
        "mlflow": f"sqlite:///{folder.mlflow / 'mlflow.db'}",
        "aiida_path": str(folder.path / ".aiida"),
        "work_chain": chain.uuid,
    }


def write_report(folder: CampaignFolder, campaign: Campaign, history: History) -> Path:
    """(Re)write ``report.html`` and the record behind it from what is known now."""
    from gace_platform.report import render
    from gace_workflows.campaign.record import make_record

    chain = history.chain
    stop = chain.outputs.outcome.get_dict()["stop"] if "outcome" in chain.outputs else {}
    record = make_record(history, campaign, bill(folder, history), stop)
    write_json_atomic(folder.path / "record.json", record.model_dump(mode="json"))
    render(record, folder.report)
    return folder.report


__all__ = ["bill", "finish", "summarise", "write_report"]
