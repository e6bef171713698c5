"""Labels that exist already: taken into the store with keys, a settings hash and the quality gate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ase import Atoms

from gace.config import Closed, load_config
from gace.errors import InputError
from gace.structures.io import labels_of, read_structures
from gace_platform.labelling.config import QualityGate
from gace_platform.labelling.engines.base import Label, stated_integer
from gace_platform.labelling.exchange import is_finite
from gace_platform.labelling.gate import objection
from gace_platform.labelling.verdicts import Request, make_record
from gace_platform.ledger.keys import label_key, settings_hash, with_charge_and_spin
from gace_platform.ledger.store import LabelStore


class ImportConfig(Closed):
    """What is known about labels that were computed elsewhere."""

    structures: Path | list[Path]
    """Files that ASE reads (extended XYZ, ASE database, …), relative to the configuration file."""
    store: Path
    """Folder of the label store, relative to the configuration file."""
    settings: dict[str, Any]
    """The level of theory: program, version, functional, basis, cutoffs, …; hashed into the label keys.

    Give exactly the content of ``settings/<hash>.json`` of another store to share its hash.
    """
    source: str
    """Where the labels come from: a reference, an address, a person; kept with each record."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = None
    """Unpaired electrons of structures that do not state their own; None: the lowest possible."""
    quality: QualityGate = QualityGate()


def load_import_config(path: Path, overrides: tuple[str, ...] = ()) -> ImportConfig:
    """Read a configuration; its relative paths count from the file's folder.

    Raises:
        InputError: an unknown key or a wrong value.
    """
    config = load_config(path, ImportConfig, overrides)
    folder = path.resolve().parent
    files = config.structures if isinstance(config.structures, list) else [config.structures]
    return config.model_copy(
        update={"structures": [folder / one for one in files], "store": folder / config.store}
    )


def import_labels(config: ImportConfig) -> dict[str, Any]:
    """Take labels into the store; a key that is there already is left alone.

    Imported labels cost nothing here. One that the quality gate objects to is stored in quarantine.

    Returns:
        Counts: ``structures``, ``imported``, ``present``, ``quarantined``, ``without_label``; ``conflicts``:
        the keys whose label in the store differs from the one in the file.

    Raises:
        InputError: a file cannot be read.
    """
    if not config.settings:
        raise InputError("settings are empty: a label whose level of theory is unknown has no key")
    store = LabelStore(config.store)
    digest = settings_hash(config.settings)
    store.remember_settings(digest, config.settings)
    files = config.structures if isinstance(config.structures, list) else [config.structures]
    counts: Counter[str] = Counter()
    conflicts: list[str] = []
    for file in files:
        for number, atoms in enumerate(read_structures(file)):
            counts["structures"] += 1
            counts[_import(atoms, f"{file.name}:{number}", config, store, conflicts)] += 1
    names = ("structures", "imported", "present", "quarantined", "without_label")
    return {**{name: counts[name] for name in names}, "conflicts": conflicts, "settings_hash": digest}


def _import(atoms: Atoms, place: str, config: ImportConfig, store: LabelStore, conflicts: list[str]) -> str:
    """Take one structure in; what became of it, as a word of the summary."""
    labels = labels_of(atoms)
    if labels.energy is None or labels.forces is None:
        return "without_label"
    charge = stated_integer(atoms, "charge")
    spin = stated_integer(atoms, "spin")
    charge = config.charge if charge is None else charge
    if spin is None:
        spin = (int(atoms.numbers.sum()) - charge) % 2 if config.spin is None else config.spin
    plain = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    resolved = with_charge_and_spin(plain, charge, spin)
    key = label_key(resolved, config.settings)
    label = Label(labels.energy, labels.forces, labels.stress, {"source": f"{config.source} ({place})"})
    with store.computing(key):
        known = store.get(key)
        if known is not None:
            if known.energy is None or abs(known.energy - label.energy) > 1e-4:
                conflicts.append(key)
            return "present"
        finite = is_finite(label)
        reason = "" if finite else "not_finite: energy, forces or stress hold NaN or infinity"
        run = f"import:{key}"
        store.put(make_record(Request(0, resolved, key), run, label if finite else None, reason, []))
        store.journal.append("imported", key, run=run, source=config.source)
    if finite:
        found = objection(resolved, label.energy, label.forces, label.stress, config.quality)
        if found is None:
            return "imported"
        store.suspect(key, found)
    return "quarantined"
