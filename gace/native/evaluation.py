"""Models evaluated by compiled C++ with the pass back written out: no graph of operations is recorded.

For some dozen atoms an operation of PyTorch costs more than the numbers it makes, and recording it for
differentiation as much again. Values and derivatives are those of
:func:`gace.potential.derivatives.energy_and_gradients` with the same tables.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gace.errors import GaceError
from gace.native.arrays import GRAPH, TYPES, Arrays, arrays_of
from gace.native.calls import Reason
from gace.native.library import library
from gace.potential.derivatives import Prediction
from gace.potential.tables import RadialTable
from gace.structures.graph import Graph, sum_structures


def evaluation_of(
    model: nn.Module, tables: Sequence[RadialTable] | None, *, features: bool = True
) -> Evaluation | None:
    """A model evaluated by compiled C++ as its parameters are now; None where that cannot be.

    Args:
        model: on a processor, in single or double precision.
        tables: radial functions of a graph ACE; None where there are none, which gives None too.
        features: whether the invariants of a linear ACE are asked for. There are none among the results
            ``(N, 0)`` else, which saves a third of the time; those of a graph ACE come at no price.
    """
    found = arrays_of(model, tables)
    if found is None or not _can():
        return None
    kind, arrays = found
    return Evaluation(kind, arrays, features=features or kind == GRAPH)


@functools.cache
def _can() -> bool:
    """Whether there is the compiled C++; a warning once if not."""
    try:
        library()
    except GaceError as error:
        warnings.warn(f"{error}; going on by PyTorch", stacklevel=2)
        return False
    return True


class Evaluation:
    """From graph to prediction."""

    def __init__(self, kind: int, arrays: Arrays, *, features: bool) -> None:
        """See :func:`evaluation_of`."""
        kept = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        self.kind, self._arrays = kind, kept  # the C++ reads the arrays where they are
        shift = kept["shift"]
        own, reason = library(), Reason()
        own.gace_model.restype = ctypes.c_void_p
        lengths = [side for one in kept.values() for side in one.shape]
        handle = own.gace_model(
            ctypes.c_int64(kind), ctypes.c_int64(len(shift)), ctypes.c_int64(shift.dtype == np.float64),
            ctypes.c_int64(len(kept)), _list(ctypes.c_char_p, [name.encode() for name in kept]),
            _list(ctypes.c_char_p, [TYPES[one.dtype.name].encode() for one in kept.values()]),
            _list(ctypes.c_int64, [one.ndim for one in kept.values()]), _list(ctypes.c_int64, lengths),
            _list(ctypes.c_void_p, [one.ctypes.data for one in kept.values()]), *reason.room,
        )  # fmt: skip
        if not handle:
            raise RuntimeError(str(reason))
        self._handle = ctypes.c_void_p(handle)
        own.gace_features.restype = ctypes.c_int64
        self._features = own.gace_features(self._handle) if features else 0
        weakref.finalize(self, own.gace_free_model, self._handle)

    def __copy__(self) -> Evaluation:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluation:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.kind, self._arrays, self._features > 0)

    @torch.no_grad()
    def __call__(self, graph: Graph) -> Prediction:
        """Energies and derivatives of a graph in the model's precision."""
        (N, J), B, x = graph.neighbour.shape, graph.n_structures, graph.edge_vector
        energy, features = x.new_empty(N), x.new_empty(N, self._features)
        force, virial = x.new_empty(N, 3), x.new_empty(B, 3, 3)
        reason = Reason()
        given = [one.contiguous() for one in (graph.species, graph.neighbour, graph.structure, x)]
        failed = library().gace_evaluate_model(
            self._handle, (ctypes.c_int64 * 4)(N, J, B, torch.get_num_threads()),
            *map(_pointer, (*given, energy)), _pointer(features) if self._features else None,
            *map(_pointer, (force, virial)), *reason.room,
        )  # fmt: skip
        if failed:
            raise RuntimeError(str(reason))
        return Prediction(sum_structures(energy, graph), force, virial, energy, features)


def _rebuilt(kind: int, arrays: Arrays, features: bool) -> Evaluation:
    """In another process."""
    return Evaluation(kind, arrays, features=features)


def _list(kind: Any, values: Sequence[Any]) -> Any:
    return (kind * len(values))(*values)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
