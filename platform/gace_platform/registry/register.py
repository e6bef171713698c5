"""Registration of one generation: runs, model, version; the same call twice gives the same version.

Order of the steps, each of which a kill may interrupt: the parent run with its tags, figures and
child runs; the model (a copy of the bundle) logged on it; the version, with its tags in the same
transaction; the end of the run. Only the version counts: a call that finds it finishes the run,
a call that does not marks what it finds as KILLED and starts afresh.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.potential.bundle import bundle_hash, read_config
from gace_platform.registry import pyfunc_source
from gace_platform.registry.config import RegisterConfig
from gace_platform.registry.runs import bury_half_made, ensure_experiment, log_members, log_metrics
from gace_platform.registry.store import Store, import_mlflow
from gace_platform.registry.versions import all_versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL = "potential"
"""Name of the logged model, and of the bundle's folder among its artifacts."""
ALSO = "also."
"""Before the name of a tag: nodes that brought the same version again, after the one the tag names."""


@dataclass(frozen=True)
class Registered:
    """A version of the registered model, and where it came from."""

    name: str
    version: str
    run_id: str
    uri: str
    generation: int
    content_hash: str
    aiida_uuid: str
    dataset_hash: str
    created: bool
    """Whether this call made the version (else it was there)."""


def register_generation(store: Store, config: RegisterConfig) -> Registered:
    """Register the bundle of one generation, or find the version that holds it.

    Args:
        store: Where to register.
        config: What to register; its paths are absolute or relative to the working folder.

    Returns:
        The version; ``created`` tells whether it is new.

    Raises:
        InputError: something named does not exist.
        BundleError: the bundle is damaged.
    """
    config.check()
    content_hash = bundle_hash(config.bundle)
    identity = identity_of(config, content_hash)
    with store.writing():
        client = store.client()
        found = find_version(client, config.name, identity)
        if found is not None:
            _finish_run(client, found)
            _keep_nodes(client, found, config)
            return _registered(found, created=False)
        experiment = ensure_experiment(store, client, config.name)
        bury_half_made(client, experiment, {"gace.kind": "generation", **identity})
        parent = _make_run(client, experiment, config, content_hash)
        made = _make_version(client, parent, config, content_hash)
        client.set_terminated(parent.info.run_id, status="FINISHED")
        return _registered(made, created=True)


def identity_of(config: RegisterConfig, content_hash: str) -> dict[str, str]:
    """Tags by which the version of a bundle is found again.

    A campaign whose loop is begun anew finds its trainings again, so the same bundle comes from another job:
    there the generation tells what the job cannot.
    """
    if config.known_by == "generation":
        return {"content_hash": content_hash, "generation": str(config.generation)}
    return {"content_hash": content_hash, "aiida_uuid": config.aiida_uuid}


def find_version(client: MlflowClient, name: str, identity: dict[str, str]) -> ModelVersion | None:
    """The version (the oldest) of model ``name`` that carries all tags of ``identity``, if there is one."""
    for version in all_versions(client, name):
        if all(version.tags.get(key, "") == value for key, value in identity.items()):
            return version
    return None


def _make_run(client: MlflowClient, experiment: str, config: RegisterConfig, content_hash: str) -> Run:
    """The parent run of a generation with its parameters, figures, files and members."""
    tags = {
        "mlflow.runName": f"generation {config.generation:02d}",
        "gace.kind": "generation",
        **_tags(config, content_hash),
    }
    parent = client.create_run(experiment, tags=tags)
    run_id = parent.info.run_id
    counts = {} if config.n_labels is None else {"n_labels": config.n_labels}
    for key, value in {"generation": config.generation, **counts, **config.parameters}.items():
        client.log_param(run_id, key, value)
    step = config.generation if config.n_labels is None else config.n_labels
    log_metrics(client, run_id, config.metrics, step)
    if config.committee is not None:
        log_members(client, experiment, parent, config.committee)
        summary = config.committee / "summary.json"
        if summary.is_file():
            client.log_artifact(run_id, str(summary), "committee")
    return parent


def _make_version(
    client: MlflowClient, parent: Run, config: RegisterConfig, content_hash: str
) -> ModelVersion:
    """Log the bundle as a model on the parent run and register it."""
    mlflow = import_mlflow()
    with tempfile.TemporaryDirectory() as scratch:
        # the name of the folder becomes the name of the artifact
        bundle = Path(scratch) / MODEL
        shutil.copytree(config.bundle, bundle)
        with _quiet(), mlflow.start_run(run_id=parent.info.run_id):
            logged = mlflow.pyfunc.log_model(
                name=MODEL,
                python_model=str(pyfunc_source()),
                artifacts={MODEL: str(bundle)},
                pip_requirements=[
                    f"gace=={installed_version('gace')}",
                    f"mlflow=={installed_version('mlflow')}",
                ],
                metadata={"content_hash": content_hash, "generation": config.generation},
            )
    with _quiet():
        return mlflow.register_model(logged.model_uri, config.name, tags=_tags(config, content_hash))


def _tags(config: RegisterConfig, content_hash: str) -> dict[str, str]:
    """What the run and the version of a generation are both marked with."""
    return {
        "generation": str(config.generation),
        "dataset_hash": _dataset_hash(config),
        "content_hash": content_hash,
        **_nodes(config),
    }


def _nodes(config: RegisterConfig) -> dict[str, str]:
    """UUIDs of AiiDA nodes by tag."""
    roles = {f"node.{role}": uuid for role, uuid in config.nodes.items()}
    return {"aiida_uuid": config.aiida_uuid, **roles}


def _keep_nodes(client: MlflowClient, version: ModelVersion, config: RegisterConfig) -> None:
    """Note the nodes that bring a version again beside those that brought it first."""
    for tag, uuid in _nodes(config).items():
        first, others = version.tags.get(tag), version.tags.get(ALSO + tag, "")
        if not uuid or uuid == first or uuid in others.split(", "):
            continue
        name, value = (ALSO + tag, f"{others}, {uuid}" if others else uuid) if first else (tag, uuid)
        client.set_model_version_tag(version.name, str(version.version), name, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's chatter off standard error; errors are raised all the same."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _dataset_hash(config: RegisterConfig) -> str:
    if config.dataset_hash is not None:
        return config.dataset_hash
    metadata: Any = read_config(config.bundle, verify=False).get("metadata")
    return str(metadata.get("dataset_hash") or "") if isinstance(metadata, dict) else ""


def _finish_run(client: MlflowClient, version: ModelVersion) -> None:
    """End the run of a version whose registration was killed after the version was made."""
    if version.run_id and client.get_run(version.run_id).info.status in ("RUNNING", "SCHEDULED"):
        client.set_terminated(version.run_id, status="FINISHED")


def _registered(version: ModelVersion, created: bool) -> Registered:
    return Registered(
        name=version.name,
        version=str(version.version),
        run_id=str(version.run_id),
        uri=f"models:/{version.name}/{version.version}",
        generation=int(version.tags.get("generation", 0)),
        content_hash=version.tags.get("content_hash", ""),
        aiida_uuid=version.tags.get("aiida_uuid", ""),
        dataset_hash=version.tags.get("dataset_hash", ""),
        created=created,
    )


__all__ = ["ALSO", "MODEL", "Registered", "find_version", "identity_of", "register_generation"]
