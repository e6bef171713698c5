"""The potential: the graph-ACE model, the committee around it, and the bundle on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gace.potential.bundle import load, save_bundle
    from gace.potential.derivatives import energy_and_gradients
    from gace.potential.graph_ace import GraphACE
    from gace.potential.potential import Potential, StructurePrediction

_HOME = {
    "load": "bundle",
    "save_bundle": "bundle",
    "energy_and_gradients": "derivatives",
    "GraphACE": "graph_ace",
    "Potential": "potential",
    "StructurePrediction": "potential",
}

__all__ = ["GraphACE", "Potential", "StructurePrediction", "energy_and_gradients", "load", "save_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
