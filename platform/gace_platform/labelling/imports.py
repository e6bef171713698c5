"""Labels that exist already: taken into the store with keys, a settings hash and the quality gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from ase import Atoms
from pydantic import model_validator

from gace.config import Closed, load_config
from gace.errors import InputError, missing
from gace.files import read_json
from gace.structures.io import labels_of, read_structures
from gace_platform.labelling.config import QualityGate
from gace_platform.labelling.engines.base import Label, stated_integer
from gace_platform.labelling.exchange import is_finite
from gace_platform.labelling.gate import objection
from gace_platform.labelling.verdicts import make_record, placed_request
from gace_platform.ledger.keys import settings_hash, with_charge_and_spin
from gace_platform.ledger.store import LabelStore

SOURCES = "gace.label_sources"
"""Entry points: where labels come from besides files. The source ``group`` is AiiDA's."""


class Found(NamedTuple):
    """One calculation that was found: a label, or the reason why it is none."""

    place: str
    """Where: a file and a number, or a node."""
    atoms: Atoms | None = None
    label: Label | None = None
    settings: dict[str, Any] | None = None
    """The level of theory by the calculation's own account, where it has one."""
    reason: str = ""


class ImportConfig(Closed):
    """What is known about labels that were computed elsewhere."""

    structures: Path | list[Path] | None = None
    """Files that ASE reads (extended XYZ, ASE database, …), relative to the configuration file."""
    group: str | None = None
    """Or a group of finished calculations in AiiDA: its label or UUID."""
    profile: str | None = None
    """AiiDA profile of the group; None: the default one."""
    label_store: Path | None = None
    """Or another label store, such as one whose keys an earlier version of gace made."""
    store: Path
    """Folder of the label store, relative to the configuration file."""
    settings: dict[str, Any] | None = None
    """The level of theory: program, version, functional, basis, cutoffs, …; hashed into the label keys.

    Give exactly the content of ``settings/<hash>.json`` of another store to share its hash. A group needs
    none: its calculations say what they were asked. Either way they must all have been asked the same.
    """
    source: str
    """Where the labels come from: a reference, an address, a person; kept with each record."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = None
    """Unpaired electrons of structures that do not state their own; None: the lowest possible."""
    quality: QualityGate = QualityGate()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(one is not None for one in (self.structures, self.group, self.label_store)) != 1:
            raise ValueError("give either structures (files), group (AiiDA) or label_store")
        if self.profile is not None and self.group is None:
            raise ValueError("profile belongs to group")
        return self


def load_import_config(path: Path, overrides: tuple[str, ...] = ()) -> ImportConfig:
    """Read a configuration; its relative paths count from the file's folder.

    Raises:
        InputError: an unknown key or a wrong value.
    """
    config = load_config(path, ImportConfig, overrides)
    folder = path.resolve().parent
    files = None if config.structures is None else [folder / one for one in _files(config)]
    other = None if config.label_store is None else folder / config.label_store
    return config.model_copy(
        update={"structures": files, "label_store": other, "store": folder / config.store}
    )


def _files(config: ImportConfig) -> list[Path]:
    given = config.structures or []
    return given if isinstance(given, list) else [given]


def import_labels(config: ImportConfig) -> dict[str, Any]:
    """Take labels into the store; a key that is there already is left alone.

    Imported labels cost nothing here. One that the quality gate objects to is stored in quarantine.

    Returns:
        Counts: ``structures``, ``imported``, ``present``, ``quarantined``, ``without_label``; ``conflicts``:
        the keys whose label in the store differs from the one found; ``refused``: reason by place of those
        without a label, where one is known.

    Raises:
        InputError: a file, a profile or a group cannot be read, or the calculations differ in their settings.
    """
    if not config.settings and config.structures is not None:
        raise InputError("settings are empty: a label whose level of theory is unknown has no key")
    found = list(_found(config))
    stated = _common_settings(found) if config.structures is None else {}
    settings = config.settings or stated
    store = LabelStore(config.store)
    digest = settings_hash(settings)
    store.remember_settings(digest, settings)
    counts: Counter[str] = Counter()
    conflicts: list[str] = []
    for one in found:
        counts["structures"] += 1
        if one.atoms is None or one.label is None:
            counts["without_label"] += 1
        else:
            counts[_import(one.atoms, one.label, one.place, settings, config, store, conflicts)] += 1
    names = ("structures", "imported", "present", "quarantined", "without_label")
    return {
        **{name: counts[name] for name in names},
        "conflicts": conflicts,
        "refused": {one.place: one.reason for one in found if one.reason},
        "settings_hash": digest,
    }


def _found(config: ImportConfig) -> Iterator[Found]:
    """What the source holds."""
    if config.group is not None:
        return _in_group(config)
    return _in_files(config) if config.label_store is None else _in_store(config.label_store)


def _in_store(folder: Path) -> Iterator[Found]:
    """Labels of another store; failures and what lies in quarantine are left there.

    Raises:
        InputError: the folder is no label store.
    """
    if not (folder / "journal.jsonl").is_file():
        raise InputError(f"{folder} is no label store: it has no journal.jsonl")
    store = LabelStore(folder)
    for record in store.records():
        doubt = store.suspicion(record.key) or record.reason
        if doubt or record.energy is None or record.forces is None:
            yield Found(record.key, reason=doubt or "no label")
            continue
        settings = read_json(folder / "settings" / f"{record.key.split('-')[1]}.json")
        stress = None if record.stress is None else np.array(record.stress)
        forces = np.array(record.forces, dtype=float).reshape(-1, 3)
        label = Label(record.energy, forces, stress, record.evidence)
        yield Found(record.key, record.atoms(), label, settings)


def _in_files(config: ImportConfig) -> Iterator[Found]:
    """Frames of files with energy and forces."""
    for file in _files(config):
        for number, atoms in enumerate(read_structures(file)):
            place, labels = f"{file.name}:{number}", labels_of(atoms)
            if labels.energy is None or labels.forces is None:
                yield Found(place)
            else:
                yield Found(place, atoms, Label(labels.energy, labels.forces, labels.stress))


def _in_group(config: ImportConfig) -> Iterator[Found]:
    """Calculations of an AiiDA group.

    Raises:
        InputError: they were asked for different things.
        MissingDependencyError: the plug-in for AiiDA is not installed.
    """
    sources = {point.name: point for point in entry_points(group=SOURCES)}
    if "group" not in sources:
        raise missing("aiida-core", "aiida")
    try:
        source = sources["group"].load()
    except ImportError:
        raise missing("aiida-core", "aiida") from None
    yield from source(config.group, config.profile)


def _common_settings(found: list[Found]) -> dict[str, Any]:
    """The settings that all calculations have in common.

    Raises:
        InputError: they have several, or none.
    """
    kinds = {settings_hash(one.settings): one for one in found if one.settings is not None}
    if not kinds:
        reasons = "; ".join(sorted({one.reason for one in found if one.reason})[:3])
        raise InputError("not one finished single point was found" + (f" ({reasons})" if reasons else ""))
    if len(kinds) > 1:
        places = " and ".join(one.place for one in list(kinds.values())[:2])
        differ = _difference(*[one.settings or {} for one in list(kinds.values())[:2]])
        raise InputError(
            f"the calculations have {len(kinds)} different settings (such as {differ} of {places}): "
            "labels of one store are of one kind; make a group of each"
        )
    return next(iter(kinds.values())).settings or {}


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first key in which two settings differ."""
    return next(key for key in sorted({*one, *other}) if one.get(key) != other.get(key))


