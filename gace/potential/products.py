"""Products of densities by the kernels: what a layer needs of them, and nothing in between.

The rows of a coupling are needed in three sums only: the scalars among them, the sum over paths that
enters higher products, and the sum over paths that enters the message. Each is one
:class:`gace.potential.kernels.WeightedCoupling`, so that no row is written to memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gace.potential.coupling import Coupling, Rows
from gace.potential.irreps import SCALAR, Irreps
from gace.potential.kernels import WeightedCoupling

if TYPE_CHECKING:
    from gace.potential.layer import Layer

_FACTORS = {"pair": ("density", "density"), "triple": ("mixed", "density"), "quadruple": ("mixed", "mixed")}


class SparseProducts(nn.Module):
    """Invariants and sum over paths of a layer's products; tables only, the parameters are the layer's.

    Args:
        couplings: the layer's, by name.
        scalar_rows: number of scalar rows of the density and of each coupling.
        message_rows: number of rows that enter the message, likewise; zeros if there is no message.
        outgoing: irreps of the message; None if there is none.
        density: irreps of the density.
    """

    def __init__(
        self,
        couplings: dict[str, Coupling],
        scalar_rows: list[int],
        message_rows: list[int],
        outgoing: Irreps | None,
        density: Irreps,
    ) -> None:
        super().__init__()
        self.scalars, self.outgoing = dict(zip(["density", *couplings], scalar_rows, strict=True)), outgoing
        self.products = nn.ModuleDict()
        self.paths: dict[str, slice] = {}
        """Which weights of the message belong to the density and to each coupling."""
        start = 0
        if outgoing is not None:
            rows = Rows.joined(outgoing, [(density, [1] * len(density))])
            self.paths["density"], start = slice(0, rows.n_paths), rows.n_paths
            self.register_buffer("density_path", torch.tensor(rows.path), persistent=False)
            self.register_buffer("density_target", torch.tensor(rows.target), persistent=False)
            self.density_rows, self.direct = message_rows[0], rows.target == list(range(rows.dim))
        for (name, coupling), n_scalar, n_message in zip(
            couplings.items(), scalar_rows[1:], message_rows[1:], strict=True
        ):
            counts = [len(paths) for paths in coupling.paths]
            stack = _Stack(coupling)
            if name == "pair" and len(couplings) > 1:
                stack.add(Rows.of(coupling.out, counts), len(coupling.matrix))
            stack.add(Rows.of(Irreps([SCALAR]), [n_scalar]), n_scalar, apart=True)
            if outgoing is not None:
                rows = Rows.joined(outgoing, [(coupling.out, counts)])
                self.paths[name], start = slice(start, start + rows.n_paths), start + rows.n_paths
                stack.add(rows, n_message)
            self.products[name] = stack.product()
            self.register_buffer(f"{name}_first", torch.tensor(stack.first), persistent=False)

    def forward(self, layer: Layer, density: Tensor, species: Tensor) -> tuple[Tensor, Tensor | None]:
        """Invariants ``(n_scalar, N, K)`` and sum over the paths of the message ``(dim, N, K)``."""
        factors = {"density": density}
        invariants = [density[: self.scalars["density"]]]
        of_message = message = None
        if self.outgoing is not None:
            of_message = layer.message_weights.index_select(1, species)
            message = self._of_density(density, of_message[self.paths["density"]])
        for name, coupling in layer.couplings.items():
            n_scalar = self.scalars[name]
            weights = [density.new_ones(1, 1, 1).expand(n_scalar, *density.shape[1:])]
            mixed = name == "pair" and len(layer.couplings) > 1
            if mixed:
                weights.insert(0, layer.pair_weights.index_select(1, species))
            if of_message is not None:
                weights.append(of_message[self.paths[name]])
            scale = coupling.scale.index_select(0, getattr(self, f"{name}_first")).unsqueeze(2)
            x, y = (factors[one] for one in _FACTORS[name])
            found = self.products[name](x, y, torch.cat(weights) * scale)
            n_mixed = 0
            if mixed:
                n_mixed = coupling.out.dim
                factors["mixed"] = found[:n_mixed]
            invariants.append(found[n_mixed : n_mixed + n_scalar])
            if message is not None:
                message = message + found[n_mixed + n_scalar :]
        return torch.cat(invariants), message

    def _of_density(self, density: Tensor, weight: Tensor) -> Tensor:
        assert self.outgoing is not None
        rows = density[: self.density_rows] * weight.index_select(0, self.density_path)
        if self.direct:
            return rows
        return rows.new_zeros(self.outgoing.dim, *rows.shape[1:]).index_add(0, self.density_target, rows)


class _Stack:
    """Several sums over the first rows of one coupling, one below the other."""

    def __init__(self, coupling: Coupling) -> None:
        full = np.zeros((coupling.matrix.shape[0], coupling.left.dim, coupling.right.dim))
        full[:, coupling.index_left.numpy(), coupling.index_right.numpy()] = coupling.matrix.numpy()
        self.coefficients, self.equal = full, coupling.symmetric
        self.parts: list[np.ndarray] = []
        self.path: list[int] = []
        self.target: list[int] = []
        self.first: list[int] = []
        """Row of the coupling at which the scale of each path is read."""
        self.targets = 0

    def add(self, rows: Rows, count: int, *, apart: bool = False) -> None:
        """A sum over the first ``count`` rows; ``apart``: each row stays alone."""
        target, dim = (rows.path, rows.n_paths) if apart else (rows.target, rows.dim)
        self.path += [len(self.first) + path for path in rows.path]
        self.target += [self.targets + one for one in target]
        self.first += [rows.path.index(path) for path in range(rows.n_paths)]
        self.targets += dim
        self.parts.append(self.coefficients[:count])

    def product(self) -> WeightedCoupling:
        """All sums at once."""
        return WeightedCoupling(
            np.concatenate(self.parts), self.path, self.target, targets=self.targets, equal=self.equal
        )
