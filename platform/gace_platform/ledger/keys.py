"""Keys of labels: one structure at one level of theory has one key, whoever asks."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ase import Atoms

from gace_platform.ledger.canonical import canonical_hash

HASH_LENGTH = 16
"""Hexadecimal digits kept of each hash: 64 bits, so 10^6 keys collide with a chance below 10^-7."""


def settings_hash(settings: dict[str, Any]) -> str:
    """Hash of the settings that decide a label's value (16 hexadecimal digits).

    Args:
        settings: what an engine's ``settings()`` returns; JSON-able, in any order of keys.
    """
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]


def label_key(atoms: Atoms, settings: dict[str, Any]) -> str:
    """``<structure hash>-<settings hash>`` of one structure labelled with these settings.

    The hash is that of the canonical form (:mod:`gace_platform.ledger.canonical`).

    Charge and spin (number of unpaired electrons) are read from ``atoms.info``; absent ones count as 0. An
    engine that has other defaults sets them first: see :func:`with_charge_and_spin`.
    """
    return f"{canonical_hash(atoms)[:HASH_LENGTH]}-{settings_hash(settings)}"


def with_charge_and_spin(atoms: Atoms, charge: int, spin: int) -> Atoms:
    """A copy whose ``info`` holds the total charge (e) and the number of unpaired electrons."""
    resolved = atoms.copy()
    resolved.calc = None
    resolved.info["charge"] = int(charge)
    resolved.info["spin"] = int(spin)
    return resolved
