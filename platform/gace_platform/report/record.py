"""The data model of a campaign's report: everything the page shows, and nothing else.

A workflow fills a :class:`CampaignRecord` from files (or writes it as JSON), and
:func:`gace_platform.report.render` turns it into one HTML page. Every part but the name may be
empty: a page can be made after the first step of a campaign as well as at its end.

Units: energies eV, errors of energies meV/atom, forces and their errors meV/Å where the field
says ``mae`` or ``rmse`` and eV/Å where it says ``force``, times s, prices core seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, ConfigDict, Field

from gace.config import Closed

FORMAT_VERSION = 1
"""Version of the JSON form of a :class:`CampaignRecord`."""

Finite = Annotated[float, AllowInfNan(False)]
"""A float that is neither NaN nor infinite; a value that is not known is ``None``."""


class _Part(Closed):
    """Base of all parts: closed, frozen, and an infinite γ survives the way through JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, ser_json_inf_nan="strings")


class Estimate(_Part):
    """A measured figure with the ends of its bootstrap interval (95 % unless said otherwise)."""

    value: Finite
    low: Finite | None = None
    high: Finite | None = None


class SetErrors(_Part):
    """Errors of one generation's potential on one set of labelled structures."""

    n_structures: int = Field(ge=0)
    forces_mae: Estimate | None = None
    """Mean absolute error of the force components, meV/Å."""
    forces_rmse: Estimate | None = None
    """Root mean square error of the force components, meV/Å."""
    energy_mae: Estimate | None = None
    """Mean absolute error of the energy, meV/atom."""
    stress_mae: Estimate | None = None
    """Mean absolute error of the stress components, meV/Å³."""


class UncertaintyRecord(_Part):
    """How well error bars describe the force errors on structures drawn at random and not trained on."""

    n: int = Field(ge=0)
    """Number of structures behind these figures."""
    coverage: dict[str, Finite] = Field(default_factory=dict)
    """Fraction of errors inside the interval, by nominal per cent: ``{"68": …, "90": …, "95": …}``."""
    zms: Estimate | None = None
    """Mean of (error / σ)²; 1 when σ is right."""
    spearman: Estimate | None = None
    """Rank correlation of σ with the absolute error."""
    auroc: Estimate | None = None
    """Area under the curve of telling large errors by σ."""
    calibrated: bool | None = None
    """Whether the word may be used: n ≥ 100 and the interval of ``zms`` holds 1."""


class Condition(_Part):
    """One condition of a verdict (exam or stop rule), with what was found and what was asked."""

    name: str
    met: bool
    value: Finite | None = None
    """What was found."""
    threshold: Finite | None = None
    """What was asked for."""
    unit: str = ""
    detail: str = ""
    """One sentence: what was compared, or what is missing."""


class ExamRecord(_Part):
    """Verdict of the frozen exam on one generation."""

    verdict: Literal["passed", "failed"]
    conditions: list[Condition] = Field(default_factory=list)


class GenerationRecord(_Part):
    """One turn of the loop: what was known, what it could do, what it cost."""

    generation: int = Field(ge=0)
    n_labels: int = Field(ge=0)
    """Labels accepted when this generation was trained, the exam included (generation 0: its own)."""
    n_train: int = Field(default=0, ge=0)
    """Structures trained on."""
    errors: dict[str, SetErrors] = Field(default_factory=dict)
    """By name of the set: ``exam``, ``reserve``, ``test``, …; the first of them draws the headline."""
    uncertainty: UncertaintyRecord | None = None
    exam: ExamRecord | None = None
    core_seconds: dict[str, Finite] = Field(default_factory=dict)
    """By step: ``train``, ``explore``, ``select``, ``label``, ``examine``, …"""
    wall_seconds: Finite | None = None
    selected: dict[str, int] = Field(default_factory=dict)
    """How many structures of the pool met each fate: ``picked``, ``too close``, ``duplicate``, …"""
    walkers: dict[str, int] = Field(default_factory=dict)
    """How many walkers ended for each reason: ``finished``, ``gamma``, ``distance``, …"""
    version: str | None = None
    """Version in the model registry."""


