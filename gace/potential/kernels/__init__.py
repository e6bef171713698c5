"""Hand-written kernels of the hottest operations, with PyTorch operators around them."""

from gace.potential.kernels.calls import available
from gace.potential.kernels.coupling import WeightedCoupling
from gace.potential.kernels.density import density
from gace.potential.kernels.geometry import geometry
from gace.potential.kernels.mixed import mixed, products
from gace.potential.kernels.splined import splined
from gace.potential.kernels.sums import bond_sums

__all__ = [
    "WeightedCoupling",
    "available",
    "bond_sums",
    "density",
    "geometry",
    "mixed",
    "products",
    "splined",
]
