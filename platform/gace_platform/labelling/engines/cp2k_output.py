"""What CP2K's output says: energy, forces and stress of a single point, and what went wrong.

aiida-cp2k's own parsers read neither forces nor stress of a single point, hence this one. It reads text and
knows of no AiiDA.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from ase.units import Bohr, GPa, Hartree

from gace_platform.labelling.engines.crystals import disk_is_full, failure_by_machine

NUMBER = r"([-+]?\d*\.?\d+(?:[EeDd][-+]?\d+)?)"

STRESS_UNITS = {"GPa": 1.0, "bar": 1e-4}
"""GPa by the unit that the program states: which one it takes has changed with its versions."""

ANYWHERE = (
    ("exceeded requested execution time", "timeout"),
    ("SCF run NOT converged", "unconverged"),
    ("out of memory", "memory"),
)
"""What the program prints when it fails, wherever it stands; a field that did not converge is no more than a
warning to some versions, which go on to forces and end well."""

WHEN_ABORTING = (
    ("allocat", "memory"),
    ("Cholesky", "diagonalisation"),
    ("diagonaliz", "diagonalisation"),
    ("eigensolver", "diagonalisation"),
    ("odd number of electrons", "geometry"),
    ("GEOMETRY wrong", "geometry"),
    ("[ABORT]", "crashed"),
)
"""What stands in the box that the program draws when it gives up, in the order in which it decides."""


def read_output(text: str) -> dict[str, Any]:
    """The results of a single point in gace's units.

    Returns:
        ``energy`` (eV; with smearing the free energy), ``forces`` (eV/Å, nested lists), ``stress`` (eV/Å³,
        tension positive, or None), ``converged``, ``cycles``, ``cutoff`` and ``rel_cutoff`` (Ry), ``atoms``,
        ``functional``, ``version``, ``ended`` (whether the program got to its end).

    Raises:
        ValueError: the energy or the forces of an atom are not there, or the stress is not readable; the
            message says which.
    """
    found = read_settings(text)
    # "energy [a.u.]:" until 2024, "energy [hartree]" since
    energy = re.findall(r"ENERGY\| Total FORCE_EVAL .*energy \S*[\]):]+\s+" + NUMBER, text)
    if not energy:
        raise ValueError("energy")
    found["energy"] = _float(energy[-1]) * Hartree
    found["forces"] = (_forces(text, found["atoms"]) * Hartree / Bohr).tolist()
    stress = _stress(text)
    # CP2K prints what the cell exerts, as a pressure: compression is positive there, tension here
    found["stress"] = None if stress is None else (-stress * GPa).tolist()
    return found


def read_settings(text: str) -> dict[str, Any]:
    """What the output says of the calculation besides its results; absent lines give None."""
    cutoff = _first(r"QS\| Density cutoff \[a\.u\.\]:\s*" + NUMBER, text)
    relative = _first(r"QS\| Relative density cutoff \[a\.u\.\]:\s*" + NUMBER, text)
    cycles = _first(r"SCF run converged in\s+(\d+) (?:steps|iterations)", text)
    return {
        "cutoff": None if cutoff is None else 2 * _float(cutoff),
        "rel_cutoff": None if relative is None else 2 * _float(relative),
        "atoms": _integer(_first(r"- Atoms:\s+(\d+)", text)),
        "multiplicity": _integer(_first(r"DFT\| Multiplicity\s+(\d+)", text)),
        "functional": _first(r"FUNCTIONAL\|\s+([\w-]+):", text),
        "version": _first(r"CP2K\| version string:\s+CP2K version (\S+)", text),
        "converged": cycles is not None and "SCF run NOT converged" not in text,
        "cycles": _integer(cycles),
        "ended": "PROGRAM ENDED AT" in text,
    }


def failure_class(text: str, errors: str = "") -> str:
    """The class of a calculation that gave no label, by what it printed.

    Args:
        text: the program's output.
        errors: its standard error, where a lack of memory is told.
    """
    if disk_is_full(f"{text}\n{errors}"):
        return "disk"
    _, found, after = text.rpartition("[ABORT]")
    for part, words in ((text, ANYWHERE), (found + after if found else "", WHEN_ABORTING)):
        for said, name in words:
            if said.lower() in part.lower():
                return name
    # aiida-cp2k has standard error written into the output
    if (by_machine := failure_by_machine(f"{text}\n{errors}")) is not None:
        return by_machine
    # an output that breaks off without a word of the program's own was cut off from outside
    return "parser" if "PROGRAM ENDED AT" in text else "killed"


def telling(text: str) -> str:
    """The lines of an output that say what went wrong, and its last ones before the list of timings."""
    for end in ("T I M I N G", "R E F E R E N C E S", "DBCSR STATISTICS", "Routine Calling Stack"):
        text = text.partition(end)[0]
    lines = text.splitlines()
    said = [line for line in lines if any(words.lower() in line.lower() for words, _ in ANYWHERE)]
    last = [line for line in lines if set(line) - set(" -*")][-15:]
    return "\n".join(dict.fromkeys([*said[:5], *last]))


def abort_message(text: str) -> str:
    """What stands in the box that CP2K draws when it gives up, as one line; empty when there is none."""
    _, found, after = text.rpartition("[ABORT]")
    if not found:
        return ""
    lines = [re.sub(r"^\s*\*|\*\s*$", "", line) for line in after.splitlines()[1:8]]
    # a little man is drawn at the left of the first lines
    words = [re.sub(r"^\s*(?:\\___/|\||O/\||/\| \||/ \\)\s*", "", line).strip() for line in lines]
    message = " ".join(word for word in words if word and not set(word) <= {"*"})
    return " ".join(message.split())


def _forces(text: str, atoms: int | None) -> np.ndarray:
    """The last table of forces, Hartree/Bohr ``(N, 3)``; a number too large for its column shows as stars."""
    xyz = r"\s+".join([NUMBER] * 3)
    _, found, table = text.rpartition("ATOMIC FORCES in [a.u.]")
    row = r"^\s+\d+\s+\d+\s+[A-Z][a-z]?\s+" + xyz
    if not found:  # since 2025
        _, found, table = text.rpartition("FORCES| Atomic forces [hartree/bohr]")
        row = r"^ FORCES\|\s+\d+\s+" + xyz
    rows = re.findall(row, table, re.MULTILINE) if found else []
    if not rows or (atoms is not None and len(rows) != atoms):
        raise ValueError("forces of all atoms")
    return np.array([[_float(word) for word in row] for row in rows])


def _stress(text: str) -> np.ndarray | None:
    """The last stress tensor, GPa ``(3, 3)``, in CP2K's sign; None where none was asked for."""
    _, found, table = text.rpartition("STRESS| Analytical stress tensor [")
    if not found:
        return None
    unit = table.partition("]")[0]
    rows = re.findall(r"^ STRESS\|\s+[xyz]\s+" + r"\s+".join([NUMBER] * 3), table, re.MULTILINE)[:3]
    if len(rows) != 3 or unit not in STRESS_UNITS:
        raise ValueError("complete stress tensor in GPa or bar")
    return np.array([[_float(word) for word in row] for row in rows]) * STRESS_UNITS[unit]


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return None if match is None else match[1]


def _integer(word: str | None) -> int | None:
    return None if word is None else int(word)


def _float(word: str) -> float:
    return float(word.replace("D", "E").replace("d", "e"))


__all__ = ["abort_message", "failure_class", "read_output", "read_settings", "telling"]
