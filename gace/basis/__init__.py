"""Functions of one bond: real spherical harmonics, radial functions, and how angular momenta couple."""

from gace.basis.clebsch_gordan import real_clebsch_gordan
from gace.basis.radial import RadialBasis, RadialNetwork, smooth_cutoff
from gace.basis.spherical_harmonics import SphericalHarmonics

__all__ = ["RadialBasis", "RadialNetwork", "SphericalHarmonics", "real_clebsch_gordan", "smooth_cutoff"]
