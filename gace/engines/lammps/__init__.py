"""Dynamics by LAMMPS with a potential of ours: ``pair_style gace``, or LAMMPS' ``fix external``.

The pair style is compiled C++ (:mod:`gace.native`). By the fix LAMMPS hands its atoms over at each step and
takes energy, forces and virial back. See ``docs/engines.md`` for inputs and limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.engines.lammps.coupling import Coupling, attach
    from gace.engines.lammps.library import open_lammps
    from gace.engines.lammps.script import Script, ScriptOutcome, read_script, run_script
    from gace.engines.lammps.style import run_style, uses_coupling, uses_style

_HOMES = {
    "Coupling": "coupling",
    "Script": "script",
    "ScriptOutcome": "script",
    "attach": "coupling",
    "open_lammps": "library",
    "read_script": "script",
    "run_script": "script",
    "run_style": "style",
    "uses_coupling": "style",
    "uses_style": "style",
}

__all__ = [
    "Coupling",
    "Script",
    "ScriptOutcome",
    "attach",
    "open_lammps",
    "read_script",
    "run_script",
    "run_style",
    "uses_coupling",
    "uses_style",
]

__getattr__ = at_first_use(__name__, _HOMES)
