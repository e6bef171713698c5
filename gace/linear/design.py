"""Rows of the linear problem: what energies, forces and virials are, coefficient by coefficient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gace.linear.model import LinearACE
from gace.structures.graph import Graph, forces_from_edges, sum_structures, virial_from_edges


class Design(NamedTuple):
    """Linear maps from the ``C = Z · n_B`` coefficients (element by element), and what is not fitted."""

    energy: Tensor
    """eV ``(B, C)``."""
    forces: Tensor | None
    """eV/Å ``(N, 3, C)``."""
    virial: Tensor | None
    """eV ``(B, 3, 3, C)``."""
    fixed_energy: Tensor
    """eV ``(B,)``."""
    fixed_forces: Tensor
    """eV/Å ``(N, 3)``."""
    fixed_virial: Tensor
    """eV ``(B, 3, 3)``."""


def design(model: LinearACE, graph: Graph, *, forces: bool = True, virial: bool = False) -> Design:
    """The rows of some structures, exact derivatives included.

    Args:
        model: gives the basis and the part that is not fitted; its coefficients play no role.
        graph: the structures; memory grows as ``12 N J · n_B`` numbers.
        forces: whether to derive force rows.
        virial: whether to derive virial rows.
    """
    edges = graph.edge_vector.detach()
    bonds = model.bond_functions(graph, edges)
    base = model.atomic_base(bonds, graph)
    invariants = model.products(base) - model.at_rest()[:, graph.species]  # (n_B, N)
    n_elements, n_invariants = len(model.elements), len(model.invariants)
    of_element = torch.zeros(graph.n_atoms, n_elements, n_invariants, dtype=edges.dtype)
    atoms = torch.arange(graph.n_atoms)
    of_element[atoms, graph.species] = invariants.T
    energy = sum_structures(of_element, graph).flatten(1)
    fixed = _fixed(model, graph)
    if not (forces or virial):
        return Design(energy, None, None, *fixed)
    gradient = _edge_gradient(model, graph, base)  # (N, J, 3, n_B)
    force_rows = _force_rows(gradient, graph, n_elements) if forces else None
    virial_rows = None
    if virial:
        per_atom = torch.einsum("nja,njbq->nabq", edges, gradient)
        per_atom = 0.5 * (per_atom + per_atom.transpose(1, 2))
        spread = torch.zeros(
            graph.n_structures * n_elements, *per_atom.shape[1:], dtype=edges.dtype
        ).index_add(0, graph.structure * n_elements + graph.species, per_atom)
        rows = spread.view(graph.n_structures, n_elements, 3, 3, n_invariants)
        virial_rows = rows.permute(0, 2, 3, 1, 4).flatten(3)
    return Design(energy, force_rows, virial_rows, *fixed)


def _edge_gradient(model: LinearACE, graph: Graph, base: Tensor) -> Tensor:
    """Derivative of every invariant of an atom by each of its bond vectors ``(N, J, 3, n_B)``, 1/Å."""
    tangents = []
    for axis in range(3):
        direction = torch.zeros_like(graph.edge_vector)
        direction[..., axis] = 1.0

        def contributions(edge_vector: Tensor) -> Tensor:
            bonds = model.bond_functions(graph, edge_vector)
            return bonds.radial[..., model.radial_index] * bonds.harmonics[..., model.angular_index]

        tangents.append(torch.func.jvp(contributions, (graph.edge_vector,), (direction,))[1])
    slope = torch.stack(tangents, 2) * model.stretch[graph.species][:, None, None]  # (N, J, 3, n_A)
    n_atoms, slots = graph.neighbour.shape

    def push(tangent: Tensor) -> Tensor:
        return torch.func.jvp(model.products, (base,), (tangent,))[1]

    if 3 * slots <= model.products.n_base:
        directions = slope.permute(1, 2, 3, 0).flatten(0, 1).contiguous()  # (3J, n_A, N)
        found = torch.func.vmap(push)(directions)  # (3J, n_B, N)
        return found.view(slots, 3, -1, n_atoms).permute(3, 0, 1, 2)
    # many neighbours: the derivative by the atomic base once, the chain rule as a matrix product
    identity = torch.eye(model.products.n_base, dtype=base.dtype)
    directions = identity.unsqueeze(-1).expand(-1, -1, n_atoms).contiguous()
    jacobian = torch.func.vmap(push)(directions).permute(2, 0, 1)  # (N, n_A, n_B)
    return (slope.flatten(1, 2) @ jacobian).view(n_atoms, slots, 3, -1)


def _force_rows(gradient: Tensor, graph: Graph, n_elements: int) -> Tensor:
    """Forces from the derivatives by bond vectors ``(N, J, 3, n_B) -> (N, 3, Z n_B)``."""
    n_atoms, n_invariants = graph.n_atoms, gradient.shape[-1]
    rows = gradient.new_zeros(n_atoms * n_elements, 3, n_invariants)
    element = graph.species.unsqueeze(1).expand_as(graph.neighbour)
    rows.index_add_(
        0, (graph.neighbour * n_elements + element).reshape(-1), gradient.flatten(0, 1), alpha=-1.0
    )
    rows.index_add_(0, torch.arange(n_atoms) * n_elements + graph.species, gradient.sum(1))
    return rows.view(n_atoms, n_elements, 3, n_invariants).transpose(1, 2).flatten(2)


def _fixed(model: LinearACE, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Energy ``(B,)``, forces ``(N, 3)`` and virial ``(B, 3, 3)`` of what is not fitted."""
    with torch.enable_grad():
        edges = graph.edge_vector.detach().requires_grad_(True)
        moved = graph._replace(edge_vector=edges)
        energy = model.fixed_energy(moved, edges, model.bond_functions(moved, edges).coordination)
        (gradient,) = torch.autograd.grad(energy.sum(), edges)
    return (
        sum_structures(energy.detach(), graph),
        forces_from_edges(gradient, graph),
        virial_from_edges(gradient, graph),
    )
