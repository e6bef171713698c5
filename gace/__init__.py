"""Graph atomic cluster expansion potentials, and the active learning that makes them.

The public names are loaded at first use: ``import gace`` is quick and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gace.evaluation import evaluate
    from gace.potential.bundle import load
    from gace.potential.graph_ace import GraphACE
    from gace.potential.potential import Potential
    from gace.training import train

    __version__: str

_HOME = {
    "GraphACE": "gace.potential.graph_ace",
    "Potential": "gace.potential.potential",
    "evaluate": "gace.evaluation",
    "load": "gace.potential.bundle",
    "train": "gace.training",
}

__all__ = ["GraphACE", "Potential", "__version__", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gace")
    if name not in _HOME:
        raise AttributeError(f"module 'gace' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
