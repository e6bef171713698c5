"""Write a potential as the file that the compiled C++ reads: weights and tables, nothing to be executed."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from gace.errors import InputError
from gace.files import FULL_DISK, full_disk, sync_folder
from gace.linear.evaluation import Evaluation
from gace.linear.model import LinearACE
from gace.native.model import FORMAT_VERSION, KIND, SUFFIX
from gace.potential.adjoint import Adjoint
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels.expansion import Expansion
from gace.potential.potential import Potential
from gace.potential.tables import RadialTable, radial_tables
from gace.uncertainty.container import Uncertainty

Arrays = dict[str, NDArray[Any]]

GRAPH, LINEAR = 0, 1
"""Kinds of models, as the C++ numbers them."""

_TYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64"}
"""Names of the format safetensors."""

_PER_COUPLING = 10
"""Numbers by which the kernels know a product."""


def write(potential: Potential, path: str | Path) -> dict[str, Any]:
    """Write ``potential`` to ``path`` (``*.gace``) in its precision; returns what the file says of itself.

    Radial functions are tabulated to :data:`gace.potential.tables.TOLERANCE`. Error bars and novelty grade
    are part of the file.

    Raises:
        InputError: ``path`` does not end in ``.gace`` or cannot be written, ``potential`` is itself an
            exported file, or so many elements that its tables would be too large.
        DiskFullError: no space is left.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"a potential for compiled C++ is a file *{SUFFIX}, not '{path}'")
    members = potential.to("cpu").models("exported again")
    if not path.parent.is_dir():
        raise InputError(f"no such folder: {path.parent}")
    arrays = _common(potential)
    kinds = []
    for number, member in enumerate(members):
        kind, found = _member(member)
        kinds.append(kind)
        arrays |= {f"{number}.{name}": value for name, value in found.items()}
    arrays["kinds"] = np.array(kinds, dtype=np.int64)
    known = potential.uncertainty or Uncertainty()
    described = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "elements": list(potential.elements),
        "cutoff": potential.cutoff,
        "isolated_atom_energies": potential.isolated_atom_energies,
        "weights": list(map(float, potential.weights)),
        "level_of_theory": potential.level_of_theory,
        "n_members": len(members),
        "error_bars": {
            "has": potential.has_error_bars,
            "energy": None if known.energy is None else list(known.energy),
            "forces": None if known.forces is None else list(known.forces),
        },
        "novelty": potential.has_novelty,
        "device": "cpu",
        "dtype": str(potential.dtype).removeprefix("torch."),
        "metadata": potential.metadata,
    }
    _write(path, {name: np.ascontiguousarray(value) for name, value in arrays.items()}, described)
    return {**described, "bytes": path.stat().st_size}


def _write(path: Path, arrays: Arrays, described: dict[str, Any]) -> None:
    """Whole or not at all."""
    text = json.dumps(described)
    plain = save(arrays, {"gace": text})
    start = 8 + int.from_bytes(plain[:8], "little")
    # of the numbers, of what the file says of itself, and of what the arrays are called
    names = "".join(f"{name}:{_TYPES[one.dtype.name]}{_sides(one)}" for name, one in sorted(arrays.items()))
    checksum = zlib.crc32((text + names).encode(), zlib.crc32(plain[start:]))
    # one entry, since several come in any order; the numbers stay where they are
    content = save(arrays, {"gace": f"{checksum} {text}"})
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if error.errno in FULL_DISK:
            raise full_disk(error, path) from None
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    sync_folder(path.parent)


def _sides(array: NDArray[Any]) -> str:
    return "".join(f" {side}" for side in array.shape)


def _common(potential: Potential) -> Arrays:
    """What all members share."""
    arrays: Arrays = {
        "format_version": np.array([FORMAT_VERSION]),
        "elements": np.array([atomic_numbers[one] for one in potential.elements]),
        "isolated": np.array([potential.isolated_atom_energies[one] for one in potential.elements], float),
        "weights": np.asarray(potential.weights, float),
        "cutoff": np.array([potential.cutoff]),
    }
    known = potential.uncertainty
    if known is not None and known.energy is not None:
        arrays["energy_scale"] = np.array(known.energy, float)
    if known is not None and known.novelty is not None:
        for number, region in enumerate(known.novelty.regions):
            if region is None:
                continue
            n_clusters, dimensions = region.offset.shape
            whitening = region.whitening.transpose(1, 0, 2).reshape(dimensions, n_clusters * dimensions)
            arrays |= {
                f"novelty.{number}.centre": region.centre,
                f"novelty.{number}.projection": region.projection,
                f"novelty.{number}.whitening": whitening / region.boundary,
                f"novelty.{number}.offset": region.offset / region.boundary,
            }
    return arrays


