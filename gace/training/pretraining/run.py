"""Pretraining as a part of a training run: sample, learn, and hand the bundle on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gace.config import parse_config
from gace.errors import InputError
from gace.training.prepare import read_data
from gace.training.pretraining.config import LINEAR_ACE, LinearTeacher, Pretraining, Teacher
from gace.training.pretraining.sampling import keep_plan, plan_walks, sample
from gace.training.progress import ProgressBar

if TYPE_CHECKING:
    from gace.training.config import TrainConfig
    from gace.training.outcome import TrainResult

# what belongs to the real labels alone: their rate is that of a model that goes on, their time is their own
_NOT_INHERITED = ("learning_rate", "max_minutes", "patience")


def pretrained(config: TrainConfig, out: Path, *, progress: bool) -> tuple[TrainConfig, dict[str, Any]]:
    """Pretrain below ``out/pretraining`` (once: a finished pretraining is found again).

    Args:
        config: a run with a section ``pretraining``; paths are absolute.
        out: folder of the run.
        progress: show progress on standard error.

    Returns:
        The configuration with ``potential.start_from`` set, and what the bundle is to say of it.

    Raises:
        InputError: the section contradicts another, or the teacher cannot compute the structures.
    """
    from gace.training.run import train

    settings = config.pretraining
    if settings is None:
        raise ValueError("this configuration has no pretraining")
    own = own_config(config, [])
    folder = out / "pretraining"
    # whatever is wrong with the labels is said before the teacher is asked; what validates is no start
    data = read_data(config)
    starts = data.train[: data.n_new]
    walks = plan_walks(starts, settings, config.seed, folder / "walks")
    keep_plan(starts, settings, config.seed, folder / "walks")
    asked = settings
    if settings.teacher.calculator == LINEAR_ACE:
        result = train(_of_teacher(config), folder / "teacher", progress=progress)
        teacher = Teacher(calculator="gace", kwargs={"bundle": str(result.bundle)})
        asked = settings.model_copy(update={"teacher": teacher})
    with ProgressBar(len(walks), 0, progress) as bar:
        files = sample(walks, asked, lambda done: bar.show(done, "walks of the teacher"))
    own = own.model_copy(update={"data": own.data.model_copy(update={"train": files})})
    result = train(own, folder / "run", progress=progress)
    potential = config.potential.model_copy(update={"start_from": result.bundle})
    return config.model_copy(update={"potential": potential}), {"pretraining": _account(settings, result)}


def _of_teacher(config: TrainConfig) -> TrainConfig:
    """The configuration by which a linear ACE is fitted to the training labels.

    Raises:
        InputError: an unknown key in ``pretraining.teacher.kwargs``, or a preset that is not linear.
    """
    from gace.training.config import PotentialConfig, TrainingConfig
    from gace.training.model import is_linear

    assert config.pretraining is not None  # checked by the caller
    asked = parse_config(
        config.pretraining.teacher.kwargs, LinearTeacher, source="pretraining.teacher.kwargs"
    )
    own = config.potential
    fitted = config.model_copy(
        update={
            "pretraining": None,
            "potential": PotentialConfig(
                preset=asked.preset, cutoff=own.cutoff, elements=own.elements, overrides=asked.overrides
            ),
            "training": TrainingConfig(least_squares=asked.least_squares),
            "dtype": "float64",
        }
    )
    if not is_linear(fitted):
        raise InputError(f"pretraining.teacher.kwargs.preset: '{asked.preset}' is not linear")
    return fitted


def own_config(config: TrainConfig, files: list[Path]) -> TrainConfig:
    """The configuration of the pretraining itself.

    Raises:
        InputError: an unknown key in ``pretraining.training``, or a section that excludes pretraining.
    """
    from gace.training.config import DataConfig, TrainConfig, TrainingConfig
    from gace.training.model import is_linear

    settings = config.pretraining
    assert settings is not None  # checked by the caller
    if config.potential.start_from is not None:
        raise InputError("pretraining and potential.start_from exclude each other: there is one start")
    if is_linear(config):
        raise InputError("a linear model has no use for pretraining: its fit is exact")
    inherited = {
        name: getattr(config.training, name)
        for name in config.training.model_fields_set
        if name not in _NOT_INHERITED
    }
    training = parse_config({**inherited, **settings.training}, TrainingConfig, source="pretraining.training")
    return TrainConfig(
        data=DataConfig(train=files, validation=settings.validation),
        potential=config.potential,
        training=training,
        seed=config.seed,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
    ).with_learning_rate()


def _account(settings: Pretraining, result: TrainResult) -> dict[str, Any]:
    """What a bundle tells of its pretraining."""
    teacher = settings.teacher
    held_out = result.metrics.get("validation", result.metrics["train"])
    return {
        "teacher": {"calculator": teacher.calculator, **teacher.kwargs},
        "structures": result.n_train + result.n_validation,
        "dataset_hash": result.dataset_hash,
        "steps": result.steps,
        "core_seconds": result.core_seconds,
        "forces_mae_held_out": None if held_out["forces"] is None else held_out["forces"]["mae"],
    }
