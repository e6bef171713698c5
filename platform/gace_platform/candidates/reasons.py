"""Why each structure was picked: one sentence with the numbers that decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from gace.selection.lcmd import Picks
from gace.structures.io import without_calculator
from gace_platform.candidates.judgement import Judgement
from gace_platform.candidates.pool import Pool, name_of


@dataclass(frozen=True)
class Pick:
    """One chosen structure."""

    atoms: Atoms
    identity: str
    """Structure hash."""
    origin: str
    """``lcmd``, ``fps``, ``random`` or ``reserve``."""
    reason: str
    values: dict[str, float | None]
    """``gamma``, ``energy_std`` (eV), ``forces_std`` (eV/Å); None where unknown or infinite."""
    new_element: bool
    """Whether an atom's element had no training data (γ = ∞)."""

    @classmethod
    def of(cls, pool: Pool, judgement: Judgement, row: int, origin: str, reason: str) -> Pick:
        """The candidate in a row of the pool."""
        values = {
            name: _finite(getattr(judgement, name)[row]) for name in ("gamma", "energy_std", "forces_std")
        }
        new = bool(np.isinf(judgement.gamma[row]))
        return cls(pool.structures[row], pool.hashes[row], origin, reason, values, new)

    def labelled_atoms(self, rank: int) -> Atoms:
        """A copy that carries in ``info`` why it was picked."""
        atoms = without_calculator(self.atoms)
        atoms.info.update(
            structure_id=name_of(self.atoms, self.identity),
            selection_rank=rank,
            selection_origin=self.origin,
            selection_reason=self.reason,
            origin="reserve" if self.origin == "reserve" else "selection",
        )
        for name, value in self.values.items():
            atoms.info.pop(name, None)
            if value is not None:
                atoms.info[name] = value
        if self.new_element:
            atoms.info["gamma"] = float("inf")
        return atoms

    def entry(self, rank: int) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rank": rank,
            "structure_id": name_of(self.atoms, self.identity),
            "structure_hash": self.identity,
            "formula": self.atoms.get_chemical_formula(),
            "ancestor": str(self.atoms.info.get("ancestor", "")),
            "origin": self.origin,
            "reason": self.reason,
            **self.values,
        }


def explain_reserve(number: int, total: int, n_physical: int) -> str:
    """Reason of a pick of the reserve."""
    return f"random reserve: {number} of {total} drawn uniformly from {n_physical} physical candidates"


def explain_random(number: int, total: int, n_physical: int) -> str:
    """Reason of a pick of the strategy ``random``."""
    return f"random: {number} of {total} drawn uniformly from {n_physical} physical candidates"


def explain_diverse(strategy: str, picks: Picks, number: int, by_gradient: bool, judgement: Judgement) -> str:
    """Reason of a pick by diversity.

    Args:
        strategy: ``lcmd`` or ``fps``.
        picks: all of the batch.
        number: which of them.
        by_gradient: whether distances are of gradient sketches or of geometry.
        judgement: of this one candidate.
    """
    space = "gradient features" if by_gradient else "geometry"
    distance, size = picks.distance[number], int(picks.cluster_size[number])
    others = picks.distance[np.isfinite(picks.distance)]
    typical = float(np.median(others)) if len(others) > 1 else 0.0
    if np.isnan(distance):
        text = f"{strategy}: the most central of {size} candidates in {space}, nothing being labelled yet"
    else:
        relative = f" ({distance / typical:.2f} times the batch's median)" if typical > 0 else ""
        cluster = f"{size} candidate{'s' if size > 1 else ''}"
        text = f"{strategy}: {distance:.3g}{relative} from everything known in {space}, "
        text += f"{'standing for' if strategy == 'lcmd' else 'within'} a cluster of {cluster}"
    return text + _doubts(judgement)


def _doubts(judgement: Judgement) -> str:
    """γ and error bars as the end of a sentence; empty where unknown."""
    parts = []
    gamma, energy, forces = (
        float(getattr(judgement, name)[0]) for name in ("gamma", "energy_std", "forces_std")
    )
    if np.isinf(gamma):
        parts.append("an element without training data")
    elif np.isfinite(gamma):
        parts.append(f"γ {gamma:.2f}")
    if np.isfinite(energy):
        parts.append(f"σ(E) {1000 * energy:.0f} meV")
    if np.isfinite(forces):
        parts.append(f"largest σ(F) {1000 * forces:.0f} meV/Å")
    return f"; {', '.join(parts)}" if parts else ""


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
