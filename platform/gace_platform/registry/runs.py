"""Runs of a generation and of its members: found by tag, so that a killed registration is taken up again."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from gace_platform.registry.store import Store

MAX_POINTS = 200
"""Longest curve logged for one metric of a member."""
FORBIDDEN = re.compile(r"[^A-Za-z0-9_.\-/: ]")
"""Characters that MLflow refuses in the name of a metric."""
BATCH = 1000
"""MLflow takes at most so many metrics in one call."""


def ensure_experiment(store: Store, client: MlflowClient, name: str) -> str:
    """Id of the experiment called ``name``, made when absent.

    Raises:
        InputError: an experiment of that name was deleted and still occupies it.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        # MLflow's pages then open on the training of models, not on chat bots
        tags = {"mlflow.experimentKind": "custom_model_development"}
        location = store.artifact_location(name)
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    if found.lifecycle_stage != "active":
        raise InputError(f"the MLflow experiment '{name}' is deleted: restore it, or choose another name")
    return str(found.experiment_id)


def find_runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
    """Runs of an experiment that carry all ``tags``, newest first."""
    clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], " and ".join(clauses), max_results=500, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def bury_half_made(client: MlflowClient, experiment_id: str, identity: Mapping[str, str]) -> int:
    """Mark what a killed registration left behind as KILLED; returns how many runs that were.

    Called while holding the store for writing: whoever made these runs is gone.
    """
    parents = [run for run in find_runs(client, experiment_id, identity) if run.info.status != "KILLED"]
    for parent in parents:
        children = find_runs(client, experiment_id, {"mlflow.parentRunId": parent.info.run_id})
        for run in [*children, parent]:
            client.set_terminated(run.info.run_id, status="KILLED")
    return len(parents)


def log_members(client: MlflowClient, experiment_id: str, parent: Run, committee: Path) -> int:
    """Make one finished child run per member of a committee's folder; returns their number.

    A member's curves come from ``members/<m>/metrics.jsonl``, thinned to ``MAX_POINTS`` each; its
    figures from the entry of ``summary.json`` with the same place in the list ``members``.
    """
    summaries = _member_summaries(committee)
    for position, folder in enumerate(member_folders(committee)):
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "mlflow.runName": f"{parent.info.run_name} · member {folder.name}",
            "gace.kind": "member",
            "member": folder.name,
        }
        run = client.create_run(experiment_id, tags=tags)
        summary = summaries[position] if position < len(summaries) else {}
        log_curves(client, run.info.run_id, folder / "metrics.jsonl")
        log_metrics(client, run.info.run_id, dict(flat_numbers(summary)), step=0)
        client.set_terminated(run.info.run_id)
    return len(member_folders(committee))


def member_folders(committee: Path) -> list[Path]:
    """Folders of the members that have metrics, in the order of their numbers."""
    folders = [path.parent for path in committee.glob("members/*/metrics.jsonl")]
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))


def _member_summaries(committee: Path) -> list[dict[str, Any]]:
    try:
        summary = json.loads((committee / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    members = summary.get("members") if isinstance(summary, dict) else None
    return [entry for entry in members if isinstance(entry, dict)] if isinstance(members, list) else []


def log_curves(client: MlflowClient, run_id: str, path: Path) -> None:
    """Log a ``metrics.jsonl`` (one JSON object per epoch) as curves over the epoch."""
    rows = list(_json_lines(path))
    if len(rows) > MAX_POINTS:
        last = len(rows) - 1
        rows = [rows[round(index * last / (MAX_POINTS - 1))] for index in range(MAX_POINTS)]
    now = int(time.time() * 1000)
    points = [
        (key, value, now, int(row.get("epoch", number)))
        for number, row in enumerate(rows)
        for key, value in flat_numbers(row)
        if key != "epoch"
    ]
    _log(client, run_id, points)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file; a line cut off by a kill is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    """Log one value for each metric."""
    now = int(time.time() * 1000)
    _log(client, run_id, [(key, float(value), now, step) for key, value in metrics.items()])


def _log(client: MlflowClient, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(FORBIDDEN.sub("_", key), value, when, step)
        for key, value, when, step in points
        if math.isfinite(value)
    ]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a nested mapping, with names joined by ``/``."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


__all__ = [
    "MAX_POINTS",
    "bury_half_made",
    "ensure_experiment",
    "find_runs",
    "flat_numbers",
    "log_members",
    "log_metrics",
]
