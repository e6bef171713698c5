"""Weighted Clebsch–Gordan products as an operator that can be differentiated twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gace.potential.kernels.calls import call, folded, fused, implement, no_third_derivative, operators
from gace.potential.kernels.cuda.written import register
from gace.potential.kernels.terms import Terms, by_chunk, by_role

_TABLES = "Tensor species, Tensor index, Tensor value, int[] size"
_IN = f"Tensor x, Tensor y, Tensor w, {_TABLES}"
operators.define(f"coupling({_IN}, bool equal) -> Tensor")
_WANTED = "bool equal, bool of_y, bool of_w"
operators.define(f"coupling_backward(Tensor g, {_IN}, {_WANTED}) -> (Tensor, Tensor, Tensor)")
operators.define(
    f"coupling_twice(Tensor g, {_IN}, Tensor a, Tensor b, {_WANTED}) -> (Tensor, Tensor, Tensor, Tensor)"
)


class WeightedCoupling(nn.Module):
    """``out[target(r)] += w[path(r), z] · Σ_ij C[r, i, j] x[i] y[j]`` for every atom (element z) and channel.

    No row r is ever stored: the cost is that of the nonzero coefficients.

    Args:
        coefficients: C ``(rows, dim_x, dim_y)``, or what of it is not zero.
        path: row of the weights for each row of C.
        target: row of the result for each row of C.
        targets: number of rows of the result.
        equal: x and y are the same array.
    """

    def __init__(
        self,
        coefficients: np.ndarray | Terms,
        path: Sequence[int],
        target: Sequence[int],
        *,
        targets: int,
        equal: bool,
    ) -> None:
        super().__init__()
        terms = coefficients if isinstance(coefficients, Terms) else Terms.of(coefficients)
        (where, value, sizes), self.equal = terms, equal
        owners = np.asarray(path, dtype=np.int64), np.asarray(target, dtype=np.int64)
        paths = max(path, default=-1) + 1
        index, values, widest = by_chunk(where, value, owners)
        self.size = [sizes[0], paths, *sizes[1:], targets, len(value), *map(len, index), widest]
        # the last number is for the GPU: which product it is
        self.size.append(register(where, value, owners, (paths, *sizes[1:], targets), equal))
        of_gpu = by_role(where, value, owners, (targets, paths, *sizes[1:]), equal)
        index, values = index + of_gpu[0], values + of_gpu[1]
        self.register_buffer(
            "index", torch.from_numpy(np.concatenate(index).astype(np.int32)), persistent=False
        )
        self.register_buffer("value", torch.from_numpy(np.concatenate(values)), persistent=False)

    def forward(self, x: Tensor, y: Tensor, w: Tensor, species: Tensor) -> Tensor:
        """``(N, dim_x, K), (N, dim_y, K), (paths, n_elements, K), (N,) -> (N, targets, K)``."""
        out: Tensor = torch.ops.gace.coupling(x, y, w, species, self.index, self.value, self.size, self.equal)
        return out


def _sizes(size: list[int], w: Tensor, species: Tensor) -> list[int]:
    """What C needs: sizes of the tables, number of atoms, channels and elements."""
    return [*size[:-1], species.shape[0], w.shape[2], w.shape[1]]


def forward(*arguments: Any) -> Tensor:
    """What the operator ``gace::coupling`` does, without recording it."""
    x, y, w, species, index, value = (one.contiguous() for one in arguments[:-2])
    size = arguments[-2]
    if gpu := fused("coupling", x):
        return gpu.forward(x, y, w, species, index, value, *arguments[-2:])
    out = x.new_empty(x.shape[0], size[4], x.shape[2])
    call("coupling_forward", x.dtype, index, value, _sizes(size, w, species), species, x, y, w, out)
    return out


def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator ``gace::coupling_backward`` does, without recording it."""
    g, x, y, w, species, index, value = (one.contiguous() for one in arguments[:-4])
    size, *wanted = arguments[-4:]
    if gpu := fused("coupling", x):
        return gpu.backward(g, x, y, w, species, index, value, size, *wanted)
    slopes = _slopes(x, y, w, *wanted)
    of_x, of_y, slope = (one if one.numel() else None for one in slopes)
    of_y = of_x if wanted[0] else of_y
    call(
        "coupling_backward", x.dtype, index, value, _sizes(size, w, species), species,
        g, x, y, w, slope, of_x, of_y,
    )  # fmt: skip
    return slopes


