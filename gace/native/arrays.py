"""A model as the arrays that compiled C++ takes: weights, tables, lists of products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gace.potential.graph_ace import GraphACE
from gace.potential.kernels.expansion import Expansion
from gace.potential.tables import RadialTable

if TYPE_CHECKING:
    from gace.linear.model import LinearACE

Arrays = dict[str, NDArray[Any]]

GRAPH, LINEAR = 0, 1
"""Kinds of models, as the C++ numbers them."""

TYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64"}
"""Names of types in the format safetensors and in the C++."""

_PER_COUPLING = 10
"""Numbers by which the kernels know a product."""


@torch.no_grad()
def arrays_of(model: nn.Module, tables: Sequence[RadialTable] | None) -> tuple[int, Arrays] | None:
    """Kind and arrays of a model as its parameters are now; None of an architecture that the C++ lacks.

    Args:
        model: on the processor, in single or double precision.
        tables: radial functions of a graph ACE; None where there are none, which gives None too.
    """
    if isinstance(model, GraphACE):
        return None if tables is None else (GRAPH, _graph(model, tables))
    # here, since what one kind of model needs is not to be in the memory of the other
    from gace.linear.model import LinearACE

    return (LINEAR, _linear(model)) if isinstance(model, LinearACE) else None


def _graph(model: GraphACE, tables: Sequence[RadialTable]) -> Arrays:
    dtype = next(model.parameters()).dtype
    inner, repulsion = model.inner is not None, model.repulsion is not None
    sizes = [len(model.layers), model.harmonics.l_max + 1, model.cutoff_power, int(repulsion), int(inner)]
    arrays: Arrays = {"sizes": np.array(sizes), "pair_constants": _plain(model.pair_constants.to(dtype))}
    if model.pair_stretch is not None:
        arrays["pair_stretch"] = _plain(model.pair_stretch.to(dtype))
    if model.inner is not None:
        arrays["inverse_limit"] = _plain(model.inner.inverse_limit.to(dtype))
    arrays |= {"scale": np.array([float(model.scale)]), "shift": _own(model.shift)}
    for number, matrix in enumerate(model.readout or ()):
        arrays[f"readout.{number}"] = _own(matrix)
    for t, (layer, table) in enumerate(zip(model.layers, tables, strict=True)):
        weights, projection = layer.sparse.weights(layer), model.projections[t]
        coefficients = model.coefficients[t].transpose(0, 1).flatten(1)  # (n_elements, n K)
        alone = len(coefficients) == 1  # then they are part of the projection
        components = 1 if layer.sparse.raw is None else _incoming(model, t)
        shape = [table.degrees, components, table.channels, table.values.shape[1] - 1]
        found: Arrays = {
            "shape": np.array(shape),
            "table": _plain(table.values),
            "range": _plain(table.range),
            "dims": np.array(layer.sparse.density_dims),
            "paths": np.array(layer.sparse.density_paths),
            "density": _plain(weights.density),
            "projection": _own(coefficients.T * projection if alone else projection),
            **_products(layer.sparse.expansion(layer)),
        }
        if not alone:
            found["coefficients"] = _own(coefficients)
        if layer.incoming is None:
            found["indicator"] = _own(layer.indicator)
        if (raw := layer.sparse.raw) is not None:
            found |= _product("raw", list(raw.size), raw.index, raw.value.to(dtype))
            found["raw.size"] = np.array(raw.size[:-1])
        if layer.message_irreps is not None:
            found["message.dims"] = np.array(layer.sparse.outgoing_dims)
            found |= {"message.mixing": _own(layer.message_mixing), "message.leaf": _own(layer.leaf)}
        arrays |= {f"{t}.{name}": value for name, value in found.items()}
    return arrays


def _incoming(model: GraphACE, t: int) -> int:
    """Components of the message that layer t is given."""
    irreps = model.layers[t - 1].message_irreps
    assert irreps is not None
    return int(irreps.dim)


def _products(expansion: Expansion) -> Arrays:
    """All products of a layer's density, as the kernels take them."""
    size, (target, own, *rest) = expansion.size, expansion.arrays
    found: Arrays = {
        "products.size": np.array(size),
        "products.target": _plain(target),
        "products.own": _plain(own),
    }
    for number, name in enumerate(("pair", "triple", "quadruple")):
        index, value, weights, place = rest[4 * number : 4 * number + 4]
        if index is None:
            continue
        of_product = size[8 + _PER_COUPLING * number :][:_PER_COUPLING]
        found |= _product(name, of_product, index, value)
        found |= {f"{name}.weights": _plain(weights), f"{name}.place": _plain(place)}
    return found


def _product(name: str, size: list[int], index: Tensor, value: Tensor) -> Arrays:
    """Lists of a product for processors; those for GPUs come after them."""
    _, _, _, _, _, terms, by_row, by_pair, *_ = size
    return {
        f"{name}.index": _plain(index[: by_row + by_pair]),
        f"{name}.value": _plain(value[: 2 * terms]),
    }


def _linear(model: LinearACE) -> Arrays:
    from gace.linear.listed import Listed

    found = Listed(model)
    return {
        "sizes": np.array([found.degrees, found.cutoff_power, int(found.has_repulsion)]),
        "bonds": np.array(found.bonds),
        "size": np.array(found.size),
        "pair_constants": _plain(found.constants),
        **{
            name: _own(getattr(found, name))
            for name in (
                "pair", "numbers", "column", "end", "factors", "listed", "coupling", "share", "centre",
                "stretch", "coefficients", "rest", "shift",
            )
        },
    }  # fmt: skip


def _own(x: Tensor) -> NDArray[Any]:
    """What belongs to a model, which may change."""
    return _plain(x.clone())


def _plain(x: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = x.detach().cpu().contiguous().numpy()
    return found
