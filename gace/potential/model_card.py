"""The model card of a bundle: generated from what the bundle holds, never written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gace.potential.potential import Potential

MINIMUM_CALIBRATION = 100
"""Fewer held-out structures than this do not earn the word "calibrated"."""


def model_card(potential: Potential, config: dict[str, Any]) -> str:
    """Markdown that says what the potential is, what it was made from, and where its limits are.

    Args:
        potential: the potential described.
        config: the content of its ``config.json``.
    """
    sections = [
        f"# {_family(potential)} potential for {', '.join(potential.elements)}",
        "Generated from the bundle; do not edit (its checksum is recorded).",
        "## What it is\n" + _bullets(_model_rows(potential, config)),
        "## Made from\n" + _bullets(_origin_rows(potential)),
        *(
            f"### Combined potential {number}\n" + _bullets(_metadata_rows(one))
            for number, one in enumerate(potential.metadata.get("combined", []), 1)
        ),
        "## Isolated atoms (eV)\n"
        + _bullets({symbol: f"{value:.8f}" for symbol, value in potential.isolated_atom_energies.items()}),
        "## Uncertainty\n" + _uncertainty_text(potential),
        "## Limits\n" + _limits_text(potential),
        '## Use\n```python\nimport gace\n\natoms.calc = gace.load("this folder").calculator()\n```',
    ]
    return "\n\n".join(sections) + "\n"


def _family(potential: Potential) -> str:
    families = {
        "Linear ACE" if one.hyperparameters().get("model") == "linear-ace" else "Graph ACE"
        for one in potential.members
    }
    return " and ".join(sorted(families))


def _model_rows(potential: Potential, config: dict[str, Any]) -> dict[str, Any]:
    count = sum(value.numel() for value in potential.members[0].parameters())
    architecture = config["architecture"]
    return {
        "members": len(potential.members),
        "weights of the members": None
        if len(set(potential.weights)) == 1
        else ", ".join(f"{one:.3g}" for one in potential.weights),
        "parameters of one member": f"{count:,}",
        "elements, in stored order": ", ".join(potential.elements),
        "cutoff": f"{potential.cutoff:g} Å",
        "layers": len(architecture["l_max"]) if "l_max" in architecture else None,
        "units": "eV, Å, eV/Å, stress eV/Å³ (tension positive)",
        "format version": config["format_version"],
    }


def _origin_rows(potential: Potential) -> dict[str, Any]:
    theory = potential.level_of_theory
    rows: dict[str, Any] = {"level of theory": _flat(theory) if theory else "not recorded"}
    combined = potential.metadata.get("combined")
    if combined is not None:  # each has its own section
        rows["combined of"] = f"{len(combined)} potentials"
    rows.update(_metadata_rows({k: value for k, value in potential.metadata.items() if k != "combined"}))
    return rows


def _metadata_rows(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", " "): _flat(value) for key, value in metadata.items()}


def _uncertainty_text(potential: Potential) -> str:
    uncertainty = potential.uncertainty
    if uncertainty is None:
        if potential.has_committee:
            return "The spread of the members is available but was never compared with errors."
        return "None: this potential says nothing about its own errors."
    n = int(uncertainty.n_calibration)
    lines = []
    if potential.has_committee:
        state = "calibrated" if n >= MINIMUM_CALIBRATION else "rescaled but not calibrated"
        lines.append(
            f"- committee spread, {state} on {n} held-out structures (factors: energy "
            f"{float(uncertainty.energy_scale):.3g}, forces {float(uncertainty.forces_scale):.3g})"
        )
    if potential.has_novelty:
        lines.append("- γ per atom: 1 is the boundary of the training set, ∞ an element absent from it")
    return "\n".join(lines) or "None."


def _limits_text(potential: Potential) -> str:
    return (
        f"Only {', '.join(potential.elements)}; interactions of atoms in one layer end at "
        f"{potential.cutoff:g} Å, with no long-range electrostatics or dispersion beyond the reach of the "
        "layers. Charge and spin state are those of the training data. Structures unlike the training set "
        "(γ > 1, or a large spread) should be computed with the reference method."
    )


def _bullets(rows: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in rows.items() if value is not None) or "- nothing"


def _flat(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(entry)}" for key, entry in value.items() if entry is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(entry) for entry in value)
    return " ".join(str(value).split())
