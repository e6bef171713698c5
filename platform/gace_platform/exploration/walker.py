"""The subprocess of a walk: ``python -m gace_platform.exploration.walker FOLDER``.

Reads ``spec.json`` and ``starts.xyz`` in FOLDER; leaves ``frames.xyz`` and, last of all,
``result.json``. Its output depends on these files only. A walk that was killed is walked again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from gace.errors import GaceError
from gace.files import read_json, write_json_atomic
from gace.structures.io import read_structures, write_structures
from gace_platform.exploration.config import Schedule, Teacher
from gace_platform.exploration.drive import Drive, PotentialDrive, TeacherDrive
from gace_platform.exploration.starts import KEPT
from gace_platform.exploration.walk import Frame, Walker, walk

SPEC, STARTS, FRAMES, RESULT = "spec.json", "starts.xyz", "frames.xyz", "result.json"
LOG = "walker.log"
TELL_SECONDS = 5.0


def run(folder: Path) -> None:
    """Walk as the folder's specification says, and write what was found."""
    if (folder / RESULT).exists():  # another cluster's supervisor was here first
        return
    spec = read_json(folder / SPEC)
    schedule = Schedule(**spec["schedule"])
    starts = read_structures(folder / STARTS)
    walkers = [
        Walker(entry["number"], start.copy(), schedule, spec["seed"])
        for entry, start in zip(spec["walkers"], starts, strict=True)
    ]
    drive, potential = _drive(spec)
    begin = time.process_time()
    walk(walkers, drive, _teller(schedule.steps))
    frames: list[Atoms] = []
    for walker, entry in zip(walkers, spec["walkers"], strict=True):
        frames += [_atoms(frame, walker, entry) for frame in walker.frames]
    if potential is not None and frames:
        add_uncertainty(frames, potential)
    write_structures(folder / FRAMES, frames)
    results = [_result(walker, entry) for walker, entry in zip(walkers, spec["walkers"], strict=True)]
    write_json_atomic(
        folder / RESULT,
        {"format_version": 1, "walkers": results, "core_seconds": time.process_time() - begin},
    )


def _teller(steps: int) -> Callable[[int, int], None]:
    """Write a line to the log now and then; the command shows the last one."""
    last = time.monotonic()

    def tell(step: int, moving: int) -> None:
        nonlocal last
        if time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            print(f"step {step} of {steps}, {moving} walking", flush=True)

    return tell


def _drive(spec: dict[str, Any]) -> tuple[Drive, Any]:
    """The drive that the specification names, and its potential if it is one."""
    if spec["teacher"] is not None:
        return TeacherDrive(Teacher(**spec["teacher"])), None
    import torch

    from gace.potential.bundle import load

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    potential = load(spec["potential"], device=spec["device"], dtype=spec["dtype"])
    return PotentialDrive(potential, mean=spec["drive"] == "mean"), potential


def _atoms(frame: Frame, walker: Walker, entry: dict[str, Any]) -> Atoms:
    """A frame as a candidate, with where it comes from."""
    atoms = Atoms(walker.atoms.numbers, frame.positions, cell=walker.atoms.cell, pbc=walker.atoms.pbc)
    if not atoms.pbc.any():
        atoms.positions -= atoms.get_center_of_mass()
    # as the file holds them: a structure read back has the same hash
    atoms.positions = np.round(atoms.positions, 8)
    atoms.info.update({key: walker.atoms.info[key] for key in KEPT if key in walker.atoms.info})
    atoms.info.update(
        structure_id=f"{entry['name']}-{frame.step:06d}",
        ancestor=entry["name"],
        parent=entry["parent"],
        walker=walker.number,
        time_ps=round(frame.step * walker.schedule.timestep_fs * 1e-3, 9),
        temperature=round(walker.temperature(frame.step), 6),
    )
    if entry["teacher_labels"]:
        atoms.info["teacher_energy"] = frame.energy
        atoms.arrays["teacher_forces"] = frame.forces
    return atoms


def add_uncertainty(frames: list[Atoms], potential: Any) -> None:
    """Write the whole committee's error bars and the largest γ into the frames, where it has them."""
    predictions = potential.evaluated_for(frames).predictions(frames, uncertainty=True)
    for atoms, prediction in zip(frames, predictions, strict=True):
        atoms.info["predicted_energy"] = prediction.energy
        if prediction.energy_std is not None:
            atoms.info["energy_std"] = float(prediction.energy_std)
        if prediction.forces_std is not None:
            atoms.info["forces_std"] = float(np.max(prediction.forces_std))
        if prediction.gamma is not None:
            atoms.info["gamma"] = float(np.max(prediction.gamma))


def _result(walker: Walker, entry: dict[str, Any]) -> dict[str, Any]:
    """How one walk ended."""
    return {
        "walker": walker.number,
        "name": entry["name"],
        "parent": entry["parent"],
        "ending": walker.ending,
        "detail": walker.detail,
        "steps": walker.last_step,
        "time_ps": walker.last_step * walker.schedule.timestep_fs * 1e-3,
        "frames": len(walker.frames),
        # infinite where an element is new to the potential; JSON knows no infinity
        "gamma": walker.largest_gamma if np.isfinite(walker.largest_gamma) else None,
    }


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]))
    except GaceError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
