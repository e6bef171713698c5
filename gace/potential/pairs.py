"""Values by pair of elements, as a configuration gives them: ``{"C-H": 0.9}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gace.errors import InputError, nearest


def by_pair(
    elements: Sequence[str],
    given: Mapping[str, float],
    name: str,
    *,
    missing: float,
    largest: float,
) -> Tensor:
    """Symmetric matrix of lengths ``(n_elements, n_elements)``, Å, float64.

    Args:
        elements: chemical symbols; their order is that of rows and columns.
        given: lengths by pair of elements; the order within a pair is free.
        name: of the argument, for messages.
        missing: what the other pairs have.
        largest: what a length must not exceed, Å.

    Raises:
        InputError: not a pair of the elements, a pair with two lengths, or a length out of range.
    """
    found = torch.full((len(elements), len(elements)), torch.nan, dtype=torch.float64)
    for key, length in given.items():
        pair = key.split("-")
        for element in pair:
            if element not in elements:
                raise InputError(f"{name}: '{key}' names no two elements{nearest(element, elements)}")
        if len(pair) != 2:
            raise InputError(f"{name}: '{key}' is no pair; write it as {elements[0]}-{elements[-1]}")
        if not 0 < length <= largest:
            raise InputError(f"{name}: {key} must lie between 0 and {largest:g} Å (got {length})")
        a, b = (elements.index(element) for element in pair)
        if not torch.isnan(found[a, b]) and found[a, b] != length:
            raise InputError(f"{name}: {key} is given twice")
        found[a, b] = found[b, a] = length
    return found.nan_to_num(missing)
