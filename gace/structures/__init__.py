"""Structures: graphs, neighbour lists, files, identity.

Names are loaded at first use, so that reading a file does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gace.structures.graph import Graph
    from gace.structures.identity import dataset_hash, structure_hash
    from gace.structures.io import Labels, labels_of, read_structures, set_labels, write_structures
    from gace.structures.neighbours import Neighbourhood, build_graph, collate, neighbourhood

_HOME = {
    "Graph": "graph",
    "dataset_hash": "identity",
    "structure_hash": "identity",
    "Labels": "io",
    "labels_of": "io",
    "read_structures": "io",
    "set_labels": "io",
    "write_structures": "io",
    "Neighbourhood": "neighbours",
    "build_graph": "neighbours",
    "collate": "neighbours",
    "neighbourhood": "neighbours",
}

__all__ = [
    "Graph",
    "Labels",
    "Neighbourhood",
    "build_graph",
    "collate",
    "dataset_hash",
    "labels_of",
    "neighbourhood",
    "read_structures",
    "set_labels",
    "structure_hash",
    "write_structures",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
