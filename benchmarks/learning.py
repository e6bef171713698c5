"""The training workloads of ``speed.py``: timed optimiser steps, and errors after a budget of processor time.

Both train by gace's own trainer. What the clock counts is all that happens between two steps: cutting the
batch, the step, the running mean of the parameters. Reading the data, searching neighbours and making the
model are reported apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import Clock, barrier_of, calibration, memory, since
from workloads import CUTOFF, ISOLATED_ATOMS, PROXY_TESTS, data_file, labelled

from gace.config import apply_override, parse_config, read_yaml
from gace.potential.devices import resolve_device, resolve_dtype
from gace.potential.potential import Potential
from gace.structures.io import write_structures
from gace.training.batches import Packed
from gace.training.config import TrainConfig, TrainingConfig
from gace.training.metrics import MetricsFile
from gace.training.model import choose_cutoff, is_linear, make_model
from gace.training.prepare import Data, pack, read_data
from gace.training.progress import ProgressBar
from gace.training.trainer import Trainer

WARM_STEPS = 3
"""Steps before the clock of ``train`` starts."""

PATHS = {"eager": False, "compiled": True, "auto": None}
"""What ``training.compile`` is for each path."""

FOREVER = 10**9


class BudgetedTrainer(Trainer):
    """A trainer whose schedule is laid out over processor seconds instead of steps."""

    budget = 0.0
    """CPU seconds."""
    spent = 0.0
    """CPU seconds of the steps so far; those that compiled code do not count."""
    _read = 0.0
    _compiling = 0.0

    def begin(self, budget: float) -> None:
        """Start the clock."""
        self.budget, self._read = budget, time.process_time()

    def progress(self) -> float:
        """Share of the budget that is used."""
        return min(1.0, self.spent / self.budget)

    def used_up(self) -> bool:
        """Count the step that has ended; whether the budget is used up."""
        now = time.process_time()
        compiling = getattr(getattr(self, "compiled", None), "seconds", 0.0)
        if compiling == self._compiling:
            self.spent += now - self._read
        self._read, self._compiling = now, compiling
        return self.spent >= self.budget


def configuration(args: argparse.Namespace, train: Path, **training: Any) -> TrainConfig:
    """The configuration of the file, if one was given, with data, precision and what the workload sets."""
    if args.path not in PATHS:
        sys.exit(f"error: training has no path '{args.path}': there are {', '.join(PATHS)}")
    content = read_yaml(args.config) if args.config else {}
    content["data"] = {"train": str(train), "isolated_atoms": ISOLATED_ATOMS}
    potential = content.setdefault("potential", {})
    potential.setdefault("preset", args.model)
    potential.setdefault("cutoff", args.cutoff or CUTOFF)
    content.update(dtype=args.dtype, device=args.device, threads=args.threads)
    content["training"] = {**content.get("training", {}), **training}
    if "compile" in TrainingConfig.model_fields:
        content["training"]["compile"] = PATHS[args.path]
    elif args.path != "eager":
        sys.exit(f"error: this version of gace trains by the eager path only, not by '{args.path}'")
    for override in args.overrides:
        apply_override(content, override)
    return parse_config(content, TrainConfig).with_learning_rate()


def prepare(config: TrainConfig, out: Path, kind: type[Trainer]) -> tuple[Any, Data, Packed, float]:
    """Trainer, data, packed data, and the seconds that neighbours and model took."""
    if is_linear(config):
        sys.exit("error: linear models are fitted, not trained step by step: time them by `gace train`")
    data = read_data(config)
    device, began = resolve_device(config.device), time.time()
    packed, validation = pack(data, config, choose_cutoff(config, data), device, out)
    model = make_model(config, data, packed).to(device, resolve_dtype(config.dtype))
    torch.set_flush_denormal(True)
    trainer = kind(config, model, packed, validation, out=out, fingerprint={}, started=time.monotonic())
    return trainer, data, packed, time.time() - began


def drive(trainer: Trainer, out: Path, done: Callable[[], bool]) -> None:
    """Train until ``done``, which is asked after every step."""
    with ProgressBar(trainer.total_epochs, 0, False) as bar:
        metrics = MetricsFile(out / "metrics.jsonl", 0)
        trainer.run(metrics, bar, done)


class StepTimer:
    """Times what lies between its calls, which the trainer makes after every step: first steps apart."""

    def __init__(self, args: argparse.Namespace) -> None:
        barrier = barrier_of(args.device)
        self.first, self.clock, self.args = Clock(barrier), Clock(barrier), args
        self.calibrations: list[float] = []
        self._running = self.first.__enter__()

    def __call__(self) -> bool:
        """Note the step that has ended; whether enough of them are done."""
        self._running.__exit__()
        done, args = len(self.clock.cpu), self.args
        enough = done >= args.min_steps and sum(self.clock.cpu) >= args.seconds
        if done >= args.steps or enough:
            self.calibrations.append(calibration())
            return True
        if self._running is self.first and len(self.first.cpu) == WARM_STEPS:
            self.calibrations.append(calibration())
            self._running = self.clock
        self._running.__enter__()
        return False


def training_steps(args: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Optimiser steps (energy and forces, Adam, running mean, clipping) on the first structures of 3BPA."""
    imported = since(args.started)
    frames = labelled("train_300K", args.data)[: max(96, 3 * batch)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        write_structures(out / "train.xyz", frames)
        config = configuration(
            args, out / "train.xyz", batch_size=batch, max_epochs=FOREVER, checkpoint_seconds=FOREVER
        )
        trainer, _, _, build_s = prepare(config, out, Trainer)
        timer = StepTimer(args)
        drive(trainer, out, timer)
    n_atoms = batch * len(frames[0])
    result = timer.clock.summary(n_atoms=n_atoms, wall=args.threads > 1 or args.device != "cpu")
    return {
        **result,
        "structures_per_s": round(1e3 * batch / result["ms_per_step"], 3),
        "structures_per_s_best": round(1e3 * batch / result["ms_min"], 3),
        "atoms_per_s": round(1e3 * n_atoms / result["ms_per_step"], 1),
        **memory(args.device),
        "torch": torch.__version__,
        "cutoff": trainer.model.cutoff,
        "import_wall_cpu_s": imported,
        "n_params": sum(one.numel() for one in trainer.model.parameters()),
        "graph_build_s": round(build_s, 2),
        "first_calls_wall_cpu_s": timer.first.pairs,
        "calib_ms": timer.calibrations,
    }


def accuracy(args: argparse.Namespace, budget: float) -> dict[str, Any]:
    """Errors on the proxy test sets after ``budget`` CPU seconds of training on 450 structures."""
    imported = since(args.started)
    train = data_file("train450.xyz", args.data)
    defaults = {} if args.config else {"batch_size": 5}
    config = configuration(args, train, **defaults, max_epochs=FOREVER, checkpoint_seconds=FOREVER)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        trainer, data, packed, build_s = prepare(config, out, BudgetedTrainer)
        began = time.time()
        trainer.begin(budget)
        drive(trainer, out, trainer.used_up)
        spent, wall = trainer.spent, time.time() - began
    potential = Potential([trainer.result()], isolated_atom_energies=data.isolated_atoms)
    if args.keep:
        from gace.potential.bundle import save_bundle

        save_bundle(potential, args.keep)
    batch = config.training.batch_size
    return {
        "cpu_s": round(spent),
        "wall_s": round(wall),
        "updates": trainer.step,
        "epochs": round(trainer.step * batch / len(packed), 1),
        "batch": batch,
        "lr": config.training.learning_rate,
        "seed": config.seed,
        "n_params": sum(one.numel() for one in trainer.model.parameters()),
        "rmse": {
            name.removesuffix("_sub"): errors(potential, name, args.data)
            for name in (*PROXY_TESTS, "valid50")
        },
        **memory(args.device),
        "torch": torch.__version__,
        "cutoff": potential.cutoff,
        "graph_build_s": round(build_s, 2),
        "import_wall_cpu_s": imported,
    }


def errors(potential: Potential, name: str, folder: Path | None) -> dict[str, Any]:
    """Root mean square errors on a data file: energies in meV, forces in meV/Å per component."""
    frames, began = labelled(name, folder), time.process_time()
    predictions = potential.predict(frames)
    seconds = time.process_time() - began
    energy = np.array(
        [p.energy - atoms.info["REF_energy"] for p, atoms in zip(predictions, frames, strict=True)]
    )
    forces = np.concatenate(
        [
            (p.forces - atoms.arrays["REF_forces"]).ravel()
            for p, atoms in zip(predictions, frames, strict=True)
        ]
    )
    root = 1e3 * float(np.sqrt(np.mean(energy**2)))
    return {
        "E_meV": round(root, 1),
        "E_meV_at": round(root / len(frames[0]), 2),
        "E_meV_shifted": round(1e3 * float(energy.std()), 1),
        "F_meV_A": round(1e3 * float(np.sqrt(np.mean(forces**2))), 1),
        "n": len(frames),
        "eval_cpu_s": round(seconds, 1),
    }
