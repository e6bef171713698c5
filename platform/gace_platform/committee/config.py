"""The configuration of ``gace committee train``: that of ``gace train``, and the committee around it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from gace.config import Closed
from gace.training.config import TrainConfig
from gace_platform.cluster.config import ClusterConfig, Local, resolve_paths


class CommitteeSection(Closed):
    """How many models, on which shares of the data."""

    members: PositiveInt = 4
    """Models trained, each from a seed of its own."""
    subsample: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """Share of the structures each member trains on; what it leaves out is held out for the error bars.
    1 trains every member on everything, and so does a committee of one or two."""
    min_members: PositiveInt | None = None
    """Members that must succeed; default: all but one, and at least one."""
    together: bool = False
    """Train all members as one job, every step of all of them in one evaluation: for one GPU, where small
    batches wait for launches. Parameters are those of separate trainings to rounding only."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.min_members is not None and self.min_members > self.members:
            raise ValueError(f"min_members ({self.min_members}) is more than members ({self.members})")
        return self

    @property
    def needed(self) -> int:
        """Members that must succeed."""
        return self.min_members if self.min_members is not None else max(1, self.members - 1)


class CommitteeConfig(TrainConfig):
    """One committee: ``gace committee train CONFIG.yaml --out DIR``."""

    committee: CommitteeSection = CommitteeSection()
    name: str = "train"
    """First words of the task names, such as ``train g1``."""
    cluster: ClusterConfig = Local()
    scratch: Path | None = None
    """Folder for unfinished work, found again by content; default: ``scratch`` in the output folder."""

    def relative_to(self, folder: Path) -> Self:
        """The same configuration with relative paths taken from ``folder``."""
        inner = super().relative_to(folder)
        return self.model_copy(
            update={
                "data": inner.data,
                "potential": inner.potential,
                "pretraining": inner.pretraining,
                "cluster": resolve_paths(self.cluster, folder),
                "scratch": None if self.scratch is None else (folder / self.scratch).absolute(),
            }
        )
