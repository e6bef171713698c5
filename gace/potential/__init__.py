"""The potential: the graph-ACE model, the committee around it, and the bundle on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.potential.bundle import load, save_bundle
    from gace.potential.combination import combine
    from gace.potential.derivatives import energy_and_gradients
    from gace.potential.graph_ace import GraphACE
    from gace.potential.potential import Potential, StructurePrediction

_HOMES = {
    "load": "bundle",
    "save_bundle": "bundle",
    "combine": "combination",
    "energy_and_gradients": "derivatives",
    "GraphACE": "graph_ace",
    "Potential": "potential",
    "StructurePrediction": "potential",
}

__all__ = [
    "GraphACE",
    "Potential",
    "StructurePrediction",
    "combine",
    "energy_and_gradients",
    "load",
    "save_bundle",
]

__getattr__ = at_first_use(__name__, _HOMES)
