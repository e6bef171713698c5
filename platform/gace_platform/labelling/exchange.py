"""How structures and labels travel between the batch and its engine process: as JSON, one object per line."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from gace_platform.labelling.engines.base import Label


def structure_to_json(atoms: Atoms) -> dict[str, Any]:
    """Everything an engine may look at; floats survive the journey exactly."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "info": {
            name: np.asarray(atoms.info[name]).item() for name in ("charge", "spin") if name in atoms.info
        },
    }


def structure_from_json(content: dict[str, Any]) -> Atoms:
    """The inverse of :func:`structure_to_json`."""
    return Atoms(**content)


def label_to_json(label: Label) -> dict[str, Any]:
    """A finite label as JSON; floats survive the journey exactly."""
    stress = None if label.stress is None else np.asarray(label.stress).tolist()
    return {
        "energy": float(label.energy),
        "forces": np.asarray(label.forces).tolist(),
        "stress": stress,
        "evidence": label.evidence,
    }


def is_finite(label: Label) -> bool:
    """Whether energy, forces and stress hold neither NaN nor infinity."""
    values = [np.array(label.energy), label.forces, *([] if label.stress is None else [label.stress])]
    return all(bool(np.isfinite(value).all()) for value in values)


def label_from_json(content: dict[str, Any]) -> Label:
    """The inverse of :func:`label_to_json`."""
    stress = None if content["stress"] is None else np.array(content["stress"], dtype=float)
    forces = np.array(content["forces"], dtype=float).reshape(-1, 3)
    return Label(float(content["energy"]), forces, stress, content.get("evidence"))
