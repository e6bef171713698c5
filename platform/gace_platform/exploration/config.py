"""The configuration of ``gace explore``; defaults live here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from gace.config import Closed
from gace.engines.named import arguments_in
from gace_platform.cluster.config import ClusterConfig, Local, resolve_paths


class Teacher(Closed):
    """An ASE calculator that drives the walkers before there is a potential."""

    calculator: str
    """A known name (``tblite``, ``emt``, …) or ``module:factory``."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the calculator, for instance ``{method: GFN2-xTB}``."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = Field(default=None, ge=0)
    """Unpaired electrons of structures that do not state their own; default: the lowest possible."""


class Ramp(Closed):
    """The target temperature, linear in time."""

    start: PositiveFloat = 300.0
    """K."""
    end: PositiveFloat = 300.0
    """K."""


class Schedule(Closed):
    """How the walkers move, what they keep, and what ends them."""

    temperature: Ramp = Ramp()
    timestep_fs: Annotated[float, Field(gt=0, le=10)] = 0.5
    steps: PositiveInt = 2000
    friction: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Coupling to the heat bath, 1/fs."""
    sample_every: PositiveInt = 50
    """Steps between the frames kept."""
    check_every: PositiveInt = 5
    """Steps between looks at γ and at the distances."""
    gamma_max: PositiveFloat | None = 2.0
    """A walker that meets a larger γ ends; 1 is the edge of the training set. null: γ ends nothing."""
    rewind_fs: NonNegativeFloat = 0.0
    """Frames within this time before the end of a walk that failed are not trusted either."""
    distance_min: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """Shortest distance allowed, as a share of the sum of the covalent radii."""
    keep_together: bool = True
    """End a walk whose molecule falls into more fragments than it started with (molecules only)."""


class ExploreConfig(Schedule):
    """One exploration: ``gace explore CONFIG.yaml --out DIR``."""

    start: Path
    """Structures the walkers start from."""
    potential: str | None = None
    """Bundle folder or ``models:/`` URI that drives the walkers."""
    teacher: Teacher | None = None
    """Calculator that drives them instead."""
    drive: Literal["first", "mean"] = "first"
    """Forces of the first member (as many times cheaper as there are members) or of the mean."""
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    """Of the potential; positions and velocities are float64 always."""
    walkers: PositiveInt = 4
    together: PositiveInt = 4
    """Walkers that one subprocess moves together, as one batch."""
    supercell: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    """Repeats of a periodic start structure."""
    rattle: NonNegativeFloat = 0.0
    """Standard deviation of random displacements of the start, Å."""
    strain: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Largest component of a random symmetric strain of a periodic start; each walker has its own."""
    seed: int = Field(default=0, ge=0)
    name: str = "walk"
    """First word of the walkers' names, such as ``walk-g1``."""
    cluster: ClusterConfig = Local()
    scratch: Path | None = None
    """Folder for unfinished work, found again by content; default: ``scratch`` in the output folder."""

    @model_validator(mode="after")
    def _one_driver(self) -> Self:
        if (self.potential is None) == (self.teacher is None):
            raise ValueError("exploration needs either potential or teacher")
        return self

    def schedule(self) -> Schedule:
        """The part that decides a walk, without the files and machines around it."""
        return Schedule(**{name: getattr(self, name) for name in Schedule.model_fields})

    def relative_to(self, folder: Path) -> ExploreConfig:
        """The same configuration with relative paths taken from ``folder``."""
        content: dict[str, Any] = {
            "start": (folder / self.start).absolute(),
            "cluster": resolve_paths(self.cluster, folder),
        }
        if self.teacher is not None:
            arguments = arguments_in(self.teacher.calculator, self.teacher.kwargs, folder)
            if arguments != self.teacher.kwargs:
                content["teacher"] = self.teacher.model_copy(update={"kwargs": arguments})
        if self.scratch is not None:
            content["scratch"] = (folder / self.scratch).absolute()
        if (
            self.potential is not None
            and "://" not in self.potential
            and not self.potential.startswith("models:")
        ):
            content["potential"] = str((folder / self.potential).absolute())
        return self.model_copy(update=content)
