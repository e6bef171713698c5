"""The loss: energy per atom (eV), force components (eV/Å) and virial per atom (eV), each averaged.

Every term is a mean over the labels that are there, so weights keep their meaning whatever the
batch; the weights 1 and 10 balance energies and forces for small data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gace.potential.graph_ace import AtomicOutput
from gace.structures.graph import Graph, forces_from_edges, sum_structures, virial_from_edges
from gace.training.batches import Batch


class Weights(NamedTuple):
    """Weight of each term; a term of weight zero is not computed."""

    energy: float
    forces: float
    stress: float


class Residuals(NamedTuple):
    """Prediction minus label; NaN where the label is missing, None where not computed."""

    energy_per_atom: Tensor | None
    """eV ``(B,)``."""
    forces: Tensor | None
    """eV/Å ``(N, 3)``."""
    virial_per_atom: Tensor | None
    """eV ``(B, 3, 3)``."""


def residuals(
    model: Callable[[Graph], AtomicOutput], batch: Batch, *, forces: bool, stress: bool, create_graph: bool
) -> Residuals:
    """Predict and compare; one forward pass, and one derivative if forces or stress are wanted.

    Args:
        model: the potential, without isolated-atom energies.
        batch: structures and labels.
        forces: whether to compare forces.
        stress: whether to compare virials.
        create_graph: whether the residuals are to be differentiated by the parameters.
    """
    graph = batch.graph
    derive = forces or stress
    if derive:
        graph = graph._replace(edge_vector=graph.edge_vector.detach().requires_grad_(True))
    with torch.set_grad_enabled(derive or create_graph):
        atomic = model(graph).energy
        energy = (sum_structures(atomic, graph) - batch.energy) / batch.n_atoms
        if not derive:
            return Residuals(energy, None, None)
        (gradient,) = torch.autograd.grad(atomic.sum(), graph.edge_vector, create_graph=create_graph)
        force = forces_from_edges(gradient, graph) - batch.forces if forces else None
        virial = None
        if stress:
            virial = (virial_from_edges(gradient, graph) - batch.virial) / batch.n_atoms[:, None, None]
    return Residuals(energy, force, virial)


def penalty(kind: str, delta: float) -> Callable[[Tensor], Tensor]:
    """The function of a residual that is averaged: ``square``, ``huber`` or ``mae``.

    Huber is ``x²/2`` up to ``delta`` and ``delta (|x| - delta/2)`` beyond, divided by ``delta/2`` so that
    large residuals cost about ``2|x|`` whatever ``delta``.
    """
    if kind == "square":
        return torch.square
    if kind == "mae":
        return torch.abs

    def huber(x: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=delta) * (
            2 / delta
        )

    return huber


def mean_known(kind: Callable[[Tensor], Tensor], residual: Tensor, label: Tensor, complete: bool) -> Tensor:
    """Mean penalty over the residuals whose label is there; zero if there are none.

    The labels decide, not the residuals: a NaN that the model predicts must be seen.
    """
    if complete:
        return kind(residual).mean()
    known = ~torch.isnan(label)
    return kind(torch.where(known, residual, 0.0)).sum() / known.sum().clamp(min=1)


def loss_terms(
    model: Callable[[Graph], AtomicOutput],
    batch: Batch,
    weights: Weights,
    kind: Callable[[Tensor], Tensor],
    complete: bool,
    present: Weights | None = None,
) -> Tensor:
    """Weighted loss and its three unweighted terms (energy, forces, stress) ``(4,)``, differentiable.

    Args:
        model: the potential.
        batch: structures and labels.
        weights: of the terms; the derivatives are taken only if forces or stress weigh something.
        kind: as :func:`penalty` gives it.
        complete: True if no energy or force label of the data set is missing.
        present: which terms are computed, where ``weights`` are tensors that cannot be looked at.
    """
    present = present or weights
    found = residuals(model, batch, forces=present.forces > 0, stress=present.stress > 0, create_graph=True)
    zero = batch.energy.new_zeros(())
    energy, forces, stress = (
        zero if residual is None else mean_known(kind, residual, label, whole)
        for residual, label, whole in (
            (found.energy_per_atom, batch.energy, complete),
            (found.forces, batch.forces, complete),
            (found.virial_per_atom, batch.virial, False),
        )
    )
    total = weights.energy * energy + weights.forces * forces + weights.stress * stress
    return torch.stack([total, energy, forces, stress])
