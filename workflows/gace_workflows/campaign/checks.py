"""Everything that can be wrong with a campaign, found before anything is computed."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gace.config import parse_config
from gace.errors import InputError, missing, nearest
from gace.structures.io import read_structures
from gace_workflows import recipes
from gace_workflows.campaign.file import Campaign
from gace_workflows.campaign.folder import CampaignFolder
from gace_workflows.campaign.services import check_services

if TYPE_CHECKING:
    from ase import Atoms


def starting_structures(campaign: Campaign) -> list[Atoms]:
    """The geometries of a campaign with charge and spin in their ``info``.

    Raises:
        InputError: a file is missing or unreadable.
    """
    structures = []
    for file in campaign.system.files:
        for number, atoms in enumerate(read_structures(file)):
            plain = atoms.copy()
            plain.calc = None
            plain.info = {"charge": campaign.system.charge}
            if campaign.system.spin is not None:
                plain.info["spin"] = campaign.system.spin
            plain.info["structure_id"] = f"{Path(file).stem}-{number}"
            for name in set(plain.arrays) - {"numbers", "positions"}:
                del plain.arrays[name]
            structures.append(plain)
    return structures


def check_campaign(campaign: Campaign, folder: CampaignFolder) -> list[Atoms]:
    """See that a campaign can be carried out in ``folder``; returns its geometries.

    Raises:
        InputError: the first thing found that cannot work, in one line.
        MissingDependencyError: a package it needs is not installed.
    """
    structures = starting_structures(campaign)
    check_packages(campaign)
    check_recipes(campaign)
    check_architecture(campaign, structures)
    check_reference(campaign, structures)
    check_writable(folder.path)
    check_port(campaign)
    check_services(campaign.aiida)
    return structures


def check_packages(campaign: Campaign) -> None:
    """See that the packages of the upper floors are there."""
    programs = []
    if campaign.reference.engine == "quantum-espresso":
        programs.append(("aiida_quantumespresso", "aiida-quantumespresso", "dft"))
    if campaign.reference.engine == "cp2k":
        programs.append(("aiida_cp2k", "aiida-cp2k", "cp2k"))
    if campaign.reference.engine == "vasp":
        programs.append(("aiida_vasp", "aiida-vasp", "vasp"))
    for module, package, extra in (
        *programs,
        ("aiida", "aiida-core", "aiida"),
        ("distributed", "dask", "platform"),
        ("mlflow", "mlflow", "platform"),
        ("pymatgen", "pymatgen", "platform"),
    ):
        if importlib.util.find_spec(module) is None:
            raise missing(package, extra)


def check_recipes(campaign: Campaign) -> None:
    """Validate the configuration of every step as its own command would."""
    from gace_platform.candidates.config import SelectConfig
    from gace_platform.committee.config import CommitteeConfig
    from gace_platform.exploration.config import ExploreConfig
    from gace_platform.labelling.config import LabelConfig

    places = CampaignFolder.at(".").places()
    for step in ("look_around", "look_for_exam"):
        config = recipes.first_exploration(campaign, places, step)
        parse_config({**config, "start": "start.xyz"}, ExploreConfig, "initial.exploration")
    config = recipes.exploration(campaign, places, 1)
    parse_config({**config, "start": "start.xyz", "potential": "potential"}, ExploreConfig, "exploration")
    for generation in (0, 1):
        config = recipes.selection(campaign, generation, 1)
        parse_config({**config, "pool": "pool.xyz"}, SelectConfig, "selection")
    parse_config(recipes.labelling(campaign, places), LabelConfig, "labelling")
    trainings = [recipes.committee(campaign, places, 1, final) for final in (False, True)]
    if campaign.pretraining is not None:
        trainings.append(recipes.pretraining(campaign, places))
    for config in trainings:
        data = {**config["data"], "train": "train.xyz"}
        parse_config({**config, "data": data}, CommitteeConfig, "training")


def check_architecture(campaign: Campaign, structures: Sequence[Atoms]) -> None:
    """Make the potential once, untrained: a wrong preset or override shows here and not after an hour."""
    from gace.potential.graph_ace import GraphACE
    from gace.potential.presets import PRESETS

    settings = campaign.potential.model_dump()
    preset = settings.get("preset") or "2L-small"
    if preset not in PRESETS:
        raise InputError(f"potential.preset: no preset called '{preset}'{nearest(preset, PRESETS)}")
    elements = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    overrides = dict(settings.get("overrides") or {})
    if overrides.get("inner_cutoffs") == "auto":  # known when there are labels
        del overrides["inner_cutoffs"]
    if settings.get("cutoff"):
        overrides["cutoff"] = settings["cutoff"]
    try:
        GraphACE.from_preset(preset, elements=elements, mean_neighbours=10.0, scale=1.0, seed=0, **overrides)
    except TypeError as error:
        raise InputError(f"potential.overrides: {error}") from None


def check_reference(campaign: Campaign, structures: Sequence[Atoms]) -> None:
    """See that the reference and the teacher can compute these structures, charge and spin included."""
    from gace_platform.labelling.config import TeacherReference
    from gace_platform.labelling.engines.base import make_engine

    engine = make_engine(campaign.reference)
    engine.check(list(structures))
    elements = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    engine.check([engine.isolated_atom(symbol) for symbol in elements])
    teacher = campaign.initial.teacher
    stand_in = TeacherReference(
        engine="teacher",
        calculator=teacher.calculator,
        kwargs=teacher.kwargs,
        charge=campaign.system.charge,
        spin=campaign.system.spin,
    )
    make_engine(stand_in).check(list(structures))


def check_writable(folder: Path) -> None:
    """See that ``folder`` can be made and written, without leaving anything behind.

    Raises:
        InputError: it cannot.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{existing} is not a folder")
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".gace-"):
            pass
    except OSError as error:
        raise InputError(f"the folder {existing} cannot be written: {error.strerror or error}") from None
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"the folder {existing} cannot be written")


def check_port(campaign: Campaign) -> None:
    """See that the dashboard's port is free."""
    from gace_platform.cluster.provider import require_free_port

    require_free_port(campaign.cluster.dashboard, "dashboard")


__all__ = ["check_campaign", "check_writable", "starting_structures"]
