"""Engines that move atoms with a potential: ASE calculator, molecular dynamics, relaxation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.engines.calculator import PotentialCalculator
    from gace.engines.dynamics import Frame, MDOutcome, molecular_dynamics
    from gace.engines.optimise import RelaxOutcome, relaxation

_HOMES = {
    "PotentialCalculator": "calculator",
    "Frame": "dynamics",
    "MDOutcome": "dynamics",
    "molecular_dynamics": "dynamics",
    "RelaxOutcome": "optimise",
    "relaxation": "optimise",
}

__all__ = ["Frame", "MDOutcome", "PotentialCalculator", "RelaxOutcome", "molecular_dynamics", "relaxation"]

__getattr__ = at_first_use(__name__, _HOMES)