class Predictions(_Part):
    """Predictions of one generation on one set, for the parity and uncertainty plots.

    The lists of energies have one entry per structure, the lists of forces one per component
    (thinned by whoever fills the record: some thousand points are plenty).
    """

    generation: int = Field(ge=0)
    set: str = "reserve"
    energy_reference: list[Finite] = Field(default_factory=list)
    """Reference energy minus isolated atoms, eV/atom."""
    energy_predicted: list[Finite] = Field(default_factory=list)
    """Predicted energy minus isolated atoms, eV/atom."""
    force_reference: list[Finite] = Field(default_factory=list)
    """Reference force components, eV/Å."""
    force_predicted: list[Finite] = Field(default_factory=list)
    """Predicted force components, eV/Å, in the same order."""
    force_std: list[Finite] = Field(default_factory=list)
    """Predicted standard deviation of each component, eV/Å; empty where there is none."""


class LabelRecord(_Part):
    """One structure that was sent to the reference calculation: its reason, price and verdict."""

    key: str
    """Label key: structure hash and settings hash."""
    structure_id: str = ""
    generation: int = Field(ge=0)
    reason: str
    """Why this structure was chosen, as the selection wrote it."""
    verdict: Literal["accepted", "quarantined", "failed"]
    detail: str = ""
    """Why it was quarantined or failed; which remedies were tried."""
    core_seconds: Finite = Field(default=0.0, ge=0)
    """Price of all attempts, whenever they were made, core seconds."""
    attempts: int = Field(default=1, ge=0)
    reused: bool = False
    """Found in the store, so paid for before: by a job that was killed, or in an earlier loop."""
    origin: str = ""
    """``reserve`` for the random reserve, else where the structure came from."""
    ancestor: str = ""
    """Trajectory of origin."""
    formula: str = ""
    n_atoms: int | None = None
    gamma: float | None = None
    """Largest novelty grade γ among its atoms when it was picked; may be infinite."""
    force_std: Finite | None = None
    """Largest predicted standard deviation of a force when it was picked, eV/Å."""
    aiida_uuid: str | None = None
    """UUID of the calculation that computed it."""


class VersionRecord(_Part):
    """One version of the registered model."""

    version: str
    generation: int | None = None
    aiida_uuid: str | None = None
    content_hash: str | None = None
    run_id: str | None = None
    exam_verdict: Literal["passed", "failed"] | None = None
    promoted: bool = False
    """Whether the alias ``champion`` was ever moved to this version."""
    champion: bool = False
    """Whether it points here now."""
    created: str | None = None
    """Time of registration, ISO 8601."""


class StopRecord(_Part):
    """Why the campaign ended, or which condition is missing."""

    stopped: bool
    condition: str | None = None
    """Name of the condition that ended it."""
    conditions: list[Condition] = Field(default_factory=list)
    detail: str = ""


class Totals(_Part):
    """The bill of the whole campaign."""

    labels: int = Field(default=0, ge=0)
    """Structures whose calculation was paid for, once and whatever its verdict."""
    labels_failed: int = Field(default=0, ge=0)
    """Those of them without an energy: no remedy helped."""
    labels_quarantined: int = Field(default=0, ge=0)
    """Those with an energy that is not trusted."""
    labels_reused: int = Field(default=0, ge=0)
    """Those that were found in the store, so paid for by a job that was killed, or in an earlier loop."""
    wall_seconds: Finite | None = None
    core_seconds: dict[str, Finite] = Field(default_factory=dict)
    """By step, summed over all generations."""


class Champion(_Part):
    """The version that the alias ``champion`` points to."""

    uri: str
    """``models:/NAME@champion``."""
    version: str
    generation: int | None = None
    bundle: str | None = None
    """Folder of the bundle, relative to the campaign's folder."""


class CampaignRecord(_Part):
    """Everything the report of one campaign shows."""

    format_version: Literal[1] = 1
    name: str
    description: str = ""
    created: str = ""
    """Time at which this record was made, ISO 8601."""
    gace_version: str = ""
    elements: list[str] = Field(default_factory=list)
    level_of_theory: dict[str, Any] | None = None
    aiida_uuid: str | None = None
    """UUID of the campaign's workflow node."""
    champion: Champion | None = None
    totals: Totals = Totals()
    generations: list[GenerationRecord] = Field(default_factory=list)
    predictions: list[Predictions] = Field(default_factory=list)
    labels: list[LabelRecord] = Field(default_factory=list)
    versions: list[VersionRecord] = Field(default_factory=list)
    stop: StopRecord | None = None
    notes: list[str] = Field(default_factory=list)
    """Anything else a reader must know, one sentence each."""


__all__ = [
    "CampaignRecord",
    "Champion",
    "Condition",
    "Estimate",
    "ExamRecord",
    "GenerationRecord",
    "LabelRecord",
    "Predictions",
    "SetErrors",
    "StopRecord",
    "Totals",
    "UncertaintyRecord",
    "VersionRecord",
]
