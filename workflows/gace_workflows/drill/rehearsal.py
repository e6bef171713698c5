"""Campaigns small enough to be killed often: copper with a teacher in the place of DFT, silicon with pw.x."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import yaml

from gace.errors import GaceError

REHEARSAL: dict[str, Any] = {
    "campaign": "drill",
    "system": {"structure": "copper.xyz"},
    "reference": {"engine": "teacher", "calculator": "emt"},
    "budget": {"labels": 12},
    # kills come faster here than any machine's: they must not be taken for a structure's own fault
    "labelling": {"max_losses": 50},
    "initial": {"labels": 5, "teacher": {"calculator": "emt"}},
    "generations": [{"labels": 4}],
    "potential": {
        "preset": "1L-small",
        "cutoff": 3.5,
        "overrides": {"channels": 4, "l_max": [1], "order": 2, "densities": 2, "radial_hidden": [8]},
    },
    "training": {"max_epochs": 10},
    "committee": {"members": 2},
    "exploration": {
        "walkers": 2,
        "steps": 60,
        "sample_every": 6,
        "rattle": 0.1,
        "strain": 0.03,
        "temperature": {"start": 600, "end": 900},
        "gamma_max": None,
    },
    "exam": {"structures": 3, "criteria": {"drift_steps": 20, "bootstrap": 100}},
    "cluster": {"workers": 2},
}
"""The campaign file, less the seed."""

SILICON: dict[str, Any] = {
    **REHEARSAL,
    "system": {"structure": "silicon.xyz"},
    "reference": {
        "engine": "quantum-espresso",
        "pseudopotentials": {"Si": "Si.pz-vbc.UPF"},
        "protocol": "fast",
        # a second or two of pw.x for each label, so that a kill can meet it
        "cutoff_wfc": 20,
        "kpoints_distance": 0.45,
        "smearing": "gaussian",
        "isolated_box": 6.0,
    },
    # four atoms of silicon in a coarse basis need not be right, only the same every time
    "labelling": {**REHEARSAL["labelling"], "quality": {"max_force": 500, "max_binding_energy": 200}},
    "initial": {"labels": 5, "teacher": {"calculator": "tersoff-si"}},
}
"""The same with a DFT program that AiiDA runs."""

REHEARSALS: dict[str, dict[str, Any]] = {"teacher": REHEARSAL, "quantum-espresso": SILICON}
"""Rehearsals by the engine that labels."""


class DrillError(GaceError, RuntimeError):
    """The drill itself could not be carried out."""


def write_rehearsal(folder: Path, seed: int, engine: str = "teacher") -> Path:
    """Write the campaign file and its geometry into ``folder``; returns the file."""
    from ase.build import bulk

    from gace.structures.io import write_structures

    folder.mkdir(parents=True, exist_ok=True)
    write_structures(folder / "copper.xyz", [bulk("Cu", "fcc", a=3.6, cubic=True)])
    write_structures(folder / "silicon.xyz", [bulk("Si", "diamond", a=5.43)])
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump({**REHEARSALS[engine], "seed": seed}), encoding="utf-8")
    return file


def start(
    output: IO[bytes], *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``gace campaign …`` in a session of its own, with these variables besides the usual ones."""
    command = [sys.executable, "-m", "gace.cli", "campaign", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def summary_of(folder: Path) -> dict[str, Any]:
    """Summary of a finished campaign.

    Raises:
        DrillError: it has not finished.
    """
    try:
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise DrillError(f"the campaign in {folder} left no summary") from None


def undisturbed(folder: Path, seed: int, timeout: float, engine: str = "teacher") -> dict[str, Any]:
    """Carry out the rehearsal in peace; returns its summary.

    Raises:
        DrillError: it failed without any help of ours.
    """
    file = write_rehearsal(folder, seed, engine)
    with (folder / "output").open("wb") as output:
        process = start(output, "run", file, "--dir", folder / "campaign")
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(60)
            raise DrillError(f"the undisturbed rehearsal did not end within {timeout:g} s") from None
    if code:
        raise DrillError(f"the undisturbed rehearsal failed: {last_line(folder / 'output')}")
    return summary_of(folder / "campaign")


def last_line(output: Path) -> str:
    """Last line of what a command printed."""
    return " ".join(output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])
