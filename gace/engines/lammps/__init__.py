"""Dynamics by LAMMPS with a potential of ours, through LAMMPS' ``fix external``.

Each step LAMMPS hands its atoms over and takes energy, forces and virial back. See
``docs/engines.md`` for the input script and for what this coupling cannot do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.engines.lammps.coupling import Coupling, attach
    from gace.engines.lammps.library import open_lammps
    from gace.engines.lammps.script import Script, ScriptOutcome, read_script, run_script

_HOMES = {
    "Coupling": "coupling",
    "Script": "script",
    "ScriptOutcome": "script",
    "attach": "coupling",
    "open_lammps": "library",
    "read_script": "script",
    "run_script": "script",
}

__all__ = ["Coupling", "Script", "ScriptOutcome", "attach", "open_lammps", "read_script", "run_script"]

__getattr__ = at_first_use(__name__, _HOMES)
