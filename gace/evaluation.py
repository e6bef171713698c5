"""How far a potential is from labels: the numbers behind ``gace evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from gace.errors import GaceError, InputError
from gace.structures.io import config_type_of, labels_of
from gace.structures.stress_order import reordered_stresses

if TYPE_CHECKING:
    from gace.potential.potential import Potential, StructurePrediction

MILLI = 1000.0
TARGETS = ("energy", "forces")
MEASURES = ("coverage", "zms", "auroc", "spearman")


class Residuals(NamedTuple):
    """Prediction minus label of one structure; NaN where there is no label."""

    n_atoms: int
    config_type: str
    """``info["config_type"]``, or ``default``."""

    energy: float
    """eV."""

    forces: NDArray[np.float64]
    """eV/Å ``(N, 3)``."""

    stress: NDArray[np.float64]
    """eV/Å³ ``(3, 3)``."""

    energy_std: float
    """eV."""

    forces_std: NDArray[np.float64]
    """eV/Å ``(N, 3)``."""

    ancestor: str = ""
    """``info["ancestor"]``, the walk it was taken from; empty where it names none."""


def evaluate(
    potential: Potential,
    structures: Sequence[Atoms],
    uncertainty: bool = False,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Errors of ``potential`` on labelled structures, as one JSON-able dictionary.

    Args:
        potential: any potential.
        structures: with ``REF_energy``, ``REF_forces``, ``REF_stress`` (or ASE's own names); a label
            that no structure has gives a null entry.
        uncertainty: also compare error bars with errors (a potential with error bars only).
        progress: called with the number of structures done.

    Returns:
        ``n_structures``, ``n_atoms``; {"mae", "rmse"} under ``energy`` (meV per structure),
        ``energy_shifted`` (the same without the mean difference), ``energy_per_atom`` (meV/atom),
        ``forces`` (meV/Å, per component), ``stress`` (meV/Å³, per component); ``by_config_type`` with
        the same per ``info["config_type"]``; only where there are any, ``stress_order``: the kinds whose
        shear stresses fit in another order of their components (:mod:`gace.structures.stress_order`).
        With ``uncertainty`` also ``coverage``, ``zms``, ``auroc``, ``spearman``, each by target (``energy``,
        ``forces``), and all measures with their intervals under ``uncertainty``.

    Raises:
        InputError: no structures, no label at all, an infinite one, an unknown element, or error bars
            asked of a potential that has none.
        GaceError: a prediction is not finite.
    """
    if not structures:
        raise InputError("there are no structures to evaluate on")
    if uncertainty and not potential.has_error_bars:
        raise InputError("this potential has no error bars: it is a single model without calibration")
    potential = potential.evaluated_for(structures)
    rows: list[Residuals] = []
    stresses: list[tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]] = []
    for atoms, prediction in zip(
        structures, potential.predictions(structures, uncertainty=uncertainty), strict=True
    ):
        # a NaN must not pass for a missing label
        if not (np.isfinite(prediction.energy) and np.isfinite(prediction.forces).all()):
            raise GaceError(f"structure {len(rows)}: the predicted energy or a force is not finite")
        labels = labels_of(atoms)
        for name, value in labels._asdict().items():
            if value is not None and np.isinf(value).any():
                raise InputError(f"structure {len(rows)}: its label {name} is infinite")
        rows.append(residuals(atoms, prediction))
        stresses.append((labels.stress, prediction.stress))
        if progress is not None:
            progress(len(rows))
    if all(np.isnan(one.energy) and np.isnan(one.forces).all() for one in rows):
        raise InputError("no structure has a label: REF_energy, REF_forces (or energy, forces) are missing")
    summary = errors(rows)
    kinds = sorted({one.config_type for one in rows})
    summary["by_config_type"] = {
        kind: errors([one for one in rows if one.config_type == kind]) for kind in kinds
    }
    found = reordered_stresses(
        [label for label, _ in stresses], [other for _, other in stresses], [one.config_type for one in rows]
    )
    if found:
        summary["stress_order"] = [one.summary() for one in found]
    return summary | (error_bars(rows) if uncertainty else {})


def residuals(atoms: Atoms, prediction: StructurePrediction) -> Residuals:
    """Prediction minus label of one structure.

    Raises:
        InputError: a label has the wrong shape.
    """
    labels, nan = labels_of(atoms), float("nan")
    n = len(atoms)
    no_stress = labels.stress is None or prediction.stress is None
    return Residuals(
        n,
        config_type_of(atoms),
        nan if labels.energy is None else prediction.energy - labels.energy,
        np.full((n, 3), nan) if labels.forces is None else prediction.forces - labels.forces,
        np.full((3, 3), nan) if no_stress else prediction.stress - labels.stress,  # type: ignore[operator]
        nan if prediction.energy_std is None else prediction.energy_std,
        np.full((n, 3), nan) if prediction.forces_std is None else prediction.forces_std,
        ancestor_of(atoms),
    )


