"""Neighbour search in PyTorch operations, for positions that live on a GPU.

The same edges in the same order as :func:`gace.structures.neighbours.find_edges`, by cells: periodic images
within the cutoff of the cell are made explicit, all points are sorted into boxes of the cutoff's size, and
each atom looks into the 27 boxes around it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gace.errors import InputError


class DeviceEdges(NamedTuple):
    """Directed edges ordered by centre, neighbour and image, on the device of the positions."""

    centre: Tensor
    """Atom at the origin of the edge ``(E,)``."""

    neighbour: Tensor
    """Atom at its end ``(E,)``."""

    image: Tensor
    """Cell of the neighbour relative to the centre's, in lattice vectors ``(E, 3)``."""


def search(positions: Tensor, cell: Tensor, periodic: tuple[bool, bool, bool], cutoff: float) -> DeviceEdges:
    """All pairs less than ``cutoff`` (Å) apart, both directions, all periodic images.

    Args:
        positions: Å ``(N, 3)``; compared in double precision.
        cell: lattice vectors as rows, Å ``(3, 3)``; of full rank, also where it is not periodic.
        periodic: along each of them.
        cutoff: Å.

    Raises:
        InputError: a position is not finite.
    """
    positions, cell = positions.double(), cell.double()
    if not bool(torch.isfinite(positions).all()):
        raise InputError("a position is NaN or infinite")
    along = torch.tensor(periodic, device=positions.device)
    inverse = torch.linalg.inv(cell)
    fractional = positions @ inverse
    home = torch.where(along, fractional.floor(), 0.0)  # the cell each atom is in
    points, owner, image = _with_images((fractional - home), cell, inverse, along, cutoff)
    centre, point = _close_pairs(points, len(positions), cutoff)
    neighbour = owner[point]
    cells = (image[point] + home[centre] - home[neighbour]).long()
    order = _order(centre, neighbour, cells, len(positions))
    return DeviceEdges(centre[order], neighbour[order], cells[order])


def _with_images(
    fractional: Tensor, cell: Tensor, inverse: Tensor, along: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The atoms, then their images within ``cutoff`` of the cell: positions, atoms, and cells they are in."""
    # distance between opposite faces is one over the length of the reciprocal vector
    reach = cutoff * inverse.norm(dim=0) * along
    counts = reach.ceil().long().tolist()
    device = fractional.device
    shifts = torch.cartesian_prod(*(torch.arange(-n, n + 1, device=device) for n in counts)).view(-1, 3)
    shifts = shifts[shifts.any(dim=1)].double()
    found = [fractional], [torch.arange(len(fractional), device=device)], [torch.zeros_like(fractional)]
    for shift in shifts.split(64):
        moved = fractional[None] + shift[:, None]
        near = (((moved > -reach) & (moved < 1 + reach)) | ~along).all(dim=2)
        which, atom = near.nonzero(as_tuple=True)
        for target, value in zip(found, (moved[which, atom], atom, shift[which]), strict=True):
            target.append(value)
    points, owner, image = (torch.cat(one) for one in found)
    return points @ cell, owner, image


def _close_pairs(points: Tensor, n_atoms: int, cutoff: float) -> tuple[Tensor, Tensor]:
    """Pairs of an atom (one of the first ``n_atoms`` points) and another point closer than ``cutoff``."""
    device = points.device
    low = points.min(dim=0).values
    # no more boxes than points along any direction, however far apart fragments are
    side = ((points.max(dim=0).values - low) / max(1.0, len(points))).clamp(min=cutoff)
    box = ((points - low) / side).long() + 1
    strides = box.max(dim=0).values + 2
    number = (box[:, 0] * strides[1] + box[:, 1]) * strides[2] + box[:, 2]
    number, order = number.sort()
    step = torch.arange(-1, 2, device=device)
    around = torch.cartesian_prod(step, step, step)
    offset = (around[:, 0] * strides[1] + around[:, 1]) * strides[2] + around[:, 2]
    own = (box[:n_atoms, 0] * strides[1] + box[:n_atoms, 1]) * strides[2] + box[:n_atoms, 2]
    wanted = (own[:, None] + offset).reshape(-1)
    first = torch.searchsorted(number, wanted)
    count = torch.searchsorted(number, wanted, right=True) - first
    centres, others = [], []
    # a part of the atoms at a time: candidates are about six times the neighbours
    per_part = max(1, (1 << 24) // max(1, math.ceil(27 * float(count.double().mean()))))
    for start in range(0, n_atoms, per_part):
        part = slice(27 * start, 27 * min(start + per_part, n_atoms))
        of_slot = count[part]
        slot = torch.repeat_interleave(of_slot)
        place = (
            torch.arange(len(slot), device=device) - (of_slot.cumsum(0) - of_slot)[slot] + first[part][slot]
        )
        centre, other = start + slot // 27, order[place]
        near = (points[other] - points[centre]).square().sum(1) < cutoff**2
        near &= other != centre
        centres.append(centre[near])
        others.append(other[near])
    return torch.cat(centres), torch.cat(others)


def _order(centre: Tensor, neighbour: Tensor, image: Tensor, n_atoms: int) -> Tensor:
    """Permutation that sorts by centre, neighbour and image."""
    if len(centre) == 0:
        return centre
    low = image.min(dim=0).values
    span = (image.max(dim=0).values - low + 1).tolist()
    key = centre * n_atoms + neighbour
    for axis in range(3):
        key = key * span[axis] + (image[:, axis] - low[axis])
    return key.argsort()
