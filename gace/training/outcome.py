"""What a run leaves behind: the bundle, then the summary that says it is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gace.errors import InputError
from gace.files import read_json, write_json_atomic
from gace.linear.model import LinearACE
from gace.potential.bundle import save_bundle
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.training.batches import Packed
from gace.training.config import TrainConfig
from gace.training.prepare import Data
from gace.training.schedule import stage_weights
from gace.training.stress_order import REMEDY, judged_by
from gace.training.validation import validate

FORMAT_VERSION = 1
SUMMARY = "summary.json"


@dataclass(frozen=True)
class TrainResult:
    """What a run has left behind."""

    bundle: Path
    """Folder of the trained potential."""
    ending: str
    """``completed``, ``early_stopping`` or ``max_minutes``."""
    epochs: int
    steps: int
    n_train: int
    n_validation: int
    metrics: dict[str, Any]
    """Errors by data set (``train``, ``validation``): ``energy_per_atom`` [meV/atom], ``forces`` [meV/Å],
    ``stress`` [meV/Å³] with ``mae`` and ``rmse``."""
    seconds: float
    """Wall time, interruptions left out."""
    core_seconds: float
    dataset_hash: str
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return {**asdict(self), "bundle": str(self.bundle)}


@dataclass(frozen=True)
class Outcome:
    """A trained model and what it took."""

    model: GraphACE | LinearACE
    ending: str
    epochs: int
    steps: int
    seconds: float
    core_seconds: float
    notes: dict[str, Any] = field(default_factory=dict)
    """Further entries of the bundle's metadata."""


def write_result(
    outcome: Outcome,
    config: TrainConfig,
    data: Data,
    packed: Packed,
    validation: Packed | None,
    *,
    fingerprint: dict[str, Any],
    out: Path,
) -> TrainResult:
    """Write the bundle, then the summary: where the summary stands, the run is complete."""
    model = outcome.model
    weights = stage_weights(config.training, 1.0, packed.has_stress)
    errors = {"train": validate(model, packed, weights)}
    if validation is not None:
        errors["validation"] = validate(model, validation, weights)
    settings = json.loads(config.model_dump_json())
    potential = Potential(
        [model],
        isolated_atom_energies=data.isolated_atoms,
        level_of_theory=config.data.level_of_theory,
        metadata={
            "dataset_hash": fingerprint["data.train"],
            "n_train": len(packed),
            "n_validation": 0 if validation is None else len(validation),
            "errors": errors,
            "training": {name: settings[name] for name in ("training", "seed", "dtype")},
            "ending": outcome.ending,
            "epochs": outcome.epochs,
            **outcome.notes,
            "software": _versions(),
        },
    )
    warnings = list(data.warnings)
    if packed.has_stress and config.data.stress_order == "as-given":
        found = judged_by(potential, data.train, data.train_labels)
        warnings += [f"{one}; {REMEDY}" for one in found]
    result = TrainResult(
        bundle=save_bundle(potential, out / "potential"),
        ending=outcome.ending,
        epochs=outcome.epochs,
        steps=outcome.steps,
        n_train=len(packed),
        n_validation=0 if validation is None else len(validation),
        metrics=errors,
        seconds=round(outcome.seconds, 3),
        core_seconds=round(outcome.core_seconds, 3),
        dataset_hash=fingerprint["data.train"],
        warnings=warnings,
    )
    summary = {**result.summary(), "bundle": "potential", "fingerprint": fingerprint}
    write_json_atomic(out / SUMMARY, {"format_version": FORMAT_VERSION, **summary})
    return result


def read_result(out: Path) -> tuple[TrainResult, dict[str, Any]] | None:
    """What a complete run has left, and the fingerprint of what it was asked; None where none is.

    Raises:
        InputError: its summary cannot be read, or its bundle is gone.
    """
    path = out / SUMMARY
    if not path.exists():
        return None
    again = f"delete {out} to train it again, or choose another --out"
    summary = read_json(path)
    if not isinstance(summary, dict) or summary.pop("format_version", None) != FORMAT_VERSION:
        raise InputError(f"{path} is not a summary of this program: {again}")
    fingerprint = summary.pop("fingerprint", None)
    try:
        result = TypeAdapter(TrainResult).validate_python({**summary, "bundle": str(out / "potential")})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{path} is damaged ({where}): {again}") from None
    if not isinstance(fingerprint, dict):
        raise InputError(f"{path} is damaged (fingerprint): {again}")
    if not result.bundle.is_dir():
        raise InputError(
            f"{out} holds a finished run whose {result.bundle} is gone: delete {out} to train it again"
        )
    return result, fingerprint


def _versions() -> dict[str, str]:
    """Versions of what computed the result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("gace", "torch", "numpy", "ase", "vesin")}
