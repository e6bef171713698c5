"""The members as jobs: one folder each, named by what decides the training, and a ``gace train`` in it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from ase import Atoms

from gace.files import read_json, sha256_file, write_atomic
from gace.randomness import derive_seed
from gace.structures.identity import dataset_hash
from gace.structures.io import write_structures
from gace.training.prepare import Data
from gace_platform.cluster.jobs import Job
from gace_platform.committee.bags import Bags
from gace_platform.committee.config import CommitteeConfig

CONFIG, TRAIN, VALIDATION, RUN, ERROR = "config.yaml", "train.xyz", "validation.xyz", "run", "error.json"


class Member(NamedTuple):
    """One model to be trained."""

    number: int
    folder: Path
    """In the scratch folder; the same content finds the same folder again."""
    seed: int
    config: dict[str, Any]
    """Of ``gace train``; files are named relative to ``folder``."""
    train: list[Atoms]
    validation: list[Atoms]

    @property
    def run(self) -> Path:
        """Output folder of the training."""
        return self.folder / RUN

    @property
    def done(self) -> bool:
        """Whether the training is complete."""
        return (self.run / "summary.json").exists()

    def lay_out(self) -> None:
        """Write the folder, unless it is there.

        Raises:
            InputError: the scratch folder cannot be written.
        """
        if (self.folder / CONFIG).exists():
            return
        write_structures(self.folder / TRAIN, self.train)
        if self.validation:
            write_structures(self.folder / VALIDATION, self.validation)
        write_atomic(self.folder / CONFIG, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))

    def job(self, name: str, gpu: bool) -> Job:
        """The training as a job for the cluster."""
        command = [sys.executable, "-m", "gace.cli", "train", CONFIG, "--out", RUN, "--quiet"]
        environment = {"GACE_ERROR_FILE": str(self.folder / ERROR)}
        return Job(
            f"{name} member {self.number}",
            command,
            str(self.folder),
            str(self.folder / "train.log"),
            environment,
            gpu=gpu,
        )

    def error(self) -> tuple[str, str]:
        """Class name and message of the error that ended the training; empty when it left none."""
        try:
            note = read_json(self.folder / ERROR)
            return str(note["error"]), str(note["message"])
        except (ValueError, KeyError, TypeError):
            return "", ""


def joint_job(members: Sequence[Member], name: str, gpu: bool) -> Job:
    """The trainings of all members as one job, a folder of its own beside theirs."""
    folder = members[0].folder.parent / f"together-{_hash([one.folder.name for one in members])[:24]}"
    command = [sys.executable, "-m", "gace.training.together", *(str(one.folder) for one in members)]
    return Job(f"{name} members", command, str(folder), str(folder / "train.log"), gpu=gpu)


def plan_members(config: CommitteeConfig, data: Data, bags: Bags, scratch: Path) -> list[Member]:
    """All members, fully decided; nothing is written."""
    base = json.loads(config.model_dump_json(exclude={"committee", "cluster", "scratch", "name"}))
    base["data"] |= {
        "train": TRAIN,
        "validation": VALIDATION if data.validation else None,
        "isolated_atoms": data.isolated_atoms,
    }
    base["data"].pop("stress_order")  # the members' labels are put right already
    start = _start_hash(config)
    if data.start is None:
        base["potential"]["elements"] = data.elements
    members = []
    for number, in_bag in enumerate(bags.in_bag):
        seed = derive_seed(config.seed, "member", number)
        potential = dict(base["potential"])
        if data.start is not None:
            potential["member"] = number % len(data.start.members)
        own = {**base, "potential": potential, "seed": seed}
        train = [data.train[index] for index in np.flatnonzero(in_bag)]
        settings = {**own, "potential": {**potential, "start_from": start}}
        digest = _hash(settings, dataset_hash(train), dataset_hash(data.validation))
        folder = scratch / f"member-{digest[:24]}"
        members.append(Member(number, folder, seed, own, train, data.validation))
    return members


def _start_hash(config: CommitteeConfig) -> str | None:
    """Hash of the bundle that training starts from: its place does not matter."""
    if config.potential.start_from is None:
        return None
    return sha256_file(Path(config.potential.start_from) / "checksums.json")


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def last_metrics(members: Sequence[Member]) -> list[str]:
    """One line on each training under way: epoch and loss."""
    lines = []
    for member in members:
        path = member.run / "metrics.jsonl"
        try:
            last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        except (OSError, ValueError, IndexError):
            continue
        if not member.done:
            lines.append(f"member {member.number}: epoch {last['epoch']}, loss {last['loss']:.3g}")
    return lines
