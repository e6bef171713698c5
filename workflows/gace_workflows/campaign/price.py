"""What a campaign will do and roughly cost, before it does."""

from __future__ import annotations

import typing as t

from gace_platform.labelling.config import (
    CP2KReference,
    PySCFCrystalReference,
    PySCFReference,
    QuantumEspressoReference,
    VaspReference,
)
from gace_workflows.campaign.file import Campaign

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

REFERENCE_FUNCTIONS = 72
REFERENCE_SECONDS = 3.0
"""Ethanol, PBE/def2-SVP with density fitting, energy and gradient: basis functions and core seconds."""
EXPONENT = 2.5
"""Growth of that price with the number of basis functions, between density fitting's n² and n³."""


class Plan(t.NamedTuple):
    """Steps in words, and the estimated price."""

    lines: list[str]
    labels: int
    """Structures sent to the reference calculation."""
    core_seconds: float | None
    """Estimated price of the labels; None where nothing is known about the engine's speed."""


def make_plan(campaign: Campaign, structures: Sequence[Atoms]) -> Plan:
    """The steps of a campaign in order, with the number of labels and their estimated price."""
    formulas = ", ".join(sorted({atoms.get_chemical_formula() for atoms in structures}))
    first = campaign.initial.labels + campaign.exam.structures
    teacher = campaign.initial.teacher
    lines = [
        f"campaign {campaign.campaign}: {formulas}, charge {campaign.system.charge}, {level(campaign)}",
        f"generation 0: explore with {teacher.calculator}, select {campaign.initial.labels}, "
        f"label {first} ({campaign.exam.structures} of them the exam)",
    ]
    if campaign.pretraining is not None:
        lines.append(f"pretrain on {campaign.pretraining.structures} frames of {teacher.calculator}")
    for number, size in enumerate(campaign.batches, start=1):
        lines.append(
            f"generation {number}: train committee, register, examine, explore, select and label {size}"
        )
    lines.append(f"generation {len(campaign.batches) + 1}: train committee, register, examine")
    labels = first + sum(campaign.batches)
    price = label_price(campaign, structures)
    total = None if price is None else labels * price
    lines.append(f"labels: {labels} of at most {campaign.budget.labels}")
    if total is not None and price is not None:
        wall = total / campaign.cluster.workers
        lines.append(
            f"price of the labels: about {price:.0f} core s each, {total / 60:.0f} core min, "
            f"{wall / 60:.0f} min on {campaign.cluster.workers} cores (a rough estimate)"
        )
    return Plan(lines, labels, total)


def level(campaign: Campaign) -> str:
    """The reference method in a few words."""
    reference = campaign.reference
    if isinstance(reference, PySCFReference):
        return f"{reference.functional}/{reference.basis} by PySCF"
    if isinstance(reference, PySCFCrystalReference):
        return f"{reference.functional}/{reference.basis} with a grid to {reference.cutoff:g} Ry by PySCF"
    if isinstance(reference, QuantumEspressoReference):
        files = ", ".join(reference.pseudopotentials.values())
        return f"plane waves to {reference.cutoff_wfc:g} Ry with {files} by Quantum ESPRESSO"
    if isinstance(reference, CP2KReference):
        basis = reference.basis if isinstance(reference.basis, str) else ", ".join(reference.basis.values())
        return f"{reference.functional}/{basis} with a grid to {reference.cutoff:g} Ry by CP2K"
    if isinstance(reference, VaspReference):
        names = ", ".join(reference.potentials.values())
        return f"plane waves to {reference.encut:g} eV with the potentials {names} by VASP"
    return f"teacher {reference.calculator}"


def label_price(campaign: Campaign, structures: Sequence[Atoms]) -> float | None:
    """Estimated core seconds of one label; None for engines whose speed is not known."""
    if not isinstance(campaign.reference, PySCFReference):
        return None
    from pyscf.gto import M

    largest = max(structures, key=lambda atoms: int(atoms.numbers.sum()))
    charge = campaign.system.charge
    spin = campaign.system.spin
    if spin is None:
        spin = (int(largest.numbers.sum()) - charge) % 2
    atoms = [
        (str(symbol), tuple(position))
        for symbol, position in zip(largest.symbols, largest.positions, strict=True)
    ]
    molecule = M(atom=atoms, basis=campaign.reference.basis, charge=charge, spin=spin, verbose=0)
    price = REFERENCE_SECONDS * (molecule.nao / REFERENCE_FUNCTIONS) ** EXPONENT
    return float(price * (2 if spin else 1))


__all__ = ["Plan", "label_price", "make_plan"]
