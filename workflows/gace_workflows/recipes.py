"""From the campaign file to the configuration of each step: pure functions, no AiiDA.

Every configuration holds only what the campaign file says and what the campaign fills in (seeds,
stores, cluster); defaults stay with the commands.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gace.randomness import derive_seed
from gace_workflows.campaign.file import Campaign

STEP_TITLES = {
    "look_around": "explore with the teacher",
    "look_for_exam": "explore for the exam",
    "pretrain": "pretrain on the teacher's labels",
    "train": "train committee",
    "register": "register and examine",
    "explore": "explore",
    "select": "select",
    "label": "label",
}

Config = dict[str, Any]
Places = dict[str, str]


def said(section: BaseModel) -> Config:
    """What a section says explicitly, as plain data."""
    return section.model_dump(mode="json", exclude_unset=True)


def merged(base: Config, other: Config) -> Config:
    """``base`` with the keys of ``other`` put over it, section by section."""
    result = dict(base)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def turn_seed(campaign: Campaign, *content: str | int) -> int:
    """Seed of one draw of one turn; 31 bits, which every consumer can hold."""
    return derive_seed(campaign.seed, *content) >> 32


def cluster(places: Places) -> Config:
    """How commands find the campaign's Dask cluster, a restarted one too."""
    return {"provider": "address", "scheduler_file": places["scheduler_file"], "timeout": 60}


def first_exploration(campaign: Campaign, places: Places, step: str) -> Config:
    """Exploration with the teacher (``look_around``), or for the exam (``look_for_exam``)."""
    config = merged(said(campaign.exploration), said(campaign.initial.exploration))
    if step == "look_for_exam":
        config = merged(config, said(campaign.exam.exploration))
    return {
        **config,
        "teacher": {
            **said(campaign.initial.teacher),
            "charge": campaign.system.charge,
            "spin": campaign.system.spin,
        },
        "seed": turn_seed(campaign, step),
        "name": "exam" if step == "look_for_exam" else "walk-g0",
        "cluster": cluster(places),
        "scratch": f"{places['scratch']}/explore",
    }


def exploration(campaign: Campaign, places: Places, generation: int) -> Config:
    """Exploration with the potential of a generation."""
    return {
        **said(campaign.exploration),
        "seed": turn_seed(campaign, "explore", generation),
        "name": f"walk-g{generation}",
        "cluster": cluster(places),
        "scratch": f"{places['scratch']}/explore",
    }


def selection(campaign: Campaign, generation: int, count: int, refused: list[str] | None = None) -> Config:
    """Selection of ``count`` structures; generation 0 knows no potential yet.

    ``refused`` are the label keys of quarantined structures, which are not to be paid for again.
    """
    config = said(campaign.selection)
    if not generation:
        config = merged(config, said(campaign.initial.selection))
    return {
        **config,
        "count": count,
        "seed": turn_seed(campaign, "select", generation),
        "exclude_keys": sorted(refused or []),
    }


def labelling(campaign: Campaign, places: Places) -> Config:
    """Reference calculations into the campaign's label store."""
    reference = campaign.reference.model_dump(mode="json", exclude_unset=True)
    return {
        **said(campaign.labelling),
        "reference": {"engine": campaign.reference.engine, **reference},
        "store": places["labels"],
        "isolated_atoms": True,
    }


def jobs_in_flight(campaign: Campaign) -> int:
    """How many labelling jobs may wait or run at a time."""
    jobs = campaign.aiida.jobs
    return campaign.cluster.workers if jobs is None else jobs.in_flight


def labelling_inputs(campaign: Campaign) -> dict[str, Any]:
    """Further inputs of the labelling work chain: how many jobs of which size."""
    from aiida import orm

    inputs: dict[str, Any] = {"max_in_flight": orm.Int(jobs_in_flight(campaign))}
    if campaign.batch_size is not None:
        inputs["batch_size"] = orm.Int(campaign.batch_size)
    return inputs


def committee(campaign: Campaign, places: Places, generation: int, final: bool) -> Config:
    """Training of a generation's committee; ``final`` takes the settings for the end."""
    training = said(campaign.training)
    if final and campaign.final_training is not None:
        training = merged(training, said(campaign.final_training))
    return {
        "data": {"level_of_theory": campaign.reference.model_dump(mode="json")},
        "potential": said(campaign.potential),
        "training": training,
        "committee": said(campaign.committee),
        "seed": turn_seed(campaign, "train", generation),
        "dtype": campaign.dtype,
        "name": f"train g{generation}",
        "cluster": cluster(places),
        "scratch": f"{places['scratch']}/train",
    }


