"""The members as jobs: one folder each, named by what decides the training, and a ``gace train`` in it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ase import Atoms

from gace.engines.named import arguments_by_content
from gace.files import read_json, sha256_file, write_atomic
from gace.randomness import derive_seed
from gace.structures.identity import dataset_hash, labelled_hash
from gace.structures.io import Labels, labels_of, set_labels, write_structures
from gace.training.dataset import weights_of
from gace.training.prepare import Data
from gace_platform.cluster.jobs import Job
from gace_platform.committee.bags import Bags
from gace_platform.committee.config import CommitteeConfig

CONFIG, RUN, ERROR = "config.yaml", "run", "error.json"
TRAIN, VALIDATION, REPLAY = "train.xyz", "validation.xyz", "replay.xyz"


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
    replay: list[Atoms]
    """Old structures, the same for all members, with the labels that training sees."""

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
        # results of a calculator would not be written: they are labels as good as others
        write_structures(self.folder / TRAIN, [set_labels(one, *labels_of(one)) for one in self.train])
        if self.validation:
            validation = [set_labels(one, *labels_of(one)) for one in self.validation]
            write_structures(self.folder / VALIDATION, validation)
        if self.replay:
            write_structures(self.folder / REPLAY, self.replay)
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
    """All members, fully decided; nothing is written.

    Args:
        config: Of the committee.
        data: Read by it.
        bags: Of the new structures, the first ``data.n_new`` of the training set; all members replay the old.
        scratch: Where the members' folders lie.
    """
    base = json.loads(config.model_dump_json(exclude={"committee", "cluster", "scratch", "name"}))
    base["data"] |= {
        "train": TRAIN,
        "validation": VALIDATION if data.validation else None,
        "isolated_atoms": data.isolated_atoms,
    }
    base["data"].pop("stress_order")  # the members' labels are put right already
    replay = [
        _put_right(atoms, label)
        for atoms, label in zip(data.train[data.n_new :], data.train_labels[data.n_new :], strict=True)
    ]
    if replay:  # their energies are moved already
        base["data"]["replay"] |= {"data": REPLAY, "isolated_atoms": None}
    start = _start_hash(config)
    pretraining = base["pretraining"] and {**base["pretraining"], "teacher": _teacher_by_content(config)}
    if data.start is None:
        base["potential"]["elements"] = data.elements
    members = []
    for number, in_bag in enumerate(bags.in_bag):
        seed = derive_seed(config.seed, "member", number)
        potential = dict(base["potential"])
        if data.start is not None:
            potential["member"] = number % len(data.start.members)
        own = {**base, "potential": potential, "seed": seed}
        train = [atoms for atoms, inside in zip(data.train[: data.n_new], in_bag, strict=True) if inside]
        settings = {**own, "potential": {**potential, "start_from": start}, "pretraining": pretraining}
        content = [train, data.validation, *([replay] if replay else [])]
        digest = _hash(settings, *(dataset_hash(part) for part in content), *_weights(content))
        folder = scratch / f"member-{digest[:24]}"
        members.append(Member(number, folder, seed, own, train, data.validation, replay))
    return members


def _put_right(atoms: Atoms, labels: Labels) -> Atoms:
    """A copy that carries these labels; those left out for their weight of zero stay as they are."""
    return set_labels(set_labels(atoms, *labels_of(atoms)), *labels)


def _weights(content: Sequence[Sequence[Atoms]]) -> list[list[str]]:
    """What tells weighted structures from others; empty where all weigh alike."""
    if all(weights_of(one) == (1.0, 1.0, 1.0) for part in content for one in part):
        return []
    return [sorted(f"{weights_of(one)} {labelled_hash(one)}" for one in part) for part in content]


def _teacher_by_content(config: CommitteeConfig) -> dict[str, Any] | None:
    """The teacher of a pretraining: where its bundle lies does not matter."""
    if config.pretraining is None:
        return None
    teacher = config.pretraining.teacher
    return {**teacher.model_dump(), "kwargs": arguments_by_content(teacher.calculator, teacher.kwargs)}


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
