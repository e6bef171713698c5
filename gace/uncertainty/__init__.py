"""Uncertainty of a potential: novelty γ, committee error bars, and how good they are."""

from gace.uncertainty.committee import Scale, energy_spread, fit_scale, forces_spread, out_of_bag_residual
from gace.uncertainty.container import Uncertainty
from gace.uncertainty.novelty import Novelty

__all__ = [
    "Novelty",
    "Scale",
    "Uncertainty",
    "energy_spread",
    "fit_scale",
    "forces_spread",
    "out_of_bag_residual",
]
