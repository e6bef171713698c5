"""Uncertainty of a potential: novelty γ, committee error bars, and how good they are.

Names are loaded at first use, so that what needs error bars alone imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.uncertainty.committee import (
        Scale,
        energy_spread,
        fit_scale,
        forces_spread,
        out_of_bag_residual,
    )
    from gace.uncertainty.container import Uncertainty
    from gace.uncertainty.novelty import Novelty

_HOMES = {
    "Novelty": "novelty",
    "Scale": "committee",
    "Uncertainty": "container",
    "energy_spread": "committee",
    "fit_scale": "committee",
    "forces_spread": "committee",
    "out_of_bag_residual": "committee",
}

__all__ = [
    "Novelty",
    "Scale",
    "Uncertainty",
    "energy_spread",
    "fit_scale",
    "forces_spread",
    "out_of_bag_residual",
]

__getattr__ = at_first_use(__name__, _HOMES)
