"""Structures around given ones, labelled by a cheap calculator.

Every walk is a file of its own, written whole or not at all: a sampling that was killed goes on with
the walks that are missing, and neither their order nor their number of processes changes any. What they
are walks of stands beside them, so that another sampling does not go on with them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from gace.engines.dynamics import Frame, molecular_dynamics
from gace.engines.named import arguments_by_content, make_calculator
from gace.errors import InputError
from gace.files import read_json, write_json_atomic
from gace.randomness import derive_seed, generator
from gace.structures.identity import structure_hash
from gace.structures.io import write_structures
from gace.training.pretraining.config import Pretraining

PLAN = "plan.json"
"""Beside the walks: what they are of."""
_FREE = {"structures", "processes", "validation", "training"}
"""Settings that change no walk, though they may change how many there are."""


class Walk(NamedTuple):
    """One walk to be made."""

    start: Atoms
    temperature: float
    """K."""
    seed: int
    file: Path


def plan_walks(starts: Sequence[Atoms], config: Pretraining, seed: int, folder: Path) -> list[Walk]:
    """The walks of a sampling: starts in an order that depends on ``seed`` and their content only.

    Args:
        starts: structures; their labels are ignored.
        config: how many samples, and at which temperatures.
        seed: of all draws.
        folder: where the walks are kept.
    """
    ordered = sorted(starts, key=lambda one: derive_seed(seed, "start", structure_hash(one)))
    walks = []
    for number in range(-(-config.structures // config.samples_per_walk)):
        draw = generator(seed, "walk", number)
        temperature = draw.uniform(config.temperature.lowest, config.temperature.highest)
        walks.append(
            Walk(
                _bare(ordered[number % len(ordered)]),
                float(temperature),
                derive_seed(seed, "walk", number),
                folder / f"walk-{number:05d}.xyz",
            )
        )
    return walks


def sample(walks: Sequence[Walk], config: Pretraining, tell: Callable[[int], None]) -> list[Path]:
    """Make the walks that have not been made, and return the files of all that gave samples.

    Args:
        walks: as :func:`plan_walks` gives them.
        config: the teacher and its walks.
        tell: called with the number of walks that are complete.

    Raises:
        InputError: no such calculator, it cannot compute the first structure, or no walk gave a sample.
    """
    absent = [walk for walk in walks if not walk.file.exists()]
    if absent:
        absent[0].file.parent.mkdir(parents=True, exist_ok=True)
        _try_teacher(absent[0].start, config)
    done = len(walks) - len(absent)
    tell(done)
    for _ in _made(absent, config):
        done += 1
        tell(done)
    files = [walk.file for walk in walks if walk.file.stat().st_size]
    if not files:
        raise InputError(
            "pretraining: no walk gave a sample; lower pretraining.temperature or raise pretraining.max_force"
        )
    return files


def keep_plan(starts: Sequence[Atoms], config: Pretraining, seed: int, folder: Path) -> None:
    """Write down what the walks of a folder are of, or compare with what is written there.

    Walks without a plan are taken as they are: so one may bring along walks of another run.

    Raises:
        InputError: the folder holds walks of another sampling.
    """
    teacher = config.teacher
    plan = {
        **json.loads(config.model_dump_json(exclude=_FREE)),
        "teacher": [teacher.calculator, arguments_by_content(teacher.calculator, teacher.kwargs)],
        "seed": seed,
        "starts": hashlib.sha256("".join(sorted(map(structure_hash, starts))).encode()).hexdigest(),
    }
    file = folder / PLAN
    if not any(folder.glob("walk-*.xyz")):
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(file, plan)
    elif file.exists():
        before = read_json(file)
        if not isinstance(before, dict):
            raise InputError(f"{file} is damaged: choose another folder, or remove {folder}")
        other = [key for key in plan if before.get(key) != plan[key]]
        if other:
            raise InputError(
                f"{folder} holds walks of another pretraining ({', '.join(other)} differ): "
                "choose another folder, or remove this one"
            )


def _made(walks: Sequence[Walk], config: Pretraining) -> Iterator[None]:
    """Make each walk, in this process or in several."""
    if config.processes == 1 or len(walks) < 2:
        for walk in walks:
            make_walk(walk, config)
            yield
        return
    # spawned: a forked process would inherit the threads' locks of torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(config.processes, len(walks)), mp_context=context) as pool:
        futures = [pool.submit(make_walk, walk, config) for walk in walks]
        for future in futures:
            future.result()
            yield


def make_walk(walk: Walk, config: Pretraining) -> None:
    """Walk, and write the samples: an empty file where the very first forces are too long."""
    samples: list[Atoms] = []

    def observe(frame: Frame) -> bool:
        forces = frame.atoms.get_forces()
        if not np.abs(forces).max(initial=0.0) < config.max_force:
            return False
        if frame.step:
            samples.append(_labelled(frame.atoms, frame.potential_energy, forces, walk))
        return True

    molecular_dynamics(
        walk.start,
        make_calculator(config.teacher.calculator, **config.teacher.kwargs),
        steps=config.samples_per_walk * config.sample_every,
        temperature=walk.temperature,
        timestep=config.timestep,
        friction=config.friction,
        seed=walk.seed,
        every=config.sample_every,
        observe=observe,
    )
    if samples:
        write_structures(walk.file, samples)
    else:
        walk.file.touch()


def _labelled(atoms: Atoms, energy: float, forces: np.ndarray, walk: Walk) -> Atoms:
    """A copy with the teacher's labels; stress where the cell is periodic and the teacher has one."""
    sampled = _bare(atoms)
    sampled.info |= {"REF_energy": energy, "ancestor": walk.file.stem}
    sampled.arrays["REF_forces"] = forces.copy()
    if atoms.pbc.all() and "stress" in atoms.calc.implemented_properties:
        sampled.info["REF_stress"] = atoms.get_stress(voigt=False)
    return sampled


def _bare(atoms: Atoms) -> Atoms:
    """The structure alone, with what decides its electrons."""
    kept: dict[str, Any] = {key: atoms.info[key] for key in ("charge", "spin") if key in atoms.info}
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=kept)


def _try_teacher(atoms: Atoms, config: Pretraining) -> None:
    """Raise InputError if the teacher cannot compute a structure, before hours are spent on others."""
    calculator = make_calculator(config.teacher.calculator, **config.teacher.kwargs)
    trial = atoms.copy()
    trial.calc = calculator
    try:
        trial.get_forces()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"pretraining.teacher '{config.teacher.calculator}' cannot compute "
            f"{atoms.get_chemical_formula()}: {reason}"
        ) from None
