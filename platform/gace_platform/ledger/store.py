"""The label store: every reference calculation is paid for once, whoever asks and whatever is killed.

Layout of the folder::

    journal.jsonl            events: started, failed, computed, quarantined, refused, reused, retired
    records/ab/<key>.json    one finished calculation, a label or a failure, written atomically
    running/<key>.json       price so far of a calculation under way
    locks/<key>.lock         held (flock) by the process that computes this key
    settings/<hash>.json     the settings behind each settings hash
    quarantine/<key>.json    why a person (or a check of many labels) distrusts a computed label
    retired/<key>.<n>.json   records that were set aside to be computed again

A record is the truth, the journal its history. A process killed between the two leaves a record whose run the
journal knows only as started; :meth:`LabelStore.paid_twice` and :meth:`LabelStore.lost` read both.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gace.errors import InputError
from gace.files import json_text, sync_folder, write_atomic, write_json_atomic
from gace.structures.io import set_labels
from gace_platform.ledger.journal import Journal
from gace_platform.ledger.locks import locked

ENERGY_DIGITS = 8
"""Decimals of an energy kept in the store, eV."""

FORCE_DIGITS = 7
"""Decimals of a force component kept in the store, eV/Å."""

STRESS_DIGITS = 10
"""Decimals of a stress component kept in the store, eV/Å³."""


ROOM, ROOM_PER_ATOM = 2**16, 2**10
"""Bytes that are reserved for a record: for the attempts and what they said, and for each atom."""


class LabelRecord(BaseModel):
    """One finished reference calculation: a label, or the failure of every attempt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    key: str
    run: str
    """Identity of the computation that produced it (host, process, start)."""
    status: Literal["computed", "failed"]
    numbers: list[int]
    positions: list[list[float]]
    """Å ``(N, 3)``."""
    cell: list[list[float]]
    pbc: list[bool]
    charge: int
    spin: int
    """Number of unpaired electrons."""
    energy: float | None = None
    """eV."""
    forces: list[list[float]] | None = None
    """eV/Å ``(N, 3)``."""
    stress: list[list[float]] | None = None
    """eV/Å³ ``(3, 3)``, tension positive."""
    evidence: dict[str, Any] | None = None
    """What the program says about its convergence and settings."""
    reason: str = ""
    """Why it failed, with the end of the program's log."""
    attempts: list[dict[str, Any]]
    """For each attempt: ``attempt``, ``remedy``, ``failure_class``, ``message``, ``core_seconds``."""
    core_seconds: float
    """Price of all attempts, CPU seconds."""
    finished: float
    """Seconds since 1970."""

    def atoms(self) -> Atoms:
        """The structure with its charge, spin, key and (if computed) its label."""
        plain = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        plain.info.update(charge=self.charge, spin=self.spin, label_key=self.key)
        return set_labels(plain, self.energy, self.forces_array(), _array(self.stress))

    def forces_array(self) -> NDArray[np.float64] | None:
        """Forces, eV/Å ``(N, 3)``."""
        return None if self.forces is None else np.array(self.forces, dtype=float).reshape(-1, 3)


