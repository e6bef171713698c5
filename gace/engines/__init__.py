"""Engines that move atoms with a potential: ASE calculator, molecular dynamics, relaxation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gace.engines.calculator import PotentialCalculator
    from gace.engines.dynamics import Frame, MDOutcome, molecular_dynamics
    from gace.engines.optimise import RelaxOutcome, relaxation

_HOME = {
    "PotentialCalculator": "calculator",
    "Frame": "dynamics",
    "MDOutcome": "dynamics",
    "molecular_dynamics": "dynamics",
    "RelaxOutcome": "optimise",
    "relaxation": "optimise",
}

__all__ = ["Frame", "MDOutcome", "PotentialCalculator", "RelaxOutcome", "molecular_dynamics", "relaxation"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
