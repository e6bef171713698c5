"""Which structures an epoch visits, and in which batches: a function of seed and epoch, without state."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gace.randomness import generator
from gace.training.batches import balanced_batches, epoch_order
from gace.training.config import TrainConfig


class Sampler:
    """Batches of each epoch: all new structures, and a fresh draw of those that are replayed.

    Args:
        sizes: number of atoms of each structure ``(n,)``, the new ones first.
        config: the whole configuration.
        n_new: number of new structures.
    """

    def __init__(self, sizes: Tensor, config: TrainConfig, n_new: int) -> None:
        self.sizes, self.seed, self.n_new = sizes, config.seed, n_new
        self.n_old = len(sizes) - n_new
        self.n_replayed = 0
        if config.data.replay is not None and self.n_old:
            share = config.data.replay.fraction
            self.n_replayed = min(self.n_old, max(1, round(share / (1 - share) * n_new)))
        visited = n_new + self.n_replayed
        settings = config.training
        self.by_atoms = settings.batch_atoms is not None
        if settings.batch_atoms is None:
            self.steps_per_epoch = math.ceil(visited / settings.batch_size)
        else:
            atoms = float(sizes[:n_new].sum())
            if self.n_replayed:
                atoms += float(sizes[n_new:].double().mean()) * self.n_replayed
            self.steps_per_epoch = min(visited, math.ceil(atoms / settings.batch_atoms))

    def batches(self, epoch: int) -> list[Tensor]:
        """Indices of each batch of an epoch; batches differ little in structures, or in atoms."""
        order = epoch_order(self.n_new + self.n_replayed, self.seed, epoch)
        if self.n_replayed:
            draw = generator(self.seed, "replay", epoch).permutation(self.n_old)[: self.n_replayed]
            visited = torch.cat([torch.arange(self.n_new), self.n_new + torch.from_numpy(draw)])
            order = visited[order]
        if self.by_atoms:
            return balanced_batches(order, self.sizes, self.steps_per_epoch)
        return list(torch.tensor_split(order, self.steps_per_epoch))
