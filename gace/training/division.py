"""A batch taken part by part where memory does not suffice for all of it: the same step, to rounding."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gace.errors import OutOfMemoryError
from gace.memory import amount, forget_freed, is_lack
from gace.training.batches import Batch, Packed, balanced_batches
from gace.training.losses import Weights

SPARE_MEMORY = "GACE_SPARE_MEMORY"
"""Variable by which whoever starts a training again after a lack of memory asks for batches in 2ⁿ parts."""

Differentiate = Callable[[Batch, Weights], Tensor]
"""Loss terms ``(4,)`` of a batch; leaves their gradients at the parameters."""


class Division:
    """Into how many parts batches are divided: one, until memory is refused, then twice as many each time.

    Args:
        data: the training data.
        parameters: those that are trained.

    Attributes:
        parts: parts of a batch at present.
        allowed: whether a batch may be divided at all.
    """

    def __init__(self, data: Packed, parameters: Sequence[Tensor]) -> None:
        self.data, self.parameters = data, parameters
        level = os.environ.get(SPARE_MEMORY, "")
        self.parts, self.allowed = 2 ** int(level) if level.isdigit() else 1, True

    def forbid(self) -> None:
        """Take every batch whole, whatever comes."""
        self.parts, self.allowed = 1, False

    def __call__(
        self, indices: Tensor, batch: Batch, weights: Weights, differentiate: Differentiate, step: int
    ) -> Tensor:
        """Loss terms ``(4,)`` of a batch; leaves its gradients at the parameters.

        Args:
            indices: structures of the batch.
            batch: the same, cut out.
            weights: of the terms.
            differentiate: does the same for a batch that fits.
            step: steps done so far, for messages.

        Raises:
            OutOfMemoryError: there is not even memory for one structure at a time.
        """
        while True:
            try:
                if self.parts == 1 or len(indices) == 1:
                    return differentiate(batch, weights)
                parts = balanced_batches(indices, self.data.sizes, min(self.parts, len(indices)))
                return in_parts(self.data, parts, weights, differentiate, self.parameters)
            except Exception as error:
                if not is_lack(error):
                    raise
                lack = amount(error)
                error.__traceback__ = None  # it holds on to what the step had allocated
            for one in self.parameters:
                one.grad = None
            forget_freed()
            if not self.allowed or self.parts >= len(indices):
                raise self._told(indices, lack, step)
            self.parts = min(2 * self.parts, len(indices))
            print(
                f"warning: out of memory in step {step + 1} ({lack}): from now on batches are taken in "
                f"{self.parts} parts, for the same steps to rounding",
                file=sys.stderr,
                flush=True,
            )

    def _told(self, indices: Tensor, lack: str, step: int) -> OutOfMemoryError:
        sizes = self.data.sizes[indices]
        largest = self.data.names[int(indices[sizes.argmax()])]
        how = f"one structure at a time, the largest {largest}" if self.allowed else "taken whole"
        return OutOfMemoryError(
            f"out of memory in step {step + 1} (batch of {int(sizes.sum())} atoms, {how}): {lack}; "
            "have fewer trainings at a time (cluster.workers), a smaller potential.preset, or leave large "
            "structures out; "
            f"the same command goes on after step {step}"
        )


def in_parts(
    data: Packed,
    parts: Sequence[Tensor],
    weights: Weights,
    differentiate: Differentiate,
    parameters: Sequence[Tensor],
) -> Tensor:
    """Loss terms ``(4,)`` of a batch; leaves its gradients at the parameters.

    Every term is a mean over labels, so each part weighs by its share of the labels that the batch has.

    Args:
        data: the training data.
        parts: indices of the structures of each part.
        weights: of the terms, for the whole batch.
        differentiate: does the same for one part.
        parameters: those that are trained.
    """
    counts = torch.stack([data.labels(part) for part in parts])
    shares = (counts / counts.sum(0).clamp(min=1)).tolist()
    found: list[Tensor] = []
    gradients: list[Tensor | None] = [None] * len(parameters)
    for part, share in zip(parts, shares, strict=True):
        own = Weights(*(weight * one for weight, one in zip(weights, share, strict=True)))
        terms = differentiate(data.batch(part), own).detach()
        found.append(torch.cat([terms[:1], terms[1:] * terms.new_tensor(share)]))
        for index, one in enumerate(parameters):
            if one.grad is not None:
                earlier = gradients[index]
                gradients[index] = one.grad.clone() if earlier is None else earlier.add_(one.grad)
    for one, gradient in zip(parameters, gradients, strict=True):
        one.grad = gradient
    return torch.stack(found).sum(0)
