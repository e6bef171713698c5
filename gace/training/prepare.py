"""Everything that can be found wrong before a step is taken, and the data and model training starts from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from ase.data import chemical_symbols

from gace.engines.named import arguments_by_content
from gace.errors import InputError, nearest
from gace.files import FULL_DISK, full_disk
from gace.potential.devices import resolve_dtype
from gace.structures.identity import dataset_hash, labelled_hash
from gace.structures.io import Labels
from gace.training import dataset
from gace.training.batches import Packed
from gace.training.config import TrainConfig
from gace.training.on_disk import OnDisk
from gace.training.statistics import fit_isolated_atoms, read_isolated_atoms
from gace.training.stress_order import corrected, judged_by_energies_and_forces

if TYPE_CHECKING:
    from gace.potential.potential import Potential

# what may change between the beginning of a run and its resumption
_FREE_KEYS = {
    "data": ("train", "validation", "isolated_atoms", "replay", "on_disk", "stress_order"),
    "training": ("checkpoint_seconds", "processes"),
}


@dataclass
class Data:
    """Checked structures and labels, before any neighbour search."""

    train: list[Atoms]
    validation: list[Atoms]
    train_labels: list[Labels]
    validation_labels: list[Labels]
    elements: list[str]
    isolated_atoms: dict[str, float]
    start: Potential | None
    n_new: int
    """How many of ``train`` are new, at its front; the others are replayed."""
    warnings: list[str] = field(default_factory=list)

    def fingerprint(self, config: TrainConfig) -> dict[str, Any]:
        """What decides the result of a run; two runs with equal fingerprints are the same run."""
        settings = json.loads(config.model_dump_json())
        for section, names in _FREE_KEYS.items():
            for name in names:
                settings[section].pop(name)
        settings["potential"].pop("start_from")
        if config.training.matmul == "ieee":
            settings["training"].pop("matmul")  # runs begun before it could be chosen are the same runs
        if config.pretraining is not None:
            teacher = settings["pretraining"]["teacher"]
            teacher["kwargs"] = arguments_by_content(teacher["calculator"], teacher["kwargs"])
        weights = sorted(repr(dataset.weights_of(one)) + labelled_hash(one) for one in self.train)
        weighted = any(dataset.weights_of(one) != (1.0, 1.0, 1.0) for one in self.train)
        own = {"data.weights": hashlib.sha256("".join(weights).encode()).hexdigest()} if weighted else {}
        return {
            **settings,
            **own,
            "data.train": dataset_hash(self.train[: self.n_new]),
            **self._replay_fingerprint(config),
            "data.validation": dataset_hash(self.validation),
            "data.isolated_atoms": self.isolated_atoms,
            "potential.start_from": None if self.start is None else _parameters_hash(self.start),
        }

    def _replay_fingerprint(self, config: TrainConfig) -> dict[str, Any]:
        """The same for replayed data; empty without them."""
        if config.data.replay is None:
            return {}
        energies = [label.energy for label in self.train_labels[self.n_new :]]
        return {
            "data.replay": dataset_hash(self.train[self.n_new :]),
            "data.replay.energies": hashlib.sha256(repr(energies).encode()).hexdigest(),
            "data.replay.fraction": config.data.replay.fraction,
        }


def read_data(config: TrainConfig) -> Data:
    """Read and check all inputs.

    Raises:
        InputError: anything missing, unreadable, unlabelled, contradictory, or without elements.
    """
    structures = dataset.read_labelled(config.data.train)
    atoms_in_data = [one for one in structures if dataset.is_isolated_atom(one)]
    structures = [one for one in structures if not dataset.is_isolated_atom(one)]
    if not structures:
        raise InputError("data.train holds nothing but isolated atoms")
    dataset.checked_labels(structures, "data.train")
    share = config.data.validation
    warnings: list[str] = []
    if isinstance(share, int | float):
        train, validation, warnings = dataset.split(structures, share, config.seed)
    else:
        train = dataset.canonical(structures)
        validation = [] if share is None else dataset.canonical(dataset.read_labelled(share))
    start = _load_start(config)
    replayed = _replayed(config)
    elements = _elements(config, [*train, *replayed], validation, start)
    train_labels = dataset.without_weightless(train, dataset.checked_labels(train, "data.train"))
    isolated, more = _isolated_atoms(config, atoms_in_data, train, train_labels, elements, start)
    for source, others in (("data.validation", validation), ("data.replay.data", replayed)):
        _check_isolated_atoms(source, others, isolated)
    isolated = {element: isolated.get(element, 0.0) for element in elements}
    n_new = len(train)
    train_labels += dataset.without_weightless(replayed, _replayed_labels(config, replayed, isolated))
    train = [*train, *replayed]
    validation_labels = dataset.checked_labels(validation, "data.validation")
    if config.data.stress_order == "corrected":
        found = judged_by_energies_and_forces(train, train_labels, elements, isolated)
        train, train_labels = corrected(train, train_labels, found)
        validation, validation_labels = corrected(validation, validation_labels, found)
        more = [*more, *(f"{one}; put right in all structures of that kind" for one in found)]
    return Data(
        n_new=n_new,
        train=train,
        validation=validation,
        train_labels=train_labels,
        validation_labels=validation_labels,
        elements=elements,
        isolated_atoms=isolated,
        start=start,
        warnings=[*warnings, *more],
    )


def _replayed(config: TrainConfig) -> list[Atoms]:
    """Old structures to be replayed, isolated atoms left out."""
    replay = config.data.replay
    if replay is None:
        return []
    structures = [one for one in dataset.read_labelled(replay.data) if not dataset.is_isolated_atom(one)]
    if not structures:
        raise InputError("data.replay.data holds nothing but isolated atoms")
    return dataset.canonical(structures)


def _replayed_labels(config: TrainConfig, replayed: list[Atoms], isolated: dict[str, float]) -> list[Labels]:
    """Old labels, their energies moved from the old isolated atoms to the new ones."""
    replay = config.data.replay
    labels = dataset.checked_labels(replayed, "data.replay")
    if replay is None or replay.isolated_atoms is None:
        return labels
    before = read_isolated_atoms(replay.isolated_atoms)
    absent = sorted({symbol for atoms in replayed for symbol in atoms.symbols} - set(before))
    if absent:
        raise InputError(f"data.replay.isolated_atoms has no energy for {', '.join(absent)}")
    moved = [sum(isolated[symbol] - before[symbol] for symbol in atoms.symbols) for atoms in replayed]
    return [
        label if label.energy is None else label._replace(energy=label.energy + shift)
        for label, shift in zip(labels, moved, strict=True)
    ]


def _elements(
    config: TrainConfig, train: list[Atoms], validation: list[Atoms], start: Potential | None
) -> list[str]:
    """The elements of the potential, in order."""
    present = sorted({symbol for atoms in [*train, *validation] for symbol in atoms.symbols})
    named = {
        "elements": config.potential.elements or [],
        "new_elements": list(config.potential.new_elements),
    }
    for key, symbols in named.items():
        for symbol in symbols:
            if symbol not in chemical_symbols[1:]:
                hint = nearest(symbol, chemical_symbols[1:])
                raise InputError(f"potential.{key}: no element '{symbol}'{hint}")
    if start is not None:
        elements, whose = [*start.elements, *config.potential.new_elements], "the start model"
    elif config.potential.elements is not None:
        elements, whose = config.potential.elements, "potential.elements"
    else:
        return present
    absent = [symbol for symbol in present if symbol not in elements]
    if absent:
        remedy = "" if start is None else f"; give them in potential.new_elements ({{{absent[0]}: mean}})"
        raise InputError(f"the data hold {', '.join(absent)}, which {whose} does not know{remedy}")
    if config.potential.elements not in (None, elements):
        raise InputError(f"potential.elements differs from the start model's: {', '.join(elements)}")
    return elements


def _isolated_atoms(
    config: TrainConfig,
    atoms_in_data: list[Atoms],
    train: list[Atoms],
    labels: list[Labels],
    elements: list[str],
    start: Potential | None,
) -> tuple[dict[str, float], list[str]]:
    """Isolated-atom energies, eV, of the elements that have one, and warnings."""
    present = {symbol for atoms in train for symbol in atoms.symbols}
    if config.data.isolated_atoms is not None:
        given = read_isolated_atoms(config.data.isolated_atoms)
    elif atoms_in_data:
        given = _isolated_in_data(atoms_in_data)
    else:
        fitted, warning = fit_isolated_atoms(train, labels, elements, start)
        return fitted, [warning]
    known = {**(start.isolated_atom_energies if start is not None else {}), **given}
    absent = [symbol for symbol in elements if symbol not in given and symbol in present]
    if absent:
        raise InputError(f"data.isolated_atoms has no energy for {', '.join(absent)}")
    return known, []


def _isolated_in_data(structures: list[Atoms]) -> dict[str, float]:
    """Energies of the isolated atoms among the training data.

    Raises:
        InputError: two energies for one element.
    """
    found: dict[str, float] = {}
    labels = dataset.checked_labels(structures, "isolated atom in data.train")
    for atoms, label in zip(structures, labels, strict=True):
        element = str(atoms.symbols[0])
        if label.energy is not None and abs(found.setdefault(element, label.energy) - label.energy) > 1e-3:
            raise InputError(
                f"data.train: isolated atoms of {element} with different energies, {found[element]:g} and "
                f"{label.energy:g} eV: leave one, or give data.isolated_atoms"
            )
    return found


def _check_isolated_atoms(source: str, structures: list[Atoms], isolated: dict[str, float]) -> None:
    """Raise InputError where structures hold an element whose isolated-atom energy nothing tells."""
    present = {symbol for atoms in structures for symbol in atoms.symbols}
    absent = sorted(symbol for symbol in present if symbol not in isolated)
    if absent:
        raise InputError(
            f"{source} holds {', '.join(absent)}, for which there is no isolated-atom energy: data.train "
            "does not tell it; give data.isolated_atoms"
        )


def _load_start(config: TrainConfig) -> Potential | None:
    """The potential whose parameters training starts from."""
    if config.potential.start_from is None:
        return None
    from gace.potential.bundle import load

    start = load(config.potential.start_from, device="cpu")
    if config.potential.member >= len(start.members):
        raise InputError(
            f"potential.member is {config.potential.member}, but {config.potential.start_from} "
            f"has {len(start.members)} member(s), counted from 0"
        )
    return start


def _parameters_hash(start: Potential) -> str:
    """Hash over all parameters of a potential."""
    digest = hashlib.sha256()
    for member in start.members:
        for name, tensor in sorted(member.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def check_writable(out: Path) -> None:
    """Make the output folder.

    Raises:
        InputError: it cannot be made or written, or is a file.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        if error.errno in FULL_DISK:
            raise full_disk(error, out) from None
        raise InputError(f"cannot write into {out}: {error.strerror or error}") from None


def pack(
    data: Data, config: TrainConfig, cutoff: float, device: torch.device, out: Path
) -> tuple[Packed, Packed | None]:
    """Training and validation data (None if there are none) as tensors, or in files below ``out``."""

    def packed(structures: list[Atoms], labels: list[Labels]) -> Packed:
        return (partial(OnDisk, folder=out) if config.data.on_disk else Packed)(
            structures,
            labels,
            elements=data.elements,
            cutoff=cutoff,
            isolated_atoms=data.isolated_atoms,
            dtype=resolve_dtype(config.dtype),
            device=device,
        )

    train = packed(data.train, data.train_labels)
    return train, packed(data.validation, data.validation_labels) if data.validation else None
