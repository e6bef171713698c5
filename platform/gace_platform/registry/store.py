"""Where the registry lives: an MLflow store in a folder, or an MLflow server.

MLflow's tables are created by the first process that opens an SQLite store; several at once
destroy each other's migration. So a campaign calls :func:`ensure_store` first, in one process,
and all writing goes through :meth:`Store.writing`, which holds a lock on the folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gace.errors import InputError, RegistryError, missing
from gace.files import sync_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
UNFINISHED = ".mlflow.db.unfinished"
ARTIFACTS = "artifacts"
ENVIRONMENT = "MLFLOW_TRACKING_URI"
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Store:
    """One MLflow store; made by :func:`ensure_store` or :func:`open_store`."""

    uri: str
    """Tracking URI: ``sqlite:///…/mlflow.db``, or that of a server."""
    folder: Path | None
    """Folder of a local store; ``None`` for a server."""

    def client(self) -> MlflowClient:
        """A client of this store (tracking and registry)."""
        return import_mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def artifact_location(self, experiment: str) -> str | None:
        """URI below which the artifacts of an experiment lie; ``None`` lets the server decide."""
        return None if self.folder is None else (self.folder / ARTIFACTS / experiment).as_uri()

    @contextlib.contextmanager
    def writing(self, timeout: float = 300.0) -> Iterator[None]:
        """Hold the store for writing: the only writer, and MLflow's global settings point here.

        Raises:
            InputError: another process has been writing for longer than ``timeout`` seconds.
        """
        mlflow = import_mlflow()
        before = os.environ.get(ENVIRONMENT), os.environ.pop("MLFLOW_RUN_ID", None)
        with self._lock(timeout):
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(None)
                mlflow.set_registry_uri(None)
                for name, value in zip((ENVIRONMENT, "MLFLOW_RUN_ID"), before, strict=True):
                    _restore(name, value)

    @contextlib.contextmanager
    def _lock(self, timeout: float) -> Iterator[None]:
        if self.folder is None:
            yield
            return
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / ".lock", timeout=timeout):
                yield
        except Timeout:
            raise InputError(
                f"another process has been writing to {self.folder} for {timeout:.0f} s"
            ) from None


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def import_mlflow() -> Any:
    """The ``mlflow`` module, quiet and without its usage statistics.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow
        import mlflow.pyfunc
    except ImportError:
        raise missing("mlflow", "platform") from None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def ensure_store(folder: str | Path) -> Store:
    """Open the store in ``folder``, creating folder and tables when they are absent.

    Safe to call from several processes: the tables are made under a lock.

    Raises:
        InputError: the folder cannot be written, or its database is not one of MLflow's.
    """
    folder = Path(folder).resolve()
    forbidden = [sign for sign in "%#?" if sign in str(folder)]
    if forbidden:
        # MLflow keeps paths as URIs and does not escape them
        raise InputError(f"an MLflow store cannot lie in {folder}: '{forbidden[0]}' stands in the path")
    try:
        (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the MLflow store {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to the MLflow store {folder}")
    store = Store(f"sqlite:///{folder / DATABASE}", folder)
    with store.writing():
        if not (folder / DATABASE).exists():
            _make_database(folder)
        _check_database(folder / DATABASE)
        store.client().search_experiments(max_results=1)  # migrates the tables of an older MLflow
    return store


def _make_database(folder: Path) -> None:
    """Make the tables under another name: dozens of migrations that cannot go on after a kill half way."""
    making = folder / UNFINISHED
    for name in (UNFINISHED, f"{UNFINISHED}-journal"):  # of one that was killed
        (folder / name).unlink(missing_ok=True)
    Store(f"sqlite:///{making}", folder).client().search_experiments(max_results=1)
    making.replace(folder / DATABASE)
    sync_folder(folder)


def open_store(folder: str | Path | None = None) -> Store:
    """Open an existing store: the given folder, else the one named by ``MLFLOW_TRACKING_URI``.

    Raises:
        InputError: neither is given, or there is no store.
        RegistryError: the server does not answer.
    """
    uri = os.environ.get(ENVIRONMENT)
    if folder is None and not uri:
        raise InputError(f"no model store given: use --store DIR or set {ENVIRONMENT}")
    if folder is None and uri and not uri.startswith("sqlite:///"):
        if "://" not in uri or uri.startswith("file:"):
            raise InputError(f"{ENVIRONMENT}={uri} is neither an SQLite store nor an MLflow server")
        wait_for_server(uri)
        return Store(uri, None)
    path = Path(folder).resolve() if folder is not None else Path(str(uri).removeprefix("sqlite:///")).parent
    database = path / DATABASE if folder is not None else Path(str(uri).removeprefix("sqlite:///"))
    if not database.is_file():
        raise InputError(f"no MLflow store at {database}")
    _check_database(database)
    return Store(f"sqlite:///{database.resolve()}", path.resolve())


def wait_for_server(uri: str, patience: float = 30.0) -> None:
    """See that something listens where the MLflow server should; MLflow itself waits for minutes.

    Raises:
        RegistryError: nothing did for ``patience`` seconds.
    """
    address = urlsplit(uri)
    if address.scheme not in PORTS or address.hostname is None:
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection(
                (address.hostname, address.port or PORTS[address.scheme]), timeout=5
            ):
                return
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() >= deadline:
            raise RegistryError(
                f"no MLflow server answers at {uri} ({ENVIRONMENT}) within {patience:g} s: {reason}; "
                "nothing was registered, the same command can be given again"
            )
        time.sleep(1.0)


def _check_database(path: Path) -> None:
    """Refuse a file that is no SQLite database before MLflow meets it."""
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is not an MLflow database: {error}") from None


__all__ = ["Store", "ensure_store", "import_mlflow", "open_store"]
