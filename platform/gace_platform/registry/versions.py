"""Versions of a registered model: listing, checking, and the alias ``champion``."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.errors import GaceError, InputError, RegistryError, nearest
from gace.potential.bundle import bundle_hash
from gace_platform.registry.store import Store, import_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""The alias that points to the version to be used."""
VERDICT = "exam"
"""Tag of a version: ``passed`` or ``failed``."""
PROMOTED = "promoted"
"""Tag of a version: when the alias ``champion`` was moved to it (ISO 8601)."""


@dataclass(frozen=True)
class Check:
    """Outcome of recomputing the checksums behind a version."""

    name: str
    version: str
    ok: bool
    recorded: str
    """Content hash recorded at registration."""
    found: str
    """Content hash of the bundle as it lies there now; empty if it is damaged or gone."""
    detail: str
    """What was found, in words."""


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of model ``name``, oldest first; an unknown model has none."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def model_names(client: MlflowClient) -> list[str]:
    """Names of all registered models."""
    names: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(max_results=200, page_token=token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            return sorted(names)


def get_version(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """One version, by number or as ``champion``.

    Raises:
        InputError: there is no such model, version or alias.
    """
    known = all_versions(client, name)
    if not known:
        raise InputError(f"no registered model '{name}'{nearest(name, model_names(client))}")
    wanted = champion(client, name) if version in (CHAMPION, f"@{CHAMPION}") else version
    if wanted is None:
        raise InputError(f"model '{name}' has no champion yet")
    for candidate in known:
        if str(candidate.version) == str(wanted):
            return candidate
    raise InputError(f"model '{name}' has no version {version}; it has 1 to {known[-1].version}")


def champion(client: MlflowClient, name: str) -> str | None:
    """The version that ``models:/NAME@champion`` means now."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def bundle_of(client: MlflowClient, version: ModelVersion, scratch: Path | None = None) -> Path:
    """The bundle folder behind a version: in place for a local store, else downloaded to ``scratch``.

    Raises:
        RegistryError: the artifacts are gone.
    """
    from mlflow.exceptions import MlflowException

    artifacts = client.get_model_version_download_uri(version.name, str(version.version))
    try:
        found = import_mlflow().artifacts.download_artifacts(
            artifact_uri=f"{artifacts.rstrip('/')}/artifacts/potential",
            dst_path=str(scratch) if scratch is not None and not artifacts.startswith("file:") else None,
        )
    except (OSError, MlflowException) as error:
        message = " ".join(str(error).split())[:200]
        raise RegistryError(
            f"the artifacts of {version.name} version {version.version} are gone: {message}"
        ) from None
    return Path(found)


def describe(version: ModelVersion, current: str | None) -> dict[str, Any]:
    """A version as JSON values, in the terms of the report's ``VersionRecord``."""
    tags = version.tags
    return {
        "name": version.name,
        "version": str(version.version),
        "generation": int(tags["generation"]) if tags.get("generation") else None,
        "champion": str(version.version) == current,
        "exam": tags.get(VERDICT),
        "promoted": tags.get(PROMOTED),
        "aiida_uuid": tags.get("aiida_uuid") or None,
        "content_hash": tags.get("content_hash"),
        "dataset_hash": tags.get("dataset_hash") or None,
        "nodes": {key.removeprefix("node."): value for key, value in tags.items() if key.startswith("node.")},
        "run_id": version.run_id,
        "created": _iso(version.creation_timestamp / 1000),
    }


def _iso(seconds: float) -> str:
    """A time since the epoch in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def promote(store: Store, name: str, version: str) -> str | None:
    """Move the alias ``champion`` to a version that passed its exam; returns the champion before.

    Moving the alias is the last step, and one transaction: whoever loads ``models:/NAME@champion``
    gets the old or the new version, never something between.

    Raises:
        InputError: no such version, or it has not passed the frozen exam.
    """
    with store.writing():
        client = store.client()
        target = get_version(client, name, version)
        verdict = target.tags.get(VERDICT)
        if verdict != "passed":
            state = "failed its exam" if verdict == "failed" else "has not sat the exam"
            raise InputError(
                f"{name} version {target.version} {state}: only a version that passed becomes champion"
            )
        before = champion(client, name)
        number = str(target.version)
        client.set_model_version_tag(name, number, PROMOTED, _iso(time.time()))
        client.set_registered_model_alias(name, CHAMPION, number)
        return before


def verify(store: Store, name: str, version: str) -> Check:
    """Recompute the checksums of the bundle behind a version and compare with what was recorded.

    Raises:
        InputError: no such version.
    """
    client = store.client()
    with store.writing(), tempfile.TemporaryDirectory() as scratch:
        target = get_version(client, name, version)
        recorded = target.tags.get("content_hash", "")
        try:
            bundle = bundle_of(client, target, Path(scratch))
            found = bundle_hash(bundle)
        except GaceError as error:
            return Check(name, str(target.version), False, recorded, "", str(error))
    same = found == recorded
    detail = (
        "the bundle is what was registered" if same else "the bundle was replaced since it was registered"
    )
    return Check(name, str(target.version), same, recorded, found, detail)


__all__ = [
    "CHAMPION",
    "Check",
    "all_versions",
    "bundle_of",
    "champion",
    "describe",
    "get_version",
    "model_names",
    "promote",
    "verify",
]
