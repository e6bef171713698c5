"""Graph atomic cluster expansion potentials, and the active learning that makes them.

The public names are loaded at first use: ``import gace`` is quick and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.evaluation import evaluate
    from gace.potential.bundle import load
    from gace.potential.graph_ace import GraphACE
    from gace.potential.potential import Potential
    from gace.training import train

    __version__: str

_public = at_first_use(
    __name__,
    {
        "GraphACE": "potential.graph_ace",
        "Potential": "potential.potential",
        "evaluate": "evaluation",
        "load": "potential.bundle",
        "train": "training",
    },
)

__all__ = ["GraphACE", "Potential", "__version__", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gace")
    return _public(name)


def __dir__() -> list[str]:
    return sorted(__all__)
