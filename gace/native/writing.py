"""Write a potential as the file that the compiled C++ reads: weights and tables, nothing to be executed."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray
from safetensors.numpy import save

from gace.errors import InputError
from gace.files import FULL_DISK, full_disk, sync_folder
from gace.native.arrays import TYPES, Arrays, arrays_of
from gace.native.model import FORMAT_VERSION, KIND, SUFFIX
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.potential.tables import radial_tables
from gace.uncertainty.container import Uncertainty


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
        made = arrays_of(member, radial_tables(member) if isinstance(member, GraphACE) else None)
        if made is None:
            raise InputError(
                f"the radial functions of {len(potential.elements)} elements would take tables of more than "
                "128 MiB: export it as *.pt2, which needs none"
            )
        kind, found = made
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
    names = "".join(f"{name}:{TYPES[one.dtype.name]}{_sides(one)}" for name, one in sorted(arrays.items()))
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
