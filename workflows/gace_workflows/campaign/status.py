"""The state of a campaign as a table."""

from __future__ import annotations

from typing import Any

from gace_workflows.campaign import profile
from gace_workflows.campaign.file import load_campaign
from gace_workflows.campaign.folder import CampaignFolder


def read_status(folder: CampaignFolder) -> dict[str, Any]:
    """What a campaign has done so far; reads the database, starts nothing."""
    from gace_platform.ledger.store import LabelStore
    from gace_workflows.campaign.progress import find_work_chain, steps_of

    campaign = load_campaign(folder.file)
    state = folder.read_state()
    found: dict[str, Any] = {
        "campaign": campaign.campaign,
        "dir": str(folder.path),
        "kept": folder.is_kept,
        "keeper": state.get("keeper"),
        "state": "not begun",
        "wall_seconds": round(folder.wall_seconds(), 1),
        "labels": sum(1 for _ in LabelStore(folder.labels).records()) if folder.labels.is_dir() else 0,
        "budget": campaign.budget.labels,
        "steps": [],
    }
    if not (profile.aiida_folder(folder.path) / "config.json").is_file():
        return found
    profile.open_profile(folder.path, campaign.campaign)
    chain = find_work_chain()
    if chain is None:
        return found
    found["state"] = state_of(chain)
    found["work_chain"] = chain.uuid
    found["steps"] = [
        {
            "pk": step.pk,
            "title": step.title,
            "state": step.state,
            "exit_status": step.exit_status,
            "seconds": round(step.seconds, 1),
            "line": step.line(),
        }
        for step in steps_of(chain)
    ]
    found["verdi"] = profile.verdi_hint(folder.path, campaign.campaign)
    return found


def state_of(chain: Any) -> str:
    """One word on a work chain."""
    if not chain.is_terminated:
        return "running"
    return "finished" if chain.is_finished_ok else "failed"


def table(status: dict[str, Any]) -> str:
    """The status for people."""
    kept = f"looked after by process {status['keeper']}" if status["kept"] else "nobody looks after it"
    lines = [
        f"campaign {status['campaign']}: {status['state']}; {kept}",
        f"{status['labels']} calculations in the label store, budget {status['budget']} structures, "
        f"{status['wall_seconds']:.0f} s",
        *(step["line"] for step in status["steps"]),
    ]
    if status["state"] in ("running", "failed") and not status["kept"]:
        lines.append(f"gace campaign resume {status['dir']} goes on")
    if "verdi" in status:
        lines.append(status["verdi"])
    return "\n".join(lines)


__all__ = ["read_status", "table"]
