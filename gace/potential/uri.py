"""Where a potential comes from: a folder, or a ``models:/`` URI of an MLflow registry."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from gace.errors import BundleError, InputError, missing

SCHEME = "models:/"
INSIDE = (Path("artifacts", "potential"), Path("potential"), Path())
"""Where the bundle may lie inside a registered model's files, in the order tried."""


@contextlib.contextmanager
def fetched(source: str | Path) -> Iterator[Path]:
    """The bundle folder that ``source`` names, on this machine for as long as the context lasts.

    Raises:
        MissingDependencyError: a ``models:/`` URI without mlflow installed.
        InputError: the registry is not stated or does not know the model.
    """
    # pathlib would fold "models:/" spellings; only text can be a URI
    if not str(source).startswith(SCHEME):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="gace-model-") as folder:
        yield find_bundle(download(str(source), Path(folder)), str(source))


def download(uri: str, folder: Path) -> Path:
    """Copy a registered model's files below ``folder``.

    Raises:
        MissingDependencyError: mlflow is absent.
        InputError: no tracking URI, no store there, or no such model.
    """
    mlflow = _mlflow()
    if not mlflow.is_tracking_uri_set():
        raise InputError(
            f"{uri} needs a registry: set MLFLOW_TRACKING_URI, for a campaign sqlite:///DIR/mlflow/mlflow.db"
        )
    tracking = str(mlflow.get_tracking_uri())
    database = tracking.removeprefix("sqlite:///")
    if database != tracking and not Path(database).is_file():
        raise InputError(f"MLFLOW_TRACKING_URI names no store: {database} does not exist")
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except Exception as error:
        raise InputError(f"cannot get {uri} from {tracking}: {' '.join(str(error).split())}") from None


def find_bundle(folder: Path, uri: str) -> Path:
    """The bundle inside a registered model's files.

    Raises:
        BundleError: there is none.
    """
    for place in INSIDE:
        if (folder / place / "config.json").is_file():
            return folder / place
    raise BundleError(f"{uri} is not a potential of gace: no bundle among its files")


def _mlflow() -> Any:
    """The mlflow package, imported by name: this floor does not depend on it."""
    # neither progress bars among our own output nor usage statistics over the network
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        return import_module("mlflow")
    except ImportError:
        raise missing("mlflow", "platform") from None
