"""The learning rate and the stage of training, as functions of how far training has come."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from gace.errors import InputError
from gace.training.batches import Packed
from gace.training.config import Stage, TrainingConfig
from gace.training.losses import Weights


def learning_rate(config: TrainingConfig, step: int, progress: float, plateau: float = 1.0) -> float:
    """Learning rate of an optimiser step.

    Args:
        config: the training section.
        step: number of steps done before this one.
        progress: share of the planned training that is done, 0 … 1.
        plateau: product of the falls so far; only the plateau schedule lets it leave 1.
    """
    assert config.learning_rate is not None  # chosen before training begins
    rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
    floor = config.final_learning_rate
    stage = stage_at(config, progress)
    shape = 1.0
    if config.schedule == "cosine":
        shape = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    elif config.schedule == "plateau":
        shape = max(floor, plateau)
    return config.learning_rate * rise * shape * (1.0 if stage is None else stage.learning_rate_factor)


def stage_at(config: TrainingConfig, progress: float) -> Stage | None:
    """The stage after a share ``progress`` of the planned training; None if no stages are given."""
    if not config.stages:
        return None
    end = 0.0
    for stage in config.stages[:-1]:
        end += stage.fraction
        if progress < end - 1e-9:
            return stage
    return config.stages[-1]


def stage_weights(config: TrainingConfig, progress: float, has_stress: bool) -> Weights:
    """Loss weights after a share ``progress`` of the planned training."""
    stage = stage_at(config, progress)
    if stage is not None:
        return Weights(
            config.energy_weight if stage.energy_weight is None else stage.energy_weight,
            config.forces_weight if stage.forces_weight is None else stage.forces_weight,
            (config.stress_weight if stage.stress_weight is None else stage.stress_weight) * has_stress,
        )
    stress = config.stress_weight if has_stress else 0.0
    final = config.final_stage
    if final is not None and final.fraction > 0 and progress >= 1 - final.fraction:
        energy, forces = final.energy_weight, final.forces_weight
        return Weights(
            10.0 * config.energy_weight if energy is None else energy,
            0.1 * config.forces_weight if forces is None else forces,
            stress,
        )
    return Weights(config.energy_weight, config.forces_weight, stress)


def check_weights(config: TrainingConfig, data: Packed) -> None:
    """Raise InputError where a stage has nothing to learn: no label that the data have weighs anything."""
    stages, final = config.stages, config.final_stage
    shares = [0.0, *itertools.accumulate(one.fraction for one in (stages or [])[:-1])]
    if not stages and final is not None and final.fraction > 0:
        shares.append(1 - final.fraction)
    for number, share in enumerate(shares):
        weights = stage_weights(config, share, data.has_stress)
        if not (weights.energy * data.has_energy or weights.forces * data.has_forces or weights.stress):
            where = f" in stage {number + 1} of {len(shares)}" if len(shares) > 1 else ""
            raise InputError(
                f"nothing to learn{where}: no label of the training data has a weight; see "
                "training.energy_weight, forces_weight and stress_weight, and the weights of the structures"
            )


def averaging_decay(config: TrainingConfig, step: int, averaged: int) -> float:
    """Weight of the old mean of the parameters when a step's parameters join it.

    Args:
        config: the training section.
        step: number of steps done, this one included.
        averaged: number of steps in the mean already, where it is a plain one (``swa``).
    """
    if config.averaging == "none":
        return 0.0
    if config.averaging == "swa":
        return averaged / (averaged + 1)
    # a running mean that forgets the beginning quickly
    return min(config.ema_decay, step / (step + 9))


@dataclass
class Plateau:
    """Counts validations without progress; state of the plateau schedule and of early stopping."""

    best: float = math.inf
    best_epoch: int = 0
    last_epoch: int = 0
    last_fall: int = 0
    factor: float = 1.0
    measure: list[float] = field(default_factory=list)

    def see(self, score: float, epoch: int, config: TrainingConfig, measure: Sequence[float] = ()) -> bool:
        """Take note of a validation; True if it is the best so far.

        Scores of another ``measure`` (weights of a loss) are not comparable: progress is counted anew.
        """
        if list(measure) != self.measure:
            self.measure, self.best = list(measure), math.inf
        improved = score < self.best
        self.last_epoch = epoch
        if improved:
            self.best, self.best_epoch = score, epoch
        elif epoch - max(self.best_epoch, self.last_fall) >= config.plateau_patience:
            self.last_fall = epoch
            self.factor *= config.plateau_factor if config.schedule == "plateau" else 1.0
        return improved

    def exhausted(self, config: TrainingConfig) -> bool:
        """Whether early stopping ends training: epochs that were not validated show nothing."""
        return config.patience is not None and self.last_epoch - self.best_epoch >= config.patience
