"""Hand-written kernels of the hottest operations, with PyTorch operators around them."""

from gace.potential.kernels.calls import available
from gace.potential.kernels.coupling import WeightedCoupling
from gace.potential.kernels.density import density
from gace.potential.kernels.geometry import geometry
from gace.potential.kernels.splined import splined

__all__ = ["WeightedCoupling", "available", "density", "geometry", "splined"]
