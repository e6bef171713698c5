"""Core repulsion of Ziegler, Biersack and Littmark, switched off at bonding distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor, nn

from gace.basis import smooth_cutoff

COULOMB = 14.399645
"""e²/(4πε₀), eV Å."""

AMPLITUDE, DECAY = (0.18175, 0.50986, 0.28022, 0.02817), (3.19980, 0.94229, 0.40290, 0.20162)
"""The universal screening function, a sum of four exponentials; repeated in ``bonds.cpp`` and ``sums.cu``."""


class CoreRepulsion(nn.Module):
    """Universal screened nuclear repulsion, so that no dynamics falls into a core.

    ``V(r) = e²/(4πε₀) Z_i Z_j / r · φ(r/a)``, ``a = 0.46850 Å / (Z_i^0.23 + Z_j^0.23)``, φ the
    universal screening function [Ziegler, Biersack, Littmark, The Stopping and Range of Ions in
    Solids, 1985]; multiplied by a smooth cutoff at ``reach`` times the sum of the covalent radii. It should
    end below all bonds of the data: a steep function that bonds feel has to be learnt away.
    """

    def __init__(self, elements: Sequence[str], reach: float = 1.0) -> None:
        super().__init__()
        z = torch.tensor([atomic_numbers[e] for e in elements], dtype=torch.float64)
        radius = torch.tensor([covalent_radii[atomic_numbers[e]] for e in elements], dtype=torch.float64)
        self.register_buffer("charges", z[:, None] * z[None, :] * (0.5 * COULOMB), persistent=False)
        screening = (z[:, None] ** 0.23 + z[None, :] ** 0.23) / 0.46850
        self.register_buffer("inverse_length", screening, persistent=False)
        self.register_buffer("range", reach * (radius[:, None] + radius[None, :]), persistent=False)
        self.register_buffer("amplitude", torch.tensor(AMPLITUDE, dtype=torch.float64), persistent=False)
        self.register_buffer("decay", torch.tensor(DECAY, dtype=torch.float64), persistent=False)

    def forward(self, r: Tensor, centre: Tensor, neighbour: Tensor) -> Tensor:
        """Half of each bond's repulsion summed on its centre: ``(N, J) -> (N,)``, eV."""
        i = centre.unsqueeze(1)
        x = r * self.inverse_length[i, neighbour]
        screening = (self.amplitude * torch.exp(-x.unsqueeze(-1) * self.decay)).sum(-1)
        switched = smooth_cutoff(r / self.range[i, neighbour], 1.0)
        return (self.charges[i, neighbour] / r * screening * switched).sum(1)
