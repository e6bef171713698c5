"""What lies where in a campaign's folder, and the small state file by which a later command finds its way."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gace.errors import InputError
from gace.files import write_json_atomic


@dataclass(frozen=True)
class CampaignFolder:
    """Paths below one campaign's folder (absolute)."""

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> CampaignFolder:
        """The campaign folder at ``path``, existing or not."""
        return cls(Path(path).expanduser().resolve())

    @property
    def file(self) -> Path:
        """The frozen campaign file; its inputs lie beside it in ``inputs/``."""
        return self.path / "campaign.yaml"

    @property
    def inputs(self) -> Path:
        """Copies of the files the campaign file names."""
        return self.path / "inputs"

    @property
    def labels(self) -> Path:
        """The label store."""
        return self.path / "labels"

    @property
    def scratch(self) -> Path:
        """Resumable work of trainings and walkers, addressed by content."""
        return self.path / "scratch"

    @property
    def cluster(self) -> Path:
        """Scheduler file and log of the campaign's Dask cluster."""
        return self.path / "cluster"

    @property
    def scheduler_file(self) -> Path:
        """Where commands find the campaign's Dask scheduler."""
        return self.cluster / "scheduler.json"

    @property
    def mlflow(self) -> Path:
        """The MLflow store."""
        return self.path / "mlflow"

    @property
    def potential(self) -> Path:
        """Copy of the champion's bundle."""
        return self.path / "potential"

    @property
    def data(self) -> Path:
        """The labelled data sets as files."""
        return self.path / "data"

    @property
    def summary(self) -> Path:
        """The summary, once the campaign has ended."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What a keeper in the background printed."""
        return self.path / "keeper.log"

    def require_campaign(self) -> None:
        """See that a campaign lives here.

        Raises:
            InputError: it does not.
        """
        if not self.file.is_file():
            raise InputError(
                f"{self.path} holds no campaign (no campaign.yaml); start one with gace campaign run"
            )

    def places(self) -> dict[str, str]:
        """Absolute paths that the steps need."""
        return {
            "labels": str(self.labels),
            "scratch": str(self.scratch),
            "mlflow": str(self.mlflow),
            "scheduler_file": str(self.scheduler_file),
        }

    # --- state ---------------------------------------------------------------------------------------

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    def read_state(self) -> dict[str, Any]:
        """What earlier commands left: the work chain's UUID, sessions, process numbers."""
        try:
            return dict(json.loads(self._state.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def update_state(self, **values: Any) -> dict[str, Any]:
        """Change some keys of the state, atomically."""
        state = {**self.read_state(), **values}
        write_json_atomic(self._state, state)
        return state

    def open_session(self) -> None:
        """Note that a keeper begins to look after the campaign."""
        sessions = self.read_state().get("sessions", [])
        now = time.time()
        self.update_state(sessions=[*sessions, {"begin": now, "end": now}], keeper=os.getpid())

    def touch_session(self) -> None:
        """Note that the keeper is alive; a kill loses no more wall time than lies between two touches."""
        sessions = self.read_state().get("sessions", [])
        if sessions:
            sessions[-1]["end"] = time.time()
            self.update_state(sessions=sessions)

    def wall_seconds(self) -> float:
        """Wall time of all sessions, s."""
        return sum(one["end"] - one["begin"] for one in self.read_state().get("sessions", []))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Be the only keeper of this campaign; the lock goes with the process, however it ends.

        Raises:
            InputError: another process keeps it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "keeper.lock").open("w", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                keeper = self.read_state().get("keeper", "?")
                raise InputError(
                    f"{self.path} is being looked after by process {keeper} already; see gace campaign status"
                ) from None
            yield

    @property
    def is_kept(self) -> bool:
        """Whether a process looks after this campaign now."""
        try:
            with self.kept():
                return False
        except InputError:
            return True


__all__ = ["CampaignFolder"]
