"""Energy, forces and virial of a batch of structures as exact derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gace.potential.graph_ace import AtomicOutput
from gace.structures.graph import Graph, forces_from_edges, sum_structures, virial_from_edges


class Prediction(NamedTuple):
    """Energies without the isolated atoms', and their derivatives."""

    energy: Tensor
    """eV ``(B,)``."""
    forces: Tensor
    """eV/Å ``(N, 3)``."""
    virial: Tensor
    """Strain derivative of the energy, eV ``(B, 3, 3)``; divided by the volume it is the stress."""
    atomic_energy: Tensor
    """eV ``(N,)``."""
    features: Tensor
    """Invariants ``(N, F)``."""


def energy_and_gradients(
    model: Callable[[Graph], AtomicOutput], graph: Graph, *, create_graph: bool = False
) -> Prediction:
    """Evaluate ``model`` and differentiate once by the bond vectors.

    Forces and virial are sums over the same derivative. With ``create_graph`` they can be
    differentiated again (training).
    """
    with torch.enable_grad():
        edge_vector = graph.edge_vector.detach().requires_grad_(True)
        graph = graph._replace(edge_vector=edge_vector)
        output = model(graph)
        (gradient,) = torch.autograd.grad(output.energy.sum(), edge_vector, create_graph=create_graph)
    forces = forces_from_edges(gradient, graph)
    virial = virial_from_edges(gradient, graph)
    energy = sum_structures(output.energy, graph)
    prediction = Prediction(energy, forces, virial, output.energy, output.features)
    if create_graph:
        return prediction
    return Prediction(*(value.detach() for value in prediction))
