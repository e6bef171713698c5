"""Models from their hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def built(architecture: Mapping[str, Any]) -> Any:
    """A model of the architecture in double precision, its parameters yet to be loaded.

    Raises:
        TypeError: arguments that no model takes.
        ValueError: values that do not go together.
    """
    if architecture.get("model") == "linear-ace":
        from gace.linear.model import LinearACE

        return LinearACE.from_hyperparameters(architecture).to(torch.float64)
    from gace.potential.graph_ace import GraphACE

    return GraphACE(**architecture).to(torch.float64)


def raised(model: Any) -> Any:
    """The same model in double precision, on the CPU.

    Its parameters stay as they were rounded. What follows from the architecture is made anew: rounded
    Clebsch–Gordan coefficients would break the rotational symmetry at 1e-8.
    """
    fresh = built(model.hyperparameters())
    fresh.load_state_dict(model.state_dict())
    for parameter, former in zip(fresh.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(former.requires_grad)
    return fresh.train(model.training)


__all__ = ["built", "raised"]
