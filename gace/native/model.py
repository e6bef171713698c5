"""A file ``*.gace`` opened: arrays in, energies and derivatives out. Loads no PyTorch."""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gace.errors import BundleError, InputError
from gace.native.calls import Reason, pointer
from gace.native.library import library
from gace.uncertainty.committee import Scale, energy_spread, forces_spread

SUFFIX = ".gace"
KIND = "gace-native"
FORMAT_VERSION = 1

_NO_FILE = "is no *.gace: `gace export BUNDLE --out FILE.gace` writes one"
_LONGEST_HEADER = 100 << 20

Array = NDArray[np.float64]

_forked = False
"""OpenMP's threads do not come along with a fork, and the GNU library waits for them for good."""


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


class NativePrediction(NamedTuple):
    """Weighted mean over the members for a batch of structures."""

    energy: Array
    """eV, isolated atoms included ``(B,)``."""

    forces: Array
    """eV/Å ``(N, 3)``."""

    virial: Array
    """Strain derivative of the energy, eV ``(B, 3, 3)``."""

    energies: Array
    """eV ``(N,)``."""

    energy_std: Array | None
    """eV ``(B,)``."""

    forces_std: Array | None
    """eV/Å ``(N, 3)``."""

    gamma: Array | None
    """``(N,)``."""


class NativeModel:
    """A potential that ``gace export`` wrote for compiled C++.

    Attributes:
        path: the file.
        described: what it says of itself, as :func:`gace.native.write` returns it.
        elements: symbols in the order of ``species``.
        cutoff: Å.
        threads: of an evaluation; default ``OMP_NUM_THREADS``, else all cores.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open ``path``.

        Raises:
            BundleError: no such file, not one of ours, damaged, or of another format version.
            MissingDependencyError: no C++ compiler where the library has not been built yet.
        """
        self.path = Path(path)
        self.described = read_description(self.path)
        own = library()
        reason = Reason()
        # before anything is taken from the description: this compares the checksum
        handle = own.gace_read(os.fsencode(self.path), *reason.room)
        if not handle:
            raise BundleError(str(reason))
        self._handle = ctypes.c_void_p(handle)
        weakref.finalize(self, own.gace_free, self._handle)
        self.path = self.path.absolute()  # another process may stand elsewhere
        self.elements: tuple[str, ...] = tuple(self.described["elements"])
        self.cutoff = float(self.described["cutoff"])
        self.weights = np.array(self.described["weights"], float)
        isolated = self.described["isolated_atom_energies"]
        self.isolated = np.array([isolated[one] for one in self.elements], float)
        self.threads = _threads() if threads is None else threads
        bars = self.described["error_bars"]
        self.has_error_bars, self.has_novelty = bool(bars["has"]), bool(self.described["novelty"])
        self._energy_scale, self._forces_scale = (
            Scale(1.0, 0.0) if bars[name] is None else Scale(*bars[name]) for name in ("energy", "forces")
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self.threads, self.described)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeModel:
        return self  # the numbers in C++ do not change, while the file may

    def evaluate(
        self,
        species: NDArray[np.int64],
        neighbour: NDArray[np.int64],
        vector: Array,
        structure: NDArray[np.int64],
        *,
        uncertainty: bool = False,
    ) -> NativePrediction:
        """Energies and derivatives of a batch of structures; see :class:`gace.structures.graph.Graph`.

        Args:
            species: index into :attr:`elements` ``(N,)``.
            neighbour: atom index; an empty slot holds its own atom ``(N, J)``.
            vector: neighbour minus centre, Å; an empty slot lies beyond the cutoff ``(N, J, 3)``.
            structure: ascending ``(N,)``.
            uncertainty: also error bars and γ, as far as there are any.

        Raises:
            InputError: an index that is none.
        """
        N, J = neighbour.shape
        B, M = int(structure[-1]) + 1 if N else 0, len(self.weights)
        atomic, forces, virial = np.empty((M, N)), np.empty((M, N, 3)), np.empty((M, B, 3, 3))
        gamma = np.empty(N) if uncertainty and self.has_novelty else None
        size = np.array([N, J, B, 1 if _forked else self.threads], dtype=np.int64)
        reason = Reason()
        given = (
            np.ascontiguousarray(species, np.int64), np.ascontiguousarray(neighbour, np.int64),
            np.ascontiguousarray(structure, np.int64), np.ascontiguousarray(vector, float),
        )  # fmt: skip
        failed = library().gace_evaluate(
            self._handle, *map(pointer, (size, *given, atomic, forces, virial, gamma)), *reason.room
        )
        if failed:
            raise InputError(str(reason))
        cohesive = np.stack([np.bincount(structure, weights=one, minlength=B) for one in atomic])
        sizes = np.bincount(structure, minlength=B)
        isolated = self.isolated[species]
        energy: Array = np.tensordot(self.weights, cohesive, 1) + np.bincount(
            structure, isolated, minlength=B
        )
        energy_std = forces_std = None
        if uncertainty and self.has_error_bars:
            energy_std = self._energy_scale.std(energy_spread(cohesive, sizes)) * np.sqrt(sizes)
            forces_std = np.repeat(self._forces_scale.std(forces_spread(forces))[:, None], 3, axis=1)
        return NativePrediction(
            energy,
            np.tensordot(self.weights, forces, 1),
            np.tensordot(self.weights, virial, 1),
            np.tensordot(self.weights, atomic, 1) + isolated,
            energy_std,
            forces_std,
            gamma,
        )


def _reopened(path: Path, threads: int, described: dict[str, Any]) -> NativeModel:
    """In another process, which is to have the same potential."""
    found = NativeModel(path, threads=threads)
    if found.described != described:
        raise BundleError(f"{path} is another potential by now: it was written anew")
    return found


def read_description(path: str | Path) -> dict[str, Any]:
    """What a file says of itself, without its numbers.

    Raises:
        BundleError: no such file, not one of ours, or of another format version.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError
            described = json.loads(json.loads(file.read(length))["__metadata__"]["gace"].partition(" ")[2])
            kind, version = described["kind"], described["format_version"]
    except FileNotFoundError:
        raise BundleError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise BundleError(f"{path} {_NO_FILE}") from None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{path} {_NO_FILE}, or is damaged") from None
    if kind != KIND:
        raise BundleError(f"{path} {_NO_FILE}")
    if version != FORMAT_VERSION:
        raise BundleError(f"{path} has format version {version}: export it again")
    found: dict[str, Any] = described
    return found


def _threads() -> int:
    stated = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if stated.isdigit() and int(stated) > 0:
        return int(stated)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