def _import(
    atoms: Atoms,
    found: Label,
    place: str,
    settings: dict[str, Any],
    config: ImportConfig,
    store: LabelStore,
    conflicts: list[str],
) -> str:
    """Take one structure in; what became of it, as a word of the summary."""
    charge = stated_integer(atoms, "charge")
    spin = stated_integer(atoms, "spin")
    charge = config.charge if charge is None else charge
    if spin is None:
        spin = (int(atoms.numbers.sum()) - charge) % 2 if config.spin is None else config.spin
    plain = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    resolved = with_charge_and_spin(plain, charge, spin)
    request = placed_request(0, resolved, settings)
    key = request.key
    label = found._replace(evidence={**(found.evidence or {}), "source": f"{config.source} ({place})"})
    with store.computing(key):
        known = store.get(key)
        if known is not None:
            if known.energy is None or abs(known.energy - label.energy) > 1e-4:
                conflicts.append(key)
            return "present"
        finite = is_finite(label)
        reason = "" if finite else "not_finite: energy, forces or stress hold NaN or infinity"
        run = f"import:{key}"
        store.put(make_record(request, run, request.of_form(label) if finite else None, reason, []))
        store.journal.append("imported", key, run=run, source=config.source)
    if finite:
        doubt = objection(resolved, label.energy, label.forces, label.stress, config.quality)
        if doubt is None:
            return "imported"
        store.suspect(key, doubt)
    return "quarantined"
