"""Which structure made a training diverge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gace.potential.graph_ace import AtomicOutput
from gace.structures.graph import Graph
from gace.training.batches import Packed
from gace.training.losses import Weights, loss_terms


def blame(
    model: Callable[[Graph], AtomicOutput],
    data: Packed,
    batch: Tensor,
    weights: Weights,
    kind: Callable[[Tensor], Tensor],
) -> str:
    """Name the structure of a batch whose loss is not finite, else the one whose loss is largest.

    Args:
        model: with parameters from before the divergence.
        data: the training data.
        batch: indices of the batch in which it was seen.
        weights: of the loss terms.
        kind: penalty of a residual.
    """
    present = Weights(
        weights.energy * data.has_energy, weights.forces * data.has_forces, weights.stress * data.has_stress
    )
    worst, largest = int(batch[0]), -1.0
    for index in batch.tolist():
        terms = loss_terms(model, data.batch(torch.tensor([index])), present, kind, False)
        loss = float(terms[0].detach())
        if not torch.isfinite(terms).all():
            return f"{data.names[index]}, whose own loss is not finite"
        if loss > largest:
            worst, largest = index, loss
    count = f" of a batch of {len(batch)}" if len(batch) > 1 else ""
    return f"{data.names[worst]} (largest loss{count}: {largest:.3g})"
