"""How a linear ACE is fitted; defaults live here and nowhere else."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gace.config import Closed

PRESETS: dict[str, dict[str, Any]] = {
    "linear-small": dict(cutoff=5.0, order=2, size=400),
    "linear-medium": dict(cutoff=5.0, order=3, size=1000),
    "linear-large": dict(cutoff=5.0, order=4, size=3000, order_cost=2.0),
}
"""Arguments of :class:`gace.linear.LinearACE` by name; ``size`` is per element."""


class LeastSquares(Closed):
    """Regularised least squares: rows weighted, coefficients drawn towards zero by a smoothness prior."""

    ridge: Literal["auto"] | float = Field(
        default="auto",
        description="strength of the prior, (eV/Å)²; auto: least error on structures left out",
    )
    smoothness: Literal["auto"] | float = Field(
        default="auto",
        description="p: the prior width falls as (1 + Σ n + degree_weight Σ l)^-p; auto as for ridge",
    )
    order_decay: Literal["auto"] | float = Field(
        default="auto",
        description="factor by which the prior width falls with every order; auto as for ridge",
    )
    energy_weight: float = Field(
        default=10.0, ge=0, description="of the energy over √N, relative to a force, 1/Å"
    )
    forces_weight: float = Field(default=1.0, ge=0, description="of a force component")
    stress_weight: float = Field(
        default=1.0, ge=0, description="of the virial over √N, relative to a force, 1/Å"
    )
    anchors: int = Field(
        default=300,
        ge=0,
        description="compressed and disordered copies of structures that hold the fit near a pair potential "
        "where the data end; 0: none",
    )
    search_rows: int = Field(
        default=800,
        gt=0,
        description="rows up to which structures are left out one by one to choose the open settings; "
        "beyond, a fifth of all at a time",
    )
