"""Potentials as files of plain numbers, evaluated by compiled C++ alone: no PyTorch, no compiler at run time.

``gace export POTENTIAL --out sic.gace`` writes the file; :class:`NativeCalculator` is ASE's calculator for
it, ``pair_style gace`` LAMMPS', and C++ programs include ``cpp/potential.h``. The kernels are those of
:mod:`gace.potential.kernels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.native.calculator import NativeCalculator
    from gace.native.model import NativeModel
    from gace.native.potential import NativePotential
    from gace.native.writing import write

_HOMES = {
    "NativeCalculator": "calculator",
    "NativeModel": "model",
    "NativePotential": "potential",
    "write": "writing",
}

__all__ = ["NativeCalculator", "NativeModel", "NativePotential", "write"]

__getattr__ = at_first_use(__name__, _HOMES)