def _twice(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g, x, y, w, species, index, value = (one.contiguous() for one in arguments[:-6])
    size, *_, equal, of_y, of_w = arguments[-6:]
    a, b = (one.contiguous() for one in arguments[-5:-3])
    if gpu := fused("coupling", x):
        return gpu.twice(g, x, y, w, species, index, value, size, a, b, equal, of_y, of_w)
    # the processor's kernel has the weights' slope in passing
    of_g, (of_x, of_y, slope) = _like(g), _slopes(x, y, w, equal, of_y, True)
    call(
        "coupling_twice", x.dtype, index, value, _sizes(size, w, species), species,
        g, x, y, w, a, b, of_g, slope, of_x,
        of_x if equal else of_y if of_y.numel() else None,
    )  # fmt: skip
    return of_g, of_x, of_y, slope if of_w else x.new_empty(0)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _slopes(
    x: Tensor, y: Tensor, w: Tensor, equal: bool, of_y: bool, of_w: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the derivatives by x, y (none for equal factors) and w (only if wanted)."""
    # PyTorch forbids an operator to return one tensor twice, even an empty one
    return (
        _like(x),
        _like(y) if of_y and not equal else x.new_empty(0),
        _like(w) if of_w else x.new_empty(0),
    )


def _fake_backward(g: Tensor, x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _slopes(x, y, w, *rest[-3:])


def _fake_twice(g: Tensor, x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _like(g), *_slopes(x, y, w, *rest[-3:])


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:-2])
    ctx.size, ctx.equal = inputs[-2:]


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*inputs[:-4])
    ctx.size, ctx.equal, ctx.of_y, ctx.of_w = inputs[-4:]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    pass


def _asked_for(node: Any) -> bool:
    """Whether the derivative that goes to ``node`` is used: forces are no derivative by the weights."""
    if node is None or node.name().endswith("AccumulateGrad"):  # the engine does not tell of leaves
        return node is not None
    return bool(torch._C._will_engine_execute_node(node))


def _of_forward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    of_y = ctx.needs_input_grad[1] and not ctx.equal
    of_w = ctx.needs_input_grad[2] and _asked_for(ctx.next_functions[2][0])
    x, y, w = torch.ops.gace.coupling_backward(g, *ctx.saved_tensors, ctx.size, ctx.equal, of_y, of_w)
    return (x, y if of_y else None, w if of_w else None, *[None] * 5)


def _of_backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
    g, x, y, _w, *tables = ctx.saved_tensors
    size, equal, of_y, of_w = ctx.size, ctx.equal, ctx.of_y, ctx.needs_input_grad[3]
    b = a if equal else b if of_y else torch.zeros_like(y)
    of_g, of_x, slope_y, slope = torch.ops.gace.coupling_twice(
        *ctx.saved_tensors, size, a, b, equal, of_y, of_w
    )
    if ctx.of_w:  # the derivative by the weights is a product of the same kind, with c in their place
        of_g = of_g + torch.ops.gace.coupling(x, y, c, *tables, size, equal)
        more_x, more_y, _ = torch.ops.gace.coupling_backward(g, x, y, c, *tables, size, equal, of_y, False)
        of_x = of_x + more_x
        slope_y = slope_y + more_y if of_y else slope_y
    return (of_g, of_x, slope_y if of_y else None, slope if of_w else None, *[None] * 7)


def _over_members(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    """The products for several potentials at once: members have weights of their own, as elements have."""
    members, (x, y, w, species, index, value, size, equal) = info.batch_size, arguments
    weights = w.expand(members, *w.shape) if dims[2] is None else w.movedim(dims[2], 0)
    own = folded(species, dims[3], members)
    own = own + (torch.arange(members, device=own.device) * weights.shape[2]).repeat_interleave(
        len(own) // members
    )
    found = torch.ops.gace.coupling(
        folded(x, dims[0], members),
        folded(y, dims[1], members),
        weights.transpose(0, 1).flatten(1, 2),
        own,
        index,
        value,
        size,
        equal,
    )
    return found.unflatten(0, (members, -1)), 0


implement("coupling", forward)
implement("coupling_backward", backward)
implement("coupling_twice", _twice)
_register = dict(lib=operators)
torch.library.register_fake(
    "gace::coupling", lambda x, *rest: x.new_empty(x.shape[0], rest[-2][4], x.shape[2]), **_register
)
torch.library.register_fake("gace::coupling_backward", _fake_backward, **_register)
torch.library.register_fake("gace::coupling_twice", _fake_twice, **_register)
torch.library.register_autograd("gace::coupling", _of_forward, setup_context=_keep_forward, **_register)
torch.library.register_autograd(
    "gace::coupling_backward", _of_backward, setup_context=_keep_backward, **_register
)
torch.library.register_autograd("gace::coupling_twice", no_third_derivative, setup_context=_keep, **_register)
torch.library.register_vmap("gace::coupling", _over_members, **_register)
