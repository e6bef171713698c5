"""The loss: energy per atom (eV), force components (eV/Å) and virial per atom (eV), each averaged.

Every term is a mean over the labels that are there, each times its structure's weight, so the
weights of the terms keep their meaning whatever the batch; the weights 1 and 10 balance energies
and forces for small data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Penalty:
    """The function of a residual that is averaged.

    ``square``: x². ``mae``: |x|. ``huber``: ``x²/2`` up to ``delta`` and ``delta (|x| - delta/2)`` beyond,
    divided by ``delta/2`` so that large residuals cost about ``2|x|`` whatever ``delta``.
    ``conditional-huber``: the same, but for the force on an atom whose reference force is longer than
    ``large`` delta shrinks in proportion, to a tenth at least: the stronger the force, the less
    an error counts.

    Attributes:
        kind: one of these names.
        delta: residual where huber turns linear, eV or eV/Å.
        large: length of a force from which ``conditional-huber`` differs from ``huber``, eV/Å.
    """

    kind: str
    delta: float
    large: float = 10.0

    def __call__(self, x: Tensor, force: Tensor | None = None) -> Tensor:
        """Penalty of residuals of any shape; ``force`` ``(N, 3)``: the reference of force residuals."""
        if self.kind == "square":
            return x.square()
        size = x.abs()
        if self.kind == "mae":
            return size
        if self.kind == "huber" or force is None:
            return torch.where(size <= self.delta, x.square() / self.delta, 2 * size - self.delta)
        length = force.nan_to_num(0.0).square().sum(-1, keepdim=True).sqrt()
        delta = self.delta * (self.large / length.clamp(min=self.large)).clamp(min=0.1)
        return torch.where(size <= delta, x.square(), delta * (2 * size - delta)) / self.delta


def penalty(kind: str, delta: float, large: float = 10.0) -> Penalty:
    """See :class:`Penalty`."""
    return Penalty(kind, delta, large)


def mean_known(penalties: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of ``weight`` times penalty over the labels that are there; zero if there are none.

    Args:
        penalties: of the residuals, those without a label finite; any shape.
        label: same shape; NaN where missing. The labels decide, not the residuals: a NaN that the model
            predicts must be seen.
        weight: of each label, broadcast; None if all labels are there and count alike.
    """
    if weight is None:
        return penalties.mean()
    known = ~torch.isnan(label)
    return torch.where(known, penalties * weight, 0.0).sum() / known.sum().clamp(min=1)


def _of_forces(kind: Callable[[Tensor], Tensor], residual: Tensor, force: Tensor) -> Tensor:
    """Penalty of force residuals; plain functions know nothing of the reference forces."""
    return kind(residual, force) if isinstance(kind, Penalty) else kind(residual)


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
        complete: True if no energy or force label of the data set is missing, and all count alike.
        present: which terms are computed, where ``weights`` are tensors that cannot be looked at.
    """
    present = present or weights
    found = residuals(model, batch, forces=present.forces > 0, stress=present.stress > 0, create_graph=True)
    zero = batch.energy.new_zeros(())
    of_structure = batch.weight  # (B, 3)
    of_atom = of_structure[:, 1].index_select(0, batch.graph.structure)
    terms = []
    for residual, label, weight, whole, reference in (
        (found.energy_per_atom, batch.energy, of_structure[:, 0], complete, None),
        (found.forces, batch.forces, of_atom[:, None], complete, batch.forces),
        (found.virial_per_atom, batch.virial, of_structure[:, 2, None, None], False, None),
    ):
        if residual is None:
            terms.append(zero)
            continue
        # zero before the penalty: where() alone would let NaN into the gradient
        filled = residual if whole else torch.where(torch.isnan(label), 0.0, residual)
        values = kind(filled) if reference is None else _of_forces(kind, filled, reference)
        terms.append(mean_known(values, label, None if whole else weight))
    energy, forces, stress = terms
    total = weights.energy * energy + weights.forces * forces + weights.stress * stress
    return torch.stack([total, energy, forces, stress])