def errors(rows: Sequence[Residuals]) -> dict[str, Any]:
    """Sizes and mean errors of some structures; see :func:`evaluate` for keys and units."""
    energy = np.array([one.energy for one in rows])
    n_atoms = np.array([one.n_atoms for one in rows])
    known = energy[~np.isnan(energy)]
    shifted = known - known.mean() if len(known) else known
    return {
        "n_structures": len(rows),
        "n_atoms": int(n_atoms.sum()),
        "energy": mean_errors(energy),
        "energy_shifted": mean_errors(shifted),
        "energy_per_atom": mean_errors(energy / n_atoms),
        "forces": mean_errors(np.concatenate([one.forces.ravel() for one in rows])),
        "stress": mean_errors(np.concatenate([one.stress.ravel() for one in rows])),
    }


def mean_errors(residual: NDArray[np.float64]) -> dict[str, float] | None:
    """Mean absolute and root mean square of residuals, in milli-units; None if none is known."""
    known = residual[~np.isnan(residual)]
    if len(known) == 0:
        return None
    return {
        "mae": MILLI * float(np.abs(known).mean()),
        "rmse": MILLI * float(np.sqrt(np.square(known).mean())),
    }


def error_bars(rows: Sequence[Residuals]) -> dict[str, Any]:
    """Error bars against errors: each measure by target, and everything under ``uncertainty``.

    Energies are compared per structure in meV, forces per component in meV/Å; intervals come from
    resampling ancestors.
    """
    everyone = np.arange(len(rows))
    ancestor = numbered([one.ancestor for one in rows])
    structure = np.repeat(everyone, [3 * one.n_atoms for one in rows])
    force_error = np.concatenate([one.forces.ravel() for one in rows])
    force_std = np.concatenate([one.forces_std.ravel() for one in rows])
    full: Mapping[str, dict[str, Any]] = {
        "energy": assess_by_ancestor(
            MILLI * np.array([one.energy for one in rows]),
            MILLI * np.array([one.energy_std for one in rows]),
            everyone,
            ancestor,
        ),
        "forces": assess_by_ancestor(MILLI * force_error, MILLI * force_std, structure, ancestor),
    }
    found: dict[str, Any] = {
        measure: {target: full[target].get(measure) for target in TARGETS} for measure in MEASURES
    }
    return {**found, "uncertainty": dict(full)}


def ancestor_of(atoms: Atoms) -> str:
    """The walk a structure was taken from, ``info["ancestor"]``; empty where it names none."""
    name = atoms.info.get("ancestor")
    return "" if name is None else str(name)


def numbered(ancestors: Sequence[str]) -> NDArray[np.int64] | None:
    """Number of the ancestor of each structure ``(B,)``, a structure without one being its own.

    None where no structure names an ancestor.
    """
    if not any(ancestors):
        return None
    known: dict[str | int, int] = {}
    return np.array([known.setdefault(name or index, len(known)) for index, name in enumerate(ancestors)])


def assess_by_ancestor(
    error: ArrayLike,
    std: ArrayLike,
    structure: NDArray[np.int64],
    ancestor: NDArray[np.int64] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """:func:`gace.uncertainty.metrics.assess` with intervals from resampling whole ancestors.

    Args:
        error: prediction minus reference ``(n,)``.
        std: error bars in the same unit ``(n,)``.
        structure: structure of each row ``(n,)``.
        ancestor: of each structure, as :func:`numbered` gives it ``(B,)``.
        seed: of the resampling.
    """
    from gace.uncertainty.metrics import assess

    if ancestor is None:
        return assess(error, std, structure, seed=seed)
    found = assess(error, std, ancestor[structure], seed=seed)
    n_ancestors = found["n_structures"]
    usable = np.isfinite(np.asarray(error, dtype=float)) & np.isfinite(np.asarray(std, dtype=float))
    found["n_structures"] = len(np.unique(structure[usable]))
    for measure, least, most in (("zms", 0.0, np.inf), ("spearman", -1.0, 1.0)):
        value, (low, high) = found.get(measure), found.get(f"{measure}_interval", (None, None))
        if value is not None and low is not None and high is not None:
            low, high = widened(value, low, high, n_ancestors)
            found[f"{measure}_interval"] = [max(low, least), min(high, most)]
    return found


def widened(value: float, low: float, high: float, n: int) -> tuple[float, float]:
    """A 95 % percentile interval from ``n`` ≥ 2 resampled ancestors, made wide enough for few of them.

    The bootstrap takes the spread of n ancestors as if it were known exactly, and with n instead of
    n - 1 in the denominator: both ends move away from the value by (t / z)·√(n / (n - 1)), t being
    Student's quantile for n - 1 degrees of freedom and z the normal one.
    """
    factor = float(stdtrit(n - 1, 0.975) / ndtri(0.975) * np.sqrt(n / (n - 1)))
    return value - factor * max(0.0, value - low), value + factor * max(0.0, high - value)
