"""What a graph ACE may be made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gace.errors import InputError


def listed(name: str, value: Any) -> list[Any]:
    """The values of a hyperparameter that has several, one per layer.

    Raises:
        InputError: it is a single value, or text.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"{name} must be a list of whole numbers (got {value!r})")
    return list(value)


def check(h: Mapping[str, Any]) -> None:
    """See that hyperparameters make a model.

    Raises:
        InputError: one is of another kind or out of range; the first is named.
    """
    least = {
        "channels": 1,
        "l_message": 0,
        "n_radial": 1,
        "cutoff_power": 2,
        "densities": 0,
        "readout_hidden": 0,
    }
    for name, lowest in least.items():
        if not isinstance(h[name], int) or h[name] < lowest:
            raise InputError(f"{name} must be a whole number, {lowest} or larger (got {h[name]!r})")
    for name in ("radial_hidden", "l_max", "order"):
        if not all(isinstance(one, int) for one in h[name]):
            raise InputError(f"{name} must be whole numbers (got {h[name]!r})")
    for name in ("radial_decay", "core_reach", "order_decay", "degree_decay"):
        if not isinstance(h[name], int | float) or not 0 <= h[name] < math.inf:
            raise InputError(f"{name} must be a number, zero or larger (got {h[name]!r})")
    conditions = [
        (
            len(h["elements"]) > 0 and len(set(h["elements"])) == len(h["elements"]),
            "elements must be distinct",
        ),
        (h["cutoff"] > 0, f"cutoff must be positive (got {h['cutoff']})"),
        (len(h["l_max"]) >= 1 and min(h["l_max"], default=-1) >= 0, "l_max needs one degree ≥ 0 per layer"),
        (len(h["order"]) == len(h["l_max"]), "order needs one value per layer"),
        (all(1 <= o <= 4 for o in h["order"]), f"order must be 1, 2, 3 or 4 (got {h['order']})"),
        (
            h["embedding"] in ("network", "polynomial"),
            f"embedding must be network or polynomial (got {h['embedding']})",
        ),
        (h["parity"] in ("both", "natural"), f"parity must be both or natural (got {h['parity']})"),
        (h["mean_neighbours"] > 0, "mean_neighbours must be positive"),
    ]
    for holds, message in conditions:
        if not holds:
            raise InputError(message)
