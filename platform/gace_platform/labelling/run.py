"""`gace labels run`: from a configuration to `labelled.xyz` and `labels.json`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gace.errors import InputError
from gace.files import write_json_atomic
from gace.structures.io import read_structures, write_structures
from gace_platform.labelling.batch import Verdict, label_structures, refuse_early
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.base import THROUGH_AIIDA, make_engine
from gace_platform.labelling.supervisor import EngineProcess
from gace_platform.ledger.keys import settings_hash

Progress = Callable[[Verdict, int, int], None]


def run_labels(config: LabelConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Label the structures of a configuration; returns the summary.

    Leaves in ``out``: ``labelled.xyz`` (accepted structures in their order; empty if none), ``labels.json``
    (every structure with key, verdict, reason, price, attempts), and ``isolated_atoms.xyz`` if asked for.

    Raises:
        InputError: a file cannot be read or written, AiiDA runs the engine's program, or the engine refuses a
            structure; nothing was computed.
    """
    began = time.monotonic()
    _refuse_through_aiida(config)
    if config.structures is None:
        raise InputError("missing key 'structures': a file of structures to label")
    structures = read_structures(config.structures)
    _prepare(out)
    engine = make_engine(config.reference)
    atoms_verdicts: list[Verdict] = []
    with EngineProcess(config, out / "engine.log") as process:
        refuse_early(structures, config, process)
        if config.isolated_atoms:
            symbols = {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}
            symbols |= set(config.elements)
            atoms_verdicts = _isolated_atoms(config, sorted(symbols), out, process, progress)
        isolated = energies_of(atoms_verdicts) or None
        verdicts = label_structures(structures, config, process, isolated, progress)
    write_structures(out / "labelled.xyz", [one.atoms for one in verdicts if one.verdict == "accepted"])
    settings = engine.settings()
    summary = summarise(verdicts, atoms_verdicts)
    summary["wall_seconds"] = round(time.monotonic() - began, 3)
    summary["settings_hash"] = settings_hash(settings)
    content = {
        "format_version": 1,
        "settings": settings,
        "settings_hash": summary["settings_hash"],
        "structures": [describe(one, number) for number, one in enumerate(verdicts)],
        "isolated_atoms": {str(one.atoms.symbols[0]): describe(one, None) for one in atoms_verdicts},
        "summary": summary,
    }
    write_json_atomic(out / "labels.json", content)
    return summary


def run_isolated_atoms(
    config: LabelConfig, symbols: Sequence[str], out: Path, progress: Progress | None = None
) -> list[Verdict]:
    """Isolated-atom energies of these elements through the store, written to ``out/isolated_atoms.xyz``.

    Raises:
        InputError: as :func:`run_labels`.
    """
    _refuse_through_aiida(config)
    _prepare(out)
    with EngineProcess(config, out / "engine.log") as process:
        return _isolated_atoms(config, symbols, out, process, progress)


def _isolated_atoms(
    config: LabelConfig, symbols: Sequence[str], out: Path, process: EngineProcess, progress: Progress | None
) -> list[Verdict]:
    engine = make_engine(config.reference)
    atoms_alone = [engine.isolated_atom(symbol) for symbol in symbols]
    verdicts = label_structures(atoms_alone, config, process, None, progress)
    accepted = [one.atoms for one in verdicts if one.verdict == "accepted"]
    for atoms in accepted:
        atoms.info["config_type"] = "isolated_atom"
    write_structures(out / "isolated_atoms.xyz", accepted)
    return verdicts


def energies_of(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Energy of each accepted isolated atom by element, eV."""
    return {
        str(one.atoms.symbols[0]): float(one.atoms.info["REF_energy"])
        for one in verdicts
        if one.verdict == "accepted"
    }


def describe(one: Verdict, number: int | None) -> dict[str, Any]:
    """One verdict as JSON; ``price`` is what the label cost ever, ``paid`` what it cost in this run."""
    record = one.record
    return {
        "index": number,
        "structure_id": one.atoms.info.get("structure_id"),
        "formula": one.atoms.get_chemical_formula(),
        "n_atoms": len(one.atoms),
        "key": record.key,
        "charge": record.charge,
        "spin": record.spin,
        "verdict": one.verdict,
        "reason": one.reason,
        "reused": one.reused,
        "price": record.core_seconds,
        "paid": 0.0 if one.reused else record.core_seconds,
        "attempts": record.attempts,
        "energy": record.energy,
    }


def summarise(verdicts: Sequence[Verdict], atoms_verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Counts and core seconds of a run."""
    everything = [*verdicts, *atoms_verdicts]
    return {
        "structures": len(verdicts),
        "accepted": sum(one.verdict == "accepted" for one in verdicts),
        "quarantined": sum(one.verdict == "quarantined" for one in verdicts),
        "computed": sum(not one.reused for one in verdicts),
        "reused": sum(one.reused for one in verdicts),
        "isolated_atoms": len(energies_of(atoms_verdicts)),
        "core_seconds": round(sum(one.record.core_seconds for one in everything if not one.reused), 3),
    }


def _refuse_through_aiida(config: LabelConfig) -> None:
    """Refuse an engine that has no calculation of its own."""
    name = config.reference.engine
    if name in THROUGH_AIIDA:
        raise InputError(
            f"the engine {name} is run by AiiDA: use it in a campaign (gace campaign run), "
            "or submit the work chain gace.label"
        )


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror or error}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError(f"the folder {out} cannot be written")