class LabelStore:
    """Labels by key in a folder that many processes may use at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the label store {folder}: {error.strerror or error}") from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise InputError(f"the label store {folder} cannot be written")
        self.journal = Journal(self.folder / "journal.jsonl")

    def get(self, key: str) -> LabelRecord | None:
        """The finished calculation under ``key``, or None.

        Raises:
            InputError: the record is damaged.
        """
        path = self._record_path(key)
        try:
            return LabelRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise InputError(f"damaged label record {path}: remove it to have it computed again") from None

    def reserve(self, key: str, atoms: int) -> Path:
        """Take the disk space that a record of so many atoms will need, before it is paid for.

        Held by the owner of the key's lock; :meth:`put` fills it, whatever others have written meanwhile.

        Raises:
            OSError: the disk is full.
        """
        path = self._record_path(key)
        room = path.with_name(f".{key}.room")
        room.parent.mkdir(parents=True, exist_ok=True)
        try:
            with room.open("wb") as stream:
                # no zeros: some file systems would not keep any room for them
                stream.write(os.urandom(ROOM + ROOM_PER_ATOM * atoms))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            room.unlink(missing_ok=True)
            raise
        return room

    def put(self, record: LabelRecord, room: Path | None = None) -> None:
        """Keep a finished calculation; it is on disk when this returns.

        Args:
            record: the calculation.
            room: space that :meth:`reserve` has taken for it.
        """
        path = self._record_path(record.key)
        content = json_text(record.model_dump()).encode()
        if room is None or not room.exists() or room.stat().st_size < len(content):
            write_atomic(path, content)
            return
        with room.open("r+b") as stream:
            stream.write(content)
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        room.replace(path)
        sync_folder(path.parent)

    def keys(self) -> list[str]:
        """Keys of all finished calculations, sorted."""
        return sorted(path.stem for path in (self.folder / "records").glob("*/*.json") if path.name[0] != ".")

    def records(self) -> Iterator[LabelRecord]:
        """All finished calculations by key."""
        for key in self.keys():
            record = self.get(key)
            if record is not None:
                yield record

    def remember_settings(self, digest: str, settings: dict[str, Any]) -> None:
        """Keep the settings behind a settings hash, so that the store explains itself."""
        path = self.folder / "settings" / f"{digest}.json"
        if not path.exists():
            write_json_atomic(path, settings)

    def suspicion(self, key: str) -> str | None:
        """Why the label under ``key`` was put into quarantine, or None."""
        try:
            return str(json.loads((self.folder / "quarantine" / f"{key}.json").read_text())["reason"])
        except FileNotFoundError:
            return None

    def suspect(self, key: str, reason: str) -> None:
        """Put a label into quarantine: it stays in the store, and nobody is handed it."""
        write_json_atomic(self.folder / "quarantine" / f"{key}.json", {"key": key, "reason": reason})
        self.journal.append("suspected", key, reason=reason)

    def trust(self, key: str) -> bool:
        """Take a label out of quarantine; returns whether it was in."""
        path = self.folder / "quarantine" / f"{key}.json"
        if not path.exists():
            return False
        path.unlink()
        self.journal.append("trusted", key)
        return True

    def retire(self, key: str) -> None:
        """Set a finished calculation aside, on a person's word, so that it is computed again."""
        with self.computing(key):
            path = self._record_path(key)
            folder = self.folder / "retired"
            folder.mkdir(exist_ok=True)
            number = len(list(folder.glob(f"{key}.*.json")))
            # the journal first: a kill in between leaves a record that is used, and a promise that holds
            self.journal.append("retired", key)
            path.replace(folder / f"{key}.{number}.json")
        self.trust(key)

    def retired(self) -> Iterator[LabelRecord]:
        """Calculations that were set aside (:meth:`retire`); they were paid for all the same."""
        for path in sorted((self.folder / "retired").glob("*.json")):
            yield LabelRecord.model_validate_json(path.read_bytes())

    def prices(self) -> Iterator[tuple[str, float]]:
        """Key and core seconds of everything that was ever paid for: finished, set aside, lost to a kill."""
        for record in itertools.chain(self.records(), self.retired()):
            yield record.key, record.core_seconds
        for loss in self.lost():
            yield loss["key"], float(loss["core_seconds"])

    @contextlib.contextmanager
    def computing(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Hold the right to compute ``key``; yields whether it was obtained.

        Look into the store again once inside: another process may have finished meanwhile.
        """
        with locked(self.folder / "locks" / f"{key}.lock", wait) as obtained:
            yield obtained

    def note_running(self, key: str, run: str, core_seconds: float) -> None:
        """Note the price so far of a calculation under way, so that a killed one is still accounted for.

        A note that a full disk refuses is left out: the calculation is worth more than its price tag.
        """
        folder = self.folder / "running"
        temporary = folder / f".{key}.{os.getpid()}"
        try:
            folder.mkdir(exist_ok=True)
            temporary.write_text(json.dumps({"run": run, "core_seconds": round(core_seconds, 3)}))
            temporary.replace(folder / f"{_safe(run)}.json")
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def forget_running(self, run: str) -> None:
        """Remove the note of a calculation that ended."""
        (self.folder / "running" / f"{_safe(run)}.json").unlink(missing_ok=True)

    def paid_twice(self) -> int:
        """Number of keys that were computed to the end more than once (the promise: 0).

        A calculation that a person had set aside (:meth:`retire`) does not count.
        """
        runs: dict[str, set[str]] = {}
        for entry in self.journal:
            if entry["event"] == "retired":
                runs.pop(entry["key"], None)
            if entry["event"] in ("computed", "quarantined"):
                runs.setdefault(entry["key"], set()).add(str(entry.get("run")))
        for record in self.records():
            runs.setdefault(record.key, set()).add(record.run)
        return sum(len(ended) > 1 for ended in runs.values())

    def lost(self) -> list[dict[str, Any]]:
        """Calculations that were started and killed: ``key``, ``run``, ``time``, ``core_seconds`` spent.

        The price is the last one noted while it ran, so up to a few seconds too small. ``retired`` tells
        whether the key was set aside since (:meth:`retire`), or the run ended for want of a program or of
        space: such a loss stays on the bill, and does not count against the structure. Calculations run by
        AiiDA are not lost by a kill: it finds them again.
        """
        started: dict[str, dict[str, Any]] = {}
        for entry in self.journal:
            run = str(entry.get("run"))
            if entry["event"] == "started":
                started[run] = {**entry, "run": run, "retired": False}
            elif entry["event"] in ("computed", "quarantined"):
                started.pop(run, None)
            elif entry["event"] == "refused" and run in started:
                started[run] |= {"retired": True, "refused": True}
            elif entry["event"] == "retired":
                for earlier in started.values():
                    earlier["retired"] |= earlier["key"] == entry["key"]
        losses = []
        # killed between record and journal, and set aside since
        ended = {record.run for record in self.retired()}
        for run, entry in started.items():
            if run in ended or (entry.get("through") is not None and not entry.get("refused")):
                continue
            record = self.get(entry["key"])
            if (record is not None and record.run == run) or self._is_computing(entry["key"], record):
                continue
            spent = self._noted(run)
            if entry.get("refused") and not spent:
                continue
            loss = {name: entry[name] for name in ("key", "run", "time", "retired")}
            losses.append({**loss, "core_seconds": spent})
        return losses

    def _noted(self, run: str) -> float:
        """Price of a run as last noted, s; 0 without a note, or with one that a power cut left empty."""
        try:
            return float(
                json.loads((self.folder / "running" / f"{_safe(run)}.json").read_text())["core_seconds"]
            )
        except (FileNotFoundError, ValueError):
            return 0.0

    def _is_computing(self, key: str, record: LabelRecord | None) -> bool:
        """Whether some process computes ``key`` right now."""
        if record is not None:
            return False
        with self.computing(key, wait=False) as free:
            return not free

    def _record_path(self, key: str) -> Path:
        return self.folder / "records" / key[:2] / f"{key}.json"


def new_run(key: str) -> str:
    """Identity of one computation: host, process, time and key."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}:{key[:8]}"


def rounded(values: NDArray[np.float64] | None, digits: int) -> list[list[float]] | None:
    """An array as nested lists, rounded for the store (and without negative zeros)."""
    return None if values is None else (np.round(np.asarray(values, dtype=float), digits) + 0.0).tolist()


def _array(values: list[list[float]] | None) -> NDArray[np.float64] | None:
    return None if values is None else np.array(values, dtype=float)


def _safe(run: str) -> str:
    return run.replace("/", "_").replace(":", "_")
