"""The section ``pretraining`` of a training configuration."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from gace.config import Closed
from gace.linear.config import LeastSquares

LINEAR_ACE = "linear-ace"
"""Name of the teacher that is fitted to the training labels first."""


class Teacher(Closed):
    """A calculator that is cheap enough to be asked thousands of times."""

    calculator: str = Field(
        default="tblite",
        description="known by name (tblite, emt, lj, tersoff-si, gace) or module:factory; linear-ace: a "
        "linear ACE, fitted to the training labels first",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the calculator; of linear-ace: preset, overrides, least_squares",
    )


class LinearTeacher(Closed):
    """``pretraining.teacher.kwargs`` of a linear ACE."""

    preset: str = Field(default="linear-medium", description="linear- small, medium or large")
    overrides: dict[str, Any] = Field(default_factory=dict, description="further arguments of LinearACE")
    least_squares: LeastSquares = Field(default=LeastSquares(), description="settings of the fit")


class Temperatures(Closed):
    """Each walk draws its temperature evenly between the two."""

    lowest: float = Field(default=300.0, gt=0, description="K")
    highest: float = Field(default=1200.0, gt=0, description="K")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.highest < self.lowest:
            raise ValueError("highest must not be below lowest")
        return self


class Pretraining(Closed):
    """What is learnt from a cheap teacher before the real labels.

    Walks of Langevin dynamics by the teacher start from the training structures (whose labels nobody looks at
    but a teacher that is fitted to them), samples of the walks carry the teacher's energies, forces and
    stress, and the model that learnt those is what training starts from.
    """

    teacher: Teacher = Field(default=Teacher(), description="whose energies and forces are learnt")
    structures: int = Field(default=6000, gt=0, description="samples in all")
    samples_per_walk: int = Field(default=25, gt=0, description="samples of one walk")
    sample_every: int = Field(default=6, gt=0, description="steps between two samples of a walk")
    timestep: float = Field(default=1.0, gt=0, description="fs")
    friction: float = Field(default=0.02, gt=0, description="1/fs, of the Langevin thermostat")
    temperature: Temperatures = Field(default=Temperatures(), description="range of the walks' temperatures")
    max_force: float = Field(
        default=40.0, gt=0, description="a walk ends before the first longer force component, eV/Å"
    )
    validation: float = Field(
        default=0.02, ge=0, lt=1, description="share of the samples held out, by whole walks"
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="keys of the training section that differ for pretraining"
    )
    processes: int = Field(
        default=1, gt=0, description="processes that walk side by side; no result depends on it"
    )
