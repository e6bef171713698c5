"""Structures: graphs, neighbour lists, files, identity.

Names are loaded at first use, so that reading a file does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.structures.graph import Graph
    from gace.structures.identity import dataset_hash, structure_hash
    from gace.structures.io import Labels, labels_of, read_structures, set_labels, write_structures
    from gace.structures.neighbours import Neighbourhood, build_graph, collate, neighbourhood

_HOMES = {
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

__getattr__ = at_first_use(__name__, _HOMES)
