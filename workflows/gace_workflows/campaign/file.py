"""The campaign file: everything one campaign is, in one closed YAML file.

Sections that configure a step are made from that step's own configuration, less the keys the
campaign fills in (files, seeds, cluster): a default has one home, and an unknown key is an error here
as it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, create_model, model_validator

from gace.config import Closed, load_config, parse_config
from gace.engines.named import arguments_in
from gace.training.config import PotentialConfig, TrainingConfig
from gace_platform.candidates.config import SelectConfig
from gace_platform.cluster.config import Port
from gace_platform.committee.config import CommitteeSection
from gace_platform.exam.config import Criteria
from gace_platform.exploration.config import ExploreConfig, Teacher
from gace_platform.labelling.config import LabelConfig, PySCFReference, Reference, located
from gace_workflows.campaign.services import Services

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,62}$"


def section(name: str, model: type[BaseModel], without: set[str]) -> type[Closed]:
    """A closed section with the fields of ``model`` but those in ``without``; defaults and limits stay."""
    fields: dict[str, Any] = {
        key: (info.annotation, info) for key, info in model.model_fields.items() if key not in without
    }
    return create_model(name, __base__=Closed, __doc__=f"Keys of {model.__name__}.", **fields)


if TYPE_CHECKING:
    Exploration = Closed
    Labelling = Closed
    Potential = Closed
    Selection = Closed
else:
    Exploration = section(
        "Exploration",
        ExploreConfig,
        {"start", "potential", "teacher", "seed", "name", "cluster", "scratch"},
    )
    Labelling = section(
        "Labelling", LabelConfig, {"reference", "structures", "store", "isolated_atoms", "elements"}
    )
    Potential = section("Potential", PotentialConfig, {"start_from", "member", "elements"})
    Selection = section(
        "Selection",
        SelectConfig,
        {"pool", "training", "potential", "count", "seed", "exclude", "exclude_keys"},
    )


class System(Closed):
    """What is studied."""

    structure: Path | list[Path]
    """One geometry file or several, anything ASE reads; relative to the campaign file."""
    charge: int = 0
    """Total charge, e."""
    spin: int | None = Field(default=None, ge=0)
    """Number of unpaired electrons; default: the lowest possible."""

    @property
    def files(self) -> list[Path]:
        """The geometry files."""
        return self.structure if isinstance(self.structure, list) else [self.structure]


class Budget(Closed):
    """What may be spent."""

    labels: PositiveInt
    """Structures that may be sent to the reference calculation at most, the exam included."""


class Initial(Closed):
    """Generation 0: a first look around without a potential."""

    labels: PositiveInt = 16
    """Structures labelled before the first training."""
    teacher: Teacher = Teacher(calculator="tblite", kwargs={"method": "GFN2-xTB"})
    """The cheap calculator that drives the first walkers."""
    exploration: Exploration = Exploration()
    """Keys that differ from ``exploration``."""
    selection: Selection = Selection()
    """Keys that differ from ``selection``."""


class Pretraining(Closed):
    """A warm start on the teacher's own energies and forces, which cost nothing."""

    structures: PositiveInt = 300
    """Frames of the first exploration to train on, drawn at random."""
    members: PositiveInt = 1
    """Members trained; each member of a later committee starts from one of them."""
    training: TrainingConfig = TrainingConfig()
    """Keys that differ from ``training``."""


class Batch(Closed):
    """One turn's labels."""

    labels: PositiveInt
    """Structures to label."""


class Exam(Closed):
    """The frozen exam every potential sits before it may become champion."""

    structures: PositiveInt = 6
    """Labelled structures, from trajectories that serve nothing else."""
    exploration: Exploration = Exploration()
    """Keys that differ from those of the first exploration."""
    criteria: Criteria = Criteria()
    """What has to be shown."""


class Cluster(Closed):
    """The campaign's own Dask cluster on this machine."""

    provider: Literal["local"] = "local"
    workers: PositiveInt = 2
    """Subprocesses (trainings, walkers) that may run at a time; also labelling jobs at a time."""
    dashboard: Port | None = None
    """Port of the dashboard on 127.0.0.1; default: any free one."""


class Stop(Closed):
    """When to stop asking for labels before the batches or the budget are used up."""

    force_mae: float | None = Field(default=None, gt=0)
    """Stop when the champion's force error on the exam is at most this, meV/Å."""


