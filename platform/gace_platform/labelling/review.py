"""`gace labels review`: fresh labels against what was expected of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ase import Atoms

from gace.config import Closed, load_config
from gace.errors import InputError
from gace.files import write_json_atomic
from gace.structures.io import labels_of, read_structures
from gace_platform.labelling.audit import Limits, Prediction, audit

Oracle = Literal["potential", "teacher"]

TEACHER_LIMITS = Limits(energy=12.0, forces=8.0, ratio=(0.2, 5.0))
"""A teacher is another method: only gross errors (units, signs) show against it."""


class ReviewConfig(Closed):
    """Which labels are to be looked at, and what is expected of them."""

    structures: Path
    """Labelled structures of one level of theory, such as ``labelled.xyz`` of a batch."""
    potential: str | None = None
    """Bundle folder or models: address, better a committee; None: the energies and forces of the teacher
    that drove the exploration, where every structure has them."""


def load_review_config(path: Path, overrides: tuple[str, ...] = ()) -> ReviewConfig:
    """Read a configuration; its relative paths count from the file's folder.

    Raises:
        InputError: an unknown key or a wrong value.
    """
    config = load_config(path, ReviewConfig, overrides)
    folder = path.resolve().parent
    potential = config.potential
    if potential is not None and not potential.startswith("models:"):
        potential = str(folder / potential)
    return config.model_copy(update={"structures": folder / config.structures, "potential": potential})


def run_review(config: ReviewConfig, out: Path) -> dict[str, Any]:
    """Review the labels of a configuration; leaves ``review.json`` in ``out`` and returns its content.

    Returns:
        ``labels`` (how many were looked at), ``expected_by`` (``potential``, ``teacher``, or None: nothing
        was expected of them), ``suspects``: reasons by label key.

    Raises:
        InputError: a file cannot be read, or a structure has no label key.
    """
    structures = read_structures(config.structures)
    for number, atoms in enumerate(structures):
        if "label_key" not in atoms.info:
            raise InputError(f"structure {number} of {config.structures} has no label_key")
    oracle, reasons = review(structures, config.potential)
    suspects = {
        str(atoms.info["label_key"]): why
        for atoms, why in zip(structures, reasons, strict=True)
        if why is not None
    }
    result = {"labels": len(structures), "expected_by": oracle, "suspects": suspects}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(out / "review.json", result)
    except OSError as error:
        raise InputError(f"cannot write to the folder {out}: {error.strerror or error}") from None
    return result


def review(
    structures: Sequence[Atoms], potential: str | None = None
) -> tuple[Oracle | None, list[str | None]]:
    """Who was asked, and why each label is a suspect (or None).

    Without a potential the teacher's own energies and forces are what is expected; without those nothing is.
    """
    if potential is not None:
        from gace_platform.labelling.expectation import expect

        return "potential", audit(structures, expect(potential, structures))
    predictions = [of_teacher(atoms) for atoms in structures]
    known = [one for one in predictions if one is not None]
    if not structures or len(known) < len(structures):
        return None, [None] * len(structures)
    return "teacher", audit(structures, known, TEACHER_LIMITS)


def of_teacher(atoms: Atoms) -> Prediction | None:
    """What the teacher that drove the exploration said of a structure, or None."""
    energy, forces = atoms.info.get("teacher_energy"), atoms.arrays.get("teacher_forces")
    if energy is None or forces is None or labels_of(atoms).energy is None:
        return None
    return Prediction(float(energy), forces)
