"""How far a potential is from labels: the numbers behind ``gace evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

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
        InputError: no structures, no label at all, an unknown element, or error bars asked of a
            potential that has none.
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
        rows.append(residuals(atoms, prediction))
        stresses.append((labels_of(atoms).stress, prediction.stress))
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
    resampling structures.
    """
    from gace.uncertainty.metrics import assess

    structure = np.repeat(np.arange(len(rows)), [3 * one.n_atoms for one in rows])
    force_error = np.concatenate([one.forces.ravel() for one in rows])
    force_std = np.concatenate([one.forces_std.ravel() for one in rows])
    full: Mapping[str, dict[str, Any]] = {
        "energy": assess(
            MILLI * np.array([one.energy for one in rows]), MILLI * np.array([one.energy_std for one in rows])
        ),
        "forces": assess(MILLI * force_error, MILLI * force_std, structure),
    }
    found: dict[str, Any] = {
        measure: {target: full[target].get(measure) for target in TARGETS} for measure in MEASURES
    }
    return {**found, "uncertainty": dict(full)}
