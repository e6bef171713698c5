"""The configuration of one training run; defaults live here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from gace.config import Closed
from gace.engines.named import arguments_in
from gace.linear.config import LeastSquares
from gace.training.pretraining.config import Pretraining

# relative rates; measured on 50 ethanol geometries: 0.03 … 0.3 from scratch (Adam); Muon's on 3BPA
RATES = {"adam": (0.1, 0.015), "adamw": (0.1, 0.015), "least-squares": (0.1, 0.015), "muon": (0.03, 0.003)}
"""By optimiser, for a new model and for one that goes on from another; least squares ignore theirs."""


class Finite(Closed):
    """A section whose numbers are finite: an infinite rate would look like a divergence of the data."""

    model_config = ConfigDict(allow_inf_nan=False)


class ReplayConfig(Finite):
    """Old data mixed in while a model goes on to new ones, so that it does not forget them."""

    data: Path | list[Path] = Field(description="labelled structures of the earlier training")
    fraction: float = Field(
        default=0.5, gt=0, lt=1, description="their share of each epoch, drawn anew every time"
    )
    isolated_atoms: Path | dict[str, float] | None = Field(
        default=None,
        description="isolated-atom energies of the old labels, eV, where they are others",
    )


class DataConfig(Closed):
    """What is learnt from."""

    train: Path | list[Path] = Field(description="labelled structures: one file or several")
    validation: Path | list[Path] | float | int | None = Field(
        default=None,
        description="a file, a fraction of the training data (0 < x < 1), or a number of structures; "
        "drawn by whole ancestors where structures name one and some are small enough, else by frame",
    )
    isolated_atoms: Path | dict[str, float] | None = Field(
        default=None,
        description="energies of the isolated atoms, eV: a file of one-atom structures, or element: energy; "
        "without it they are fitted by least squares",
    )
    stress_order: Literal["as-given", "corrected"] = Field(
        default="as-given",
        description="corrected: where the shear stresses of a config_type fit its energies and forces only "
        "with their components in another order (yz for xz, as programs disagree), put them right; "
        "as-given: say so after training",
    )
    on_disk: bool = Field(
        default=False,
        description="keep the neighbour lists in files below --out, for data larger than memory",
    )
    replay: ReplayConfig | None = Field(
        default=None, description="old data to be replayed while fine-tuning on data.train"
    )
    level_of_theory: dict[str, Any] | None = Field(
        default=None, description="what the labels are (functional, basis, ...); kept in the bundle"
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _share(cls, share: Any) -> Any:
        if isinstance(share, bool) or (isinstance(share, int | float) and share < 0):
            raise ValueError("must be a file, a fraction or a number of structures")
        if isinstance(share, float) and share >= 1:
            raise ValueError("a fraction lies between 0 and 1; a number of structures is a whole number")
        return share


class PotentialConfig(Finite):
    """What is trained."""

    preset: str | None = Field(
        default=None,
        description="FS-, 1L-, 2L- or linear- small, medium, large; default 2L-small, or the start model's",
    )
    cutoff: float | None = Field(default=None, gt=0, description="Å; default: the preset's")
    elements: list[str] | None = Field(
        default=None, description="element order; default: those of the training data, sorted"
    )
    start_from: Path | None = Field(
        default=None, description="a bundle whose parameters training starts from"
    )
    member: int = Field(default=0, ge=0, description="which member of that bundle")
    new_elements: dict[str, str] = Field(
        default_factory=dict,
        description="elements the start model lacks: the element whose parameters each begins with, or mean",
    )
    freeze: list[str] = Field(
        default_factory=list,
        description="parts that keep their parameters: radial, embedding, products, readout, shift, layer.0",
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of GraphACE, in place of the preset's"
    )


class FinalStage(Finite):
    """The last part of training, with its own loss weights."""

    fraction: float = Field(default=0.25, ge=0, lt=1, description="share of the planned training")
    energy_weight: float | None = Field(
        default=None, ge=0, description="default: ten times training.energy_weight"
    )
    forces_weight: float | None = Field(
        default=None, ge=0, description="default: a tenth of training.forces_weight"
    )


class Stage(Finite):
    """A part of training with its own loss weights and learning rate; the rest as in ``training``."""

    fraction: float = Field(gt=0, le=1, description="share of the planned training; all stages sum to 1")
    energy_weight: float | None = Field(default=None, ge=0, description="default: training.energy_weight")
    forces_weight: float | None = Field(default=None, ge=0, description="default: training.forces_weight")
    stress_weight: float | None = Field(default=None, ge=0, description="default: training.stress_weight")
    learning_rate_factor: float = Field(default=1.0, gt=0, description="on what the schedule says")


class TrainingConfig(Finite):
    """How it is trained."""

    max_epochs: int = Field(default=1000, gt=0, description="passes over the training data")
    max_steps: int | None = Field(
        default=None, gt=0, description="optimiser steps; the nearest whole epoch replaces max_epochs"
    )
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="wall time, resumes included, by whose end training has annealed; breaks exact replay",
    )
    batch_size: int = Field(default=5, gt=0, description="structures per optimiser step")
    batch_atoms: int | None = Field(
        default=None,
        gt=0,
        description="atoms per optimiser step in place of batch_size: batches of about equal cost where "
        "structures differ in size",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="after warm-up; default 0.1, or 0.015 for a model that goes on from another; of "
        "muon 0.03, or 0.003",
    )
    learning_rate_unit: Literal["relative", "absolute"] = Field(
        default="relative",
        description="relative: a share of each parameter's root mean square at the start; absolute: as it is",
    )
    schedule: Literal["cosine", "plateau", "constant"] = Field(
        default="cosine", description="how the learning rate falls"
    )
    warmup_steps: int = Field(default=20, ge=0, description="steps of linear rise of the learning rate")
    final_learning_rate: float = Field(
        default=0.01, ge=0, le=1, description="floor of the schedule, as a share of learning_rate"
    )
    plateau_factor: float = Field(
        default=0.8, gt=0, lt=1, description="fall of the learning rate on a plateau"
    )
    plateau_patience: int = Field(default=50, gt=0, description="epochs without progress that make a plateau")
    optimizer: Literal["adam", "adamw", "muon", "least-squares"] = Field(
        default="adam",
        description="muon makes the changes of matrices orthogonal and leaves the rest to adam; adamw "
        "decouples the weight decay; least-squares fits a linear model exactly",
    )
    least_squares: LeastSquares = Field(default=LeastSquares(), description="settings of that fit")
    amsgrad: bool = Field(default=True, description="keep the largest second moment; not of muon")
    weight_decay: float = Field(default=0.0, ge=0, description="of the optimiser")
    clip_norm: float | None = Field(default=10.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="running mean of the parameters, used for validation and the bundle",
    )
    averaging: Literal["ema", "swa", "none"] = Field(
        default="ema",
        description="ema: running mean that forgets; swa: plain mean of the last steps; none: the last",
    )
    swa_fraction: float = Field(
        default=0.25, gt=0, le=1, description="share of the planned training over which swa averages"
    )
    loss: Literal["square", "huber", "conditional-huber", "mae"] = Field(
        default="square", description="of each residual"
    )
    huber_delta: float = Field(
        default=0.01, gt=0, description="residual where huber turns linear, eV or eV/Å"
    )
    huber_force: float = Field(
        default=10.0,
        gt=0,
        description="length of the reference force from which conditional-huber trusts it less, eV/Å",
    )
    energy_weight: float = Field(default=1.0, ge=0, description="of the energy per atom, eV")
    forces_weight: float = Field(default=10.0, ge=0, description="of the force components, eV/Å")
    stress_weight: float = Field(
        default=10.0, ge=0, description="of the stress, as virial per atom (eV), where data have it"
    )
    final_stage: FinalStage | None = Field(default=FinalStage(), description="null for none")
    stages: list[Stage] | None = Field(
        default=None, description="all stages in order, in place of the weights above and of final_stage"
    )
    patience: int | None = Field(
        default=None, gt=0, description="stop after so many epochs without progress on the validation data"
    )
    validate_every: int | None = Field(
        default=None, gt=0, description="epochs; default: seldom enough to cost about 5 % of the time"
    )
    compile: bool | None = Field(
        default=None,
        description="compile the step (a minute; then two to four times as fast; needs a C++ compiler); "
        "default: where at least 10000 steps are planned; on a GPU the step is recorded as a CUDA graph "
        "instead, unless this is false",
    )
    matmul: Literal["ieee", "tf32"] = Field(
        default="ieee",
        description="matrix products of float32 on a GPU; tf32: factors of 10 bits, sums in float32",
    )
    processes: int = Field(
        default=1,
        gt=0,
        description="processes that share each batch, on this machine; with device cuda one GPU each",
    )
    checkpoint_seconds: float = Field(default=10.0, ge=0, description="time between checkpoints")

    @field_validator("stages")
    @classmethod
    def _whole(cls, stages: list[Stage] | None) -> list[Stage] | None:
        if stages is not None and abs(sum(one.fraction for one in stages) - 1) > 1e-6:
            raise ValueError(f"the fractions sum to {sum(one.fraction for one in stages):g}, not to 1")
        return stages


class TrainConfig(Closed):
    """One training run: ``gace train CONFIG.yaml --out DIR``."""

    data: DataConfig
    potential: PotentialConfig = Field(default=PotentialConfig())
    training: TrainingConfig = Field(default=TrainingConfig())
    pretraining: Pretraining | None = Field(
        default=None, description="a cheap teacher's labels that are learnt first; null for none"
    )
    seed: int = Field(default=0, ge=0, description="every random draw derives from it")
    device: str = Field(default="cpu", description="cpu, cuda, cuda:N, or auto")
    dtype: Literal["float32", "float64"] = Field(default="float32", description="of the training")
    threads: int = Field(default=1, gt=0, description="CPU threads; exact replay needs the same number")

    def with_learning_rate(self) -> TrainConfig:
        """The same configuration with the learning rate chosen, if it was left open."""
        if self.training.learning_rate is not None:
            return self
        new, continued = RATES[self.training.optimizer]
        rate = new if self.potential.start_from is None else continued
        training = self.training.model_copy(update={"learning_rate": rate})
        return self.model_copy(update={"training": training})

    def relative_to(self, folder: Path) -> TrainConfig:
        """The same configuration with relative paths taken from ``folder``."""

        def absolute(value: Any) -> Any:
            if isinstance(value, list):
                return [absolute(one) for one in value]
            return (folder / value).resolve() if isinstance(value, Path) else value

        data = self.data.model_copy(
            update={
                name: absolute(getattr(self.data, name)) for name in ("train", "validation", "isolated_atoms")
            }
        )
        if self.data.replay is not None:
            replay = self.data.replay.model_copy(
                update={
                    name: absolute(getattr(self.data.replay, name)) for name in ("data", "isolated_atoms")
                }
            )
            data = data.model_copy(update={"replay": replay})
        potential = self.potential.model_copy(update={"start_from": absolute(self.potential.start_from)})
        pretraining = self.pretraining
        if pretraining is not None:
            teacher = pretraining.teacher
            arguments = arguments_in(teacher.calculator, teacher.kwargs, folder)
            if arguments != teacher.kwargs:
                teacher = teacher.model_copy(update={"kwargs": arguments})
                pretraining = pretraining.model_copy(update={"teacher": teacher})
        return self.model_copy(update={"data": data, "potential": potential, "pretraining": pretraining})