@torch.no_grad()
def _member(model: GraphACE | LinearACE) -> tuple[int, Arrays]:
    if isinstance(model, LinearACE):
        return LINEAR, _linear(model)
    tables = radial_tables(model)
    if tables is None:
        raise InputError(
            f"the radial functions of {len(model.elements)} elements would take tables of more than 128 MiB: "
            "export it as *.pt2, which needs none"
        )
    return GRAPH, _graph(model, tables)


def _graph(model: GraphACE, tables: list[RadialTable]) -> Arrays:
    evaluation, dtype = Adjoint(model, tables), next(model.parameters()).dtype
    inner, repulsion = model.inner is not None, model.repulsion is not None
    sizes = [len(model.layers), model.harmonics.l_max + 1, model.cutoff_power, int(repulsion), int(inner)]
    arrays: Arrays = {"sizes": np.array(sizes), "pair_constants": _plain(model.pair_constants.to(dtype))}
    if model.pair_stretch is not None:
        arrays["pair_stretch"] = _plain(model.pair_stretch.to(dtype))
    if model.inner is not None:
        arrays["inverse_limit"] = _plain(model.inner.inverse_limit.to(dtype))
    readout = evaluation.readout
    arrays |= {"scale": np.array([readout.scale], float), "shift": _plain(readout.shift)}
    for number, matrix in enumerate(readout.network or ()):
        arrays[f"readout.{number}"] = _plain(matrix)
    for t, (layer, table) in enumerate(zip(evaluation.layers, tables, strict=True)):
        projection, coefficients = readout.projections[t], readout.coefficients[t]
        components = 1 if layer.sparse.raw is None else _incoming(model, t)
        shape = [table.degrees, components, table.channels, table.values.shape[1] - 1]
        found: Arrays = {
            "shape": np.array(shape),
            "table": _plain(table.values),
            "range": _plain(table.range),
            "dims": np.array(layer.sparse.density_dims),
            "paths": np.array(layer.sparse.density_paths),
            "density": _plain(layer.weights.density),
            "projection": _plain(projection),
            **_products(layer.expansion),
        }
        if coefficients is not None:
            found["coefficients"] = _plain(coefficients)
        if layer.indicator is not None:
            found["indicator"] = _plain(layer.indicator)
        if (raw := layer.sparse.raw) is not None:
            found |= _product("raw", list(raw.size), raw.index, raw.value.to(dtype))
            found["raw.size"] = np.array(raw.size[:-1])
        if layer.mixing is not None and layer.leaf is not None:
            found["message.dims"] = np.array(layer.sparse.outgoing_dims)
            found |= {"message.mixing": _plain(layer.mixing), "message.leaf": _plain(layer.leaf)}
        arrays |= {f"{t}.{name}": value for name, value in found.items()}
    return arrays


def _incoming(model: GraphACE, t: int) -> int:
    """Components of the message that layer t is given."""
    irreps = model.layers[t - 1].message_irreps
    assert irreps is not None
    return int(irreps.dim)


def _products(expansion: Expansion) -> Arrays:
    """All products of a layer's density, as the kernels take them."""
    size, (target, own, *rest) = expansion.constants()
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
    found = Evaluation(model)
    return {
        "sizes": np.array([found.degrees, found.cutoff_power, int(found.has_repulsion)]),
        "bonds": np.array(found.bonds),
        "size": np.array(found.size),
        "pair_constants": _plain(found.constants),
        **{
            name: _plain(getattr(found, name))
            for name in (
                "pair", "numbers", "column", "end", "factors", "listed", "coupling", "share", "centre",
                "stretch", "coefficients", "rest", "shift",
            )
        },
    }  # fmt: skip


def _plain(x: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = x.detach().cpu().contiguous().numpy()
    return found
