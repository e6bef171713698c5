"""Rows of the linear problem: what energies, forces and virials are, coefficient by coefficient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gace.linear.model import LinearACE
from gace.structures.graph import Graph, forces_from_edges, sum_structures, virial_from_edges

BLOCK_NUMBERS = 8_000_000
"""Derivatives of atoms by bonds and by atomic bases formed at once."""


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
        graph: the structures; what is returned has ``3 N · Z n_B`` numbers for the forces.
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
    force_rows = torch.zeros(graph.n_atoms * n_elements, 3, n_invariants, dtype=edges.dtype)
    strain_rows = torch.zeros(graph.n_structures * n_elements, 3, 3, n_invariants, dtype=edges.dtype)
    neighbours = model.neighbour_species(graph)
    for block in _blocks(graph, model):
        species, target = graph.species[block], graph.neighbour[block]
        gradient = _edge_gradient(model, species, neighbours[block], edges[block], base[:, block])
        if forces:
            # the invariants belong to the element of their atom, whoever feels the force
            element = species.unsqueeze(1).expand_as(target)
            place = (target * n_elements + element).reshape(-1)
            force_rows.index_add_(0, place, gradient.flatten(0, 1), alpha=-1.0)
            force_rows.index_add_(0, atoms[block] * n_elements + species, gradient.sum(1))
        if virial:
            per_atom = torch.einsum("nja,njbq->nabq", edges[block], gradient)
            place = graph.structure[block] * n_elements + species
            strain_rows.index_add_(0, place, 0.5 * (per_atom + per_atom.transpose(1, 2)))
    return Design(
        energy,
        _columns(force_rows, graph.n_atoms) if forces else None,
        _columns(strain_rows, graph.n_structures) if virial else None,
        *fixed,
    )


def _columns(rows: Tensor, n: int) -> Tensor:
    """``(n Z, …, n_B) -> (n, …, Z n_B)``."""
    apart = rows.view(n, -1, *rows.shape[1:])
    return apart.movedim(1, -2).flatten(-2)


def _blocks(graph: Graph, model: LinearACE) -> list[slice]:
    """Atoms whose derivatives are held at once."""
    per_atom = (3 * graph.neighbour.shape[1] + model.products.n_base) * len(model.invariants)
    size = max(1, BLOCK_NUMBERS // max(per_atom, 1))
    return [slice(start, start + size) for start in range(0, graph.n_atoms, size)]


def _edge_gradient(
    model: LinearACE, species: Tensor, neighbours: Tensor, edges: Tensor, base: Tensor
) -> Tensor:
    """Derivative of every invariant of some atoms by each of their bond vectors ``(N, J, 3, n_B)``, 1/Å."""
    tangents = []
    for axis in range(3):
        direction = torch.zeros_like(edges)
        direction[..., axis] = 1.0

        def contributions(edge_vector: Tensor) -> Tensor:
            bonds = model.functions_of(species, neighbours, edge_vector)
            return bonds.radial[..., model.radial_index] * bonds.harmonics[..., model.angular_index]

        tangents.append(torch.func.jvp(contributions, (edges,), (direction,))[1])
    slope = torch.stack(tangents, 2) * model.stretch[species][:, None, None]  # (N, J, 3, n_A)
    n_atoms, slots = neighbours.shape
    jacobian = model.products.jacobian(base)  # (N, n_A, n_B)
    return (slope.flatten(1, 2) @ jacobian).view(n_atoms, slots, 3, -1)


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
