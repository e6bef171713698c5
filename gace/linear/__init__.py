"""Linear ACE: an explicit basis of invariants, fitted exactly by regularised least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.linear.fit import Fit, fit
    from gace.linear.model import LinearACE

_HOMES = {"Fit": "fit", "LinearACE": "model", "fit": "fit"}

__all__ = ["Fit", "LinearACE", "fit"]

__getattr__ = at_first_use(__name__, _HOMES)
