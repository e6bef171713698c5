"""Named sets of hyperparameters; any of them can be changed one by one in the configuration."""

from __future__ import annotations

from typing import Any

# Priors of smoothness, and a repulsion that no bond feels: together they halve the force errors of
# a model from 50 geometries of ethanol (benchmarks/results/ablation.md).
_SMOOTH = dict(radial_decay=1.0, order_decay=0.1, degree_decay=0.5, core_reach=0.6)

# Local, radial functions linear in the basis, squares of densities in place of a network: for large dynamics.
_FS = dict(
    cutoff=6.0, radial_hidden=[], parity="natural", densities=4, readout_hidden=0, embedding="polynomial"
)

PRESETS: dict[str, dict[str, Any]] = {
    "FS-small": dict(l_max=[2], order=3, channels=16, **_FS, **_SMOOTH),
    "FS-medium": dict(l_max=[3], order=4, channels=16, **_FS, **_SMOOTH),
    "FS-large": dict(l_max=[4], order=4, channels=32, **_FS, **_SMOOTH),
    "1L-small": dict(
        cutoff=6.0, l_max=[3], order=3, channels=32, radial_hidden=[32, 32], densities=8, **_SMOOTH
    ),
    "1L-medium": dict(cutoff=6.0, l_max=[4], order=4, channels=32, densities=16, **_SMOOTH),
    "1L-large": dict(cutoff=6.0, l_max=[4], order=4, channels=64, densities=16, **_SMOOTH),
    "2L-small": dict(
        cutoff=5.0,
        l_max=[3, 2],
        order=3,
        channels=32,
        l_message=1,
        radial_hidden=[32, 32],
        densities=8,
        **_SMOOTH,
    ),
    "2L-medium": dict(
        cutoff=5.0, l_max=[4, 3], order=[4, 3], channels=32, l_message=1, densities=12, **_SMOOTH
    ),
    "2L-large": dict(cutoff=5.0, l_max=[4, 3], order=4, channels=64, l_message=2, densities=16, **_SMOOTH),
}
"""Arguments of :class:`gace.potential.graph_ace.GraphACE` by name: layers, then size."""