def pretraining(campaign: Campaign, places: Places) -> Config:
    """Training on the teacher's labels."""
    settings = campaign.pretraining
    if settings is None:
        raise ValueError("this campaign has no pretraining")
    config = committee(campaign, places, 0, final=False)
    config["training"] = merged(config["training"], said(settings.training))
    config["committee"] = merged(config["committee"], {"members": settings.members})
    config["name"] = "pretrain"
    config["data"] = {"level_of_theory": {"teacher": said(campaign.initial.teacher)}}
    return config


def registration(
    campaign: Campaign,
    places: Places,
    generation: int,
    labels: int,
    nodes: dict[str, str],
    summary: Config,
) -> Config:
    """Registration of a generation with the exam; ``summary`` is what the training printed."""
    return {
        "name": campaign.campaign,
        "generation": generation,
        "store": places["mlflow"],
        "aiida_uuid": nodes["committee"],
        # a new loop after a failure finds the training's bundle again, but under a new job
        "known_by": "generation",
        "nodes": nodes,
        "n_labels": labels,
        "metrics": flat_numbers(summary),
        "exam": {"criteria": merged({"seed": turn_seed(campaign, "exam")}, said(campaign.exam.criteria))},
    }


def flat_numbers(summary: Config, prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested summary by dotted name; lists are left out."""
    found: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            found |= flat_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
            found[f"{prefix}{key}"] = float(value)
    return found


def became_champion(registration: Config) -> bool:
    """Whether the registered version is the champion now."""
    return registration.get("champion") is not None and str(registration["champion"]) == str(
        registration["version"]
    )


def exam_result(registration: Config, generation: int, labels: int) -> Config:
    """What the loop remembers of an exam."""
    result = registration.get("exam_result") or {}
    errors = result.get("errors") or {}
    return {
        "generation": generation,
        "labels": labels,
        "version": str(registration["version"]),
        "verdict": registration.get("exam"),
        "reason": registration.get("exam_reason"),
        # a loop begun anew meets a later champion: what counts then is that this version was champion too
        "champion": bool(registration.get("promoted")) or became_champion(registration),
        "forces_mae": (errors.get("forces_mae") or {}).get("value"),
        "energy_mae": (errors.get("energy_mae") or {}).get("value"),
    }


def exam_line(registration: Config, generation: int) -> str:
    """One sentence on an exam."""
    result = exam_result(registration, generation, 0)
    error = "" if result["forces_mae"] is None else f", force MAE {result['forces_mae']:.1f} meV/Å"
    reason = f" ({result['reason']})" if result["reason"] else ""
    crown = "; now champion" if became_champion(registration) else ""
    version, grade = result["version"], result["verdict"]
    return f"generation {generation}: version {version}, exam {grade}{error}{reason}{crown}"


def stop_verdict(campaign: Campaign, history: list[Config], batches_left: int, budget_left: int) -> Config:
    """Whether to ask for no more labels, with every condition and what is missing to it."""
    champions = [entry for entry in history if entry["champion"] and entry["forces_mae"] is not None]
    error = champions[-1]["forces_mae"] if champions else None
    target = campaign.stop.force_mae
    conditions = [
        {
            "name": "batches labelled",
            "met": batches_left <= 0,
            "value": float(batches_left),
            "threshold": 0.0,
            "unit": "batches left",
            "detail": f"{batches_left} batches of labels are planned still",
        },
        {
            "name": "budget spent",
            "met": budget_left <= 0,
            "value": float(budget_left),
            "threshold": 0.0,
            "unit": "labels left",
            "detail": f"{budget_left} labels of the budget are left",
        },
    ]
    if target is not None:
        conditions.insert(
            0,
            {
                "name": "force error",
                "met": error is not None and error <= target,
                "value": error,
                "threshold": target,
                "unit": "meV/Å",
                "detail": (
                    "no potential passed the exam"
                    if error is None
                    else f"the champion's force error on the exam is {error:.1f} meV/Å, "
                    f"{target:g} are asked for"
                ),
            },
        )
    met = [condition for condition in conditions if condition["met"]]
    return {
        "stopped": bool(met),
        "condition": met[0]["name"] if met else None,
        "detail": met[0]["detail"] if met else "; ".join(str(one["detail"]) for one in conditions),
        "conditions": conditions,
    }


def ending(condition: str, detail: str) -> Config:
    """A stop verdict for a reason that is no condition of the campaign file."""
    return {"stopped": True, "condition": condition, "detail": detail, "conditions": []}


__all__ = [
    "STEP_TITLES",
    "became_champion",
    "committee",
    "ending",
    "exam_line",
    "exam_result",
    "exploration",
    "first_exploration",
    "jobs_in_flight",
    "labelling",
    "labelling_inputs",
    "pretraining",
    "registration",
    "selection",
    "stop_verdict",
    "turn_seed",
]