class Campaign(Closed):
    """One campaign: from a geometry to a registered potential."""

    campaign: str = Field(pattern=NAME_PATTERN)
    """Name of the campaign, of the registered model and of the AiiDA profile."""
    description: str = ""
    seed: NonNegativeInt = 0
    """Every random draw derives from it."""
    system: System
    reference: Reference = Field(default=PySCFReference(), discriminator="engine")
    """The level of theory that labels are paid for."""
    budget: Budget
    initial: Initial = Initial()
    pretraining: Pretraining | None = None
    generations: PositiveInt | list[Batch] = 2
    """Batches of labels after the first: their number, or one entry each."""
    labels_per_generation: PositiveInt | None = None
    """Size of each batch when ``generations`` is a number."""
    potential: Potential = Potential()
    training: TrainingConfig = TrainingConfig()
    final_training: TrainingConfig | None = None
    """Keys that differ from ``training`` in the last training."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the training."""
    committee: CommitteeSection = CommitteeSection()
    warm_start: Literal["pretraining", "previous", "none"] = "pretraining"
    """What members start from: the pretrained bundle, the previous generation, or nothing."""
    exploration: Exploration = Exploration()
    selection: Selection = Selection()
    labelling: Labelling = Labelling()
    batch_size: PositiveInt | None = None
    """Structures per labelling job; default: an even share for each of the jobs at a time."""
    exam: Exam = Exam()
    cluster: Cluster = Cluster()
    stop: Stop = Stop()
    aiida: Services = Services()
    """Database and broker of AiiDA, and the queue for labelling jobs; default: all on this machine."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if isinstance(self.generations, int) and self.labels_per_generation is None:
            raise ValueError("labels_per_generation is needed when generations is a number")
        if isinstance(self.generations, list) and self.labels_per_generation is not None:
            raise ValueError("labels_per_generation contradicts a list of generations")
        for name in ("charge", "spin"):
            # system's goes into every structure, and a structure's own comes before the reference's
            said, system = getattr(self.reference, name, None), getattr(self.system, name)
            stated = name in self.reference.model_fields_set and None not in (said, system)
            if stated and said != system:
                raise ValueError(
                    f"reference.{name} ({said}) contradicts system.{name} ({system}), which every structure "
                    "of a campaign has: say it in system"
                )
        first = self.initial.labels + self.exam.structures
        if first > self.budget.labels:
            raise ValueError(
                f"budget.labels ({self.budget.labels}) does not cover the first labels and the exam ({first})"
            )
        return self

    @property
    def batches(self) -> list[int]:
        """Sizes of the batches after the first, as far as the budget goes."""
        if isinstance(self.generations, list):
            planned = [batch.labels for batch in self.generations]
        else:
            planned = [self.labels_per_generation or 0] * self.generations
        left = self.budget.labels - self.initial.labels - self.exam.structures
        sizes = []
        for size in planned:
            sizes.append(min(size, left))
            left -= sizes[-1]
        return [size for size in sizes if size]

    def with_files(self, files: list[Path]) -> Campaign:
        """The same campaign with other geometry files."""
        return self.model_copy(update={"system": self.system.model_copy(update={"structure": files})})


def load_campaign(path: str | Path, overrides: tuple[str, ...] = ()) -> Campaign:
    """Read a campaign file; the files and folders it names are made absolute, counted from its own folder.

    Raises:
        InputError: an unknown key, a wrong value, a missing file; one line that names it.
    """
    path = Path(path)
    campaign = load_config(path, Campaign, overrides)
    folder = path.resolve().parent
    if "reference" in campaign.model_fields_set:
        campaign = campaign.model_copy(update={"reference": located(campaign.reference, folder)})
    teacher = campaign.initial.teacher
    arguments = arguments_in(teacher.calculator, teacher.kwargs, folder)
    if arguments != teacher.kwargs:
        teacher = teacher.model_copy(update={"kwargs": arguments})
        initial = campaign.initial.model_copy(update={"teacher": teacher})
        campaign = campaign.model_copy(update={"initial": initial})
    if "aiida" in campaign.model_fields_set:
        campaign = campaign.model_copy(update={"aiida": campaign.aiida.located(folder)})
    return campaign.with_files([(folder / file).resolve() for file in campaign.system.files])


def parse_campaign(content: dict[str, Any]) -> Campaign:
    """A campaign from the mapping stored in AiiDA."""
    return parse_config(content, Campaign, source="campaign")


def dump_campaign(campaign: Campaign) -> dict[str, Any]:
    """The mapping that :func:`parse_campaign` reads: what the file says, without defaults."""
    return campaign.model_dump(mode="json", exclude_unset=True)


__all__ = ["Campaign", "dump_campaign", "load_campaign", "parse_campaign", "section"]
