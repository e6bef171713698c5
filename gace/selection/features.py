"""Features that know what the model does not: sketched gradients by its parameters.

The gradient of a structure's energy by all parameters is the feature map of the model's tangent
kernel: two structures are close if a training step on one changes the other. The gradients (10⁴ to
10⁶ long) are compressed by a count sketch, which keeps inner products on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gace.randomness import generator
from gace.structures.graph import Graph

DIMENSIONS = 512


def gradient_sketch(
    model: nn.Module,
    graphs: Iterable[Graph],
    seed: int,
    dimensions: int = DIMENSIONS,
    progress: Callable[[], None] | None = None,
) -> NDArray[np.float64]:
    """Sketched parameter gradients of E/√N, one row per structure: ``(n, dimensions)``.

    The energy is divided by the root of the number of atoms: the error of a structure of independent
    atoms grows so, hence neither large nor small cells are preferred for their size alone.

    Args:
        model: maps a graph to an output with ``energy`` per atom, eV.
        graphs: one structure each, in the model's dtype and on its device.
        seed: of the sketch; the same for all sets that are to be compared.
        dimensions: length of the sketch.
        progress: called after each structure.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in parameters]
    rng = generator(seed, "gradient sketch", sum(sizes), dimensions)
    device = parameters[0].device
    bucket = torch.as_tensor(rng.integers(dimensions, size=sum(sizes)), device=device)
    sign = torch.as_tensor(rng.integers(2, size=sum(sizes)) * 2 - 1, device=device).to(torch.float64)
    rows = []
    for graph in graphs:
        energy = model(graph).energy.sum() / graph.n_atoms**0.5
        gradients = torch.autograd.grad(energy, parameters, allow_unused=True)
        flat = torch.cat([_flat(g, p) for g, p in zip(gradients, parameters, strict=True)])
        row = torch.zeros(dimensions, dtype=torch.float64, device=device)
        rows.append(row.index_add(0, bucket, sign * flat).cpu().numpy())
        if progress is not None:
            progress()
    return np.array(rows).reshape(-1, dimensions)


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """A gradient as a float64 vector; zeros where the energy does not depend on the parameter."""
    if gradient is None:
        return torch.zeros(parameter.numel(), dtype=torch.float64, device=parameter.device)
    return gradient.detach().reshape(-1).to(torch.float64)
