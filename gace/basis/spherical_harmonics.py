"""Real spherical harmonics by repeated coupling with degree one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gace.basis.clebsch_gordan import real_clebsch_gordan


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics Y_lm of unit vectors, l = 0 … l_max, m = -l … l.

    Normalised so that ``Σ_m Y_lm² = 2l + 1`` (so ``Y_00 = 1``); degree one is ``√3 (y, z, x)``.
    Degree l+1 is the stretched Clebsch–Gordan product of degree l with degree one: one outer
    product and one matrix product each, polynomial in the components, with all derivatives.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        north = {0: np.ones(1), 1: np.sqrt(3.0) * np.array([0.0, 1.0, 0.0])}
        for l in range(1, l_max):
            c = real_clebsch_gordan(l, 1, l + 1)
            raw = np.einsum("Mab,a,b->M", c, north[l], north[1])
            # the norm of a stretched product is the same in every direction; fix size and sign at the pole
            factor = np.sqrt(2 * l + 3) / raw[l + 1]
            north[l + 1] = factor * raw
            matrix = torch.from_numpy((factor * c).reshape(2 * l + 3, -1).T.copy())
            self.register_buffer(f"step_{l}", matrix, persistent=False)

    def forward(self, unit_vector: Tensor) -> list[Tensor]:
        """Harmonics of each degree: ``(..., 3) -> [(..., 1), (..., 3), …, (..., 2 l_max + 1)]``."""
        first = torch.cat([unit_vector[..., 1:], unit_vector[..., :1]], dim=-1) * 3.0**0.5
        harmonics = [torch.ones_like(unit_vector[..., :1])]
        if self.l_max >= 1:
            harmonics.append(first)
        for l in range(1, self.l_max):
            outer = (harmonics[-1].unsqueeze(-1) * first.unsqueeze(-2)).flatten(-2)
            harmonics.append(outer @ getattr(self, f"step_{l}"))
        return harmonics
