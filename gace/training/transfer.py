"""Going on from an earlier model: more elements, and parts that stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gace.errors import InputError, nearest
from gace.potential.graph_ace import GraphACE

MEAN = "mean"
"""In place of an element: begin with the mean over all known elements."""

PARTS = {
    "radial": r"layers\.\d+\.radial\.",
    "embedding": r"layers\.\d+\.indicator",
    "products": r"layers\.\d+\.(?!radial\.|indicator)",
    "readout": r"(coefficients|projections|readout)\b",
    "shift": r"shift\b",
}
"""What the names in ``potential.freeze`` mean: patterns of parameter names; ``layer.T`` is all of layer T."""


def extended(model: GraphACE, new_elements: Mapping[str, str]) -> GraphACE:
    """A model that also knows ``new_elements``; for structures of the old elements it predicts the same.

    Args:
        model: the earlier model.
        new_elements: for each element the one whose parameters it begins with, or ``mean``.

    Raises:
        InputError: an element that is known already, or one to begin with that is not.
    """
    known = list(model.elements)
    for element, source in new_elements.items():
        if element in known:
            raise InputError(f"potential.new_elements: the start model knows {element} already")
        if source not in (*known, MEAN):
            hint = nearest(source, [*known, MEAN])
            raise InputError(f"potential.new_elements: {element} cannot begin as '{source}'{hint}")
    larger = GraphACE(**{**model.hyperparameters(), "elements": [*known, *new_elements]})
    own, other = model.state_dict(), larger.state_dict()
    rows = [None if source == MEAN else known.index(source) for source in new_elements.values()]
    larger.load_state_dict({name: _extended_tensor(own[name], other[name], rows) for name in other})
    return larger


def _extended_tensor(old: Tensor, shape_of: Tensor, rows: Sequence[int | None]) -> Tensor:
    """``old`` with rows added along every axis that has one entry per element."""
    found = old.detach().cpu()
    for axis, (before, after) in enumerate(zip(old.shape, shape_of.shape, strict=True)):
        if before == after:
            continue
        added = [
            found.mean(axis, keepdim=True) if row is None else found.narrow(axis, row, 1) for row in rows
        ]
        found = torch.cat([found, *added], axis)
    return found


def freeze(model: GraphACE, parts: Sequence[str]) -> None:
    """Keep the parameters of these parts (:data:`PARTS`, ``layer.0``, …) as they are during training.

    Raises:
        InputError: an unknown part, or nothing left to train.
    """
    for part in parts:
        pattern = PARTS.get(part)
        if (number := re.fullmatch(r"layer\.(\d+)", part)) is not None:
            pattern = rf"layers\.{number[1]}\."
        found = [one for name, one in model.named_parameters() if pattern and re.match(pattern, name)]
        if not found:
            known = [*PARTS, *(f"layer.{t}" for t in range(len(model.layers)))]
            raise InputError(f"potential.freeze: the model has no part '{part}'{nearest(part, known)}")
        for one in found:
            one.requires_grad_(False)
    if not any(one.requires_grad for one in model.parameters()):
        raise InputError("potential.freeze leaves nothing to train")
