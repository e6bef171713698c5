"""The members of a kept potential: graph ACEs of several seeds, and beside them a linear ACE or none."""

from __future__ import annotations

from collections.abc import Sequence

from gace import Potential
from gace.errors import InputError
from gace.linear.model import LinearACE
from gace.potential import combine


def by_seed(potential: Potential) -> list[Potential]:
    """What each seed would have given: one graph ACE in the place of all, and what stands beside them."""
    fixed, graph, share = _parts(potential)
    return [_joined([*fixed, (one, share)]) for one in graph]


def with_more(potential: Potential, more: Sequence[Potential]) -> Potential:
    """Graph ACEs of more seeds beside those there are; they share the weight that these have, each alike.

    Raises:
        InputError: one of them has the seed of another, and would count twice.
    """
    fixed, graph, share = _parts(potential)
    seeds = [one.members[0].hyperparameters()["seed"] for one in (*graph, *more)]
    if len(set(seeds)) < len(seeds):
        raise InputError("two of these graph ACEs have the same seed: add seeds that are not kept yet")
    several = [*graph, *more]
    return _joined([*fixed, *((one, share / len(several)) for one in several)])


def _parts(potential: Potential) -> tuple[list[tuple[Potential, float]], list[Potential], float]:
    """Members that no seed changes with their weights, the graph ACEs, and the weight of these in all."""
    told = potential.metadata.get("combined") or [potential.metadata]
    if len(told) != len(potential.members):
        told = [potential.metadata] * len(potential.members)
    fixed: list[tuple[Potential, float]] = []
    graph: list[Potential] = []
    share = 0.0
    for member, weight, metadata in zip(potential.members, potential.weights, told, strict=True):
        alone = Potential(
            [member],
            isolated_atom_energies=potential.isolated_atom_energies,
            level_of_theory=potential.level_of_theory,
            metadata=metadata,
        )
        if isinstance(member, LinearACE):
            fixed.append((alone, weight))
        else:
            graph.append(alone)
            share += weight
    return fixed, graph, share


def _joined(parts: Sequence[tuple[Potential, float]]) -> Potential:
    if len(parts) == 1:
        return parts[0][0]
    potentials, weights = zip(*parts, strict=True)
    return combine(potentials, weights)
