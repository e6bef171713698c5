"""The potential on disk: a folder of JSON, safetensors and arrays, with checksums and no pickle.

``config.json`` (format version, architecture, elements by symbol in stored order, cutoff, units,
isolated-atom energies, level of theory, metadata), ``model.safetensors`` (``member.<m>.<parameter>``),
``uncertainty.npz`` (where known), ``MODEL_CARD.md`` (generated) and ``checksums.json`` (SHA-256 of each).
Reading one executes nothing; a damaged, foreign or newer one is refused with the reason.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

from gace.errors import BundleError, InputError
from gace.files import FULL_DISK, full_disk, sha256_file, sync_folder
from gace.potential.devices import differentiating, resolve_device, resolve_dtype
from gace.potential.potential import Potential
from gace.potential.rebuild import built

KIND = "gace-potential"
FORMAT_VERSION = 1
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³, tension positive"}

CONFIG, MODEL, UNCERTAINTY, CARD, CHECKSUMS = (
    "config.json",
    "model.safetensors",
    "uncertainty.npz",
    "MODEL_CARD.md",
    "checksums.json",
)

KEYS: dict[str, type | tuple[type, ...]] = {
    "elements": list,
    "cutoff": (int, float),
    "n_members": int,
    "architecture": dict,
    "member_architecture": list,
    "isolated_atom_energies": dict,
    "level_of_theory": object,
    "metadata": dict,
}
"""What ``config.json`` must hold beside kind and format version; ``units`` are for readers, and
``member_weights`` stand there where they are unequal."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""``UPGRADES[v]`` turns the configuration of format version ``v`` into that of ``v + 1``."""


def save_bundle(potential: Potential, path: str | Path) -> Path:
    """Write ``potential`` as a bundle folder, whole or not at all; an older bundle there is replaced.

    Equal potentials give equal bytes: nothing of the time or the machine is written.

    Raises:
        InputError: the place cannot be written, or holds something that is not a bundle; or the potential is
            an exported file.
    """
    path = Path(path)
    potential.models("kept as a bundle")
    if path.exists() and not _replaceable(path):
        raise InputError(f"{path} exists and is not a potential bundle; choose another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        if error.errno in FULL_DISK:
            raise full_disk(error, path) from None
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        _write_files(potential, temporary)
        temporary.chmod(0o755)
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)
    return path


@differentiating
def load(
    source: str | Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "float64"
) -> Potential:
    """A potential from a bundle folder, a ``models:/`` URI, or an exported file.

    Args:
        source: the folder, or ``models:/name/version`` or ``models:/name@alias``; or a file ``*.pt2`` or
            ``*.gace`` that ``gace export`` wrote, which has a device and a precision of its own.
        device: ``auto`` takes the GPU where there is one.
        dtype: ``float32`` or ``float64``.

    Raises:
        BundleError: the bundle is damaged, foreign, or of an unknown format version.
        MissingDependencyError: a ``models:/`` URI without mlflow installed.
        InputError: an unknown device or dtype, or a URI that names no model.
    """
    from gace.potential.uri import fetched

    if str(source).endswith(".pt2"):
        from gace.potential.exported import load_exported

        return load_exported(source).to(device, dtype)
    if str(source).endswith(".gace"):
        from gace.native.potential import NativePotential

        return NativePotential.read(source).to(device, dtype)
    with fetched(source) as folder:
        return read_bundle(folder, resolve_device(device), resolve_dtype(dtype))


def read_bundle(path: Path, device: torch.device, dtype: torch.dtype) -> Potential:
    """The potential in a bundle folder; see :func:`load`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(path)
    try:
        tensors = load_file(path / MODEL)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path / MODEL} is not readable: {error}") from None
    members = [_member(config, index, tensors, path) for index in range(config["n_members"])]
    if tensors:
        raise BundleError(f"{path} holds tensors that no member uses: {', '.join(sorted(tensors)[:3])}")
    uncertainty = _read_uncertainty(path)
    try:
        return Potential(
            [member.to(device=device, dtype=dtype) for member in members],
            isolated_atom_energies=config["isolated_atom_energies"],
            level_of_theory=config["level_of_theory"],
            uncertainty=uncertainty,
            metadata=config["metadata"],
            weights=config.get("member_weights"),
        )
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path / CONFIG}: {error}") from None


def read_config(path: str | Path, *, verify: bool = True) -> dict[str, Any]:
    """The verified configuration of a bundle, upgraded to the present format.

    Raises:
        BundleError: as :func:`load`.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError(
            f"no such folder: {path}" if not path.exists() else f"{path} is not a bundle folder"
        )
    if not (path / CONFIG).is_file():
        raise BundleError(f"{path} is not a potential bundle: it has no {CONFIG}")
    config = _read_json(path / CONFIG)
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise BundleError(f"{path} is not a potential of gace: {CONFIG} does not say kind '{KIND}'")
    version = config.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version!r}; this gace reads 1 to {FORMAT_VERSION}: upgrade gace"
        )
    if verify:
        verify_checksums(path)
    while version < FORMAT_VERSION:
        config, version = UPGRADES[version](config), version + 1
    _check_config(config, path / CONFIG)
    return config


def verify_checksums(path: str | Path) -> dict[str, str]:
    """SHA-256 by file name of a bundle, after comparing each with the file.

    Raises:
        BundleError: a file is missing, changed, or not listed.
    """
    path = Path(path)
    if not (path / CHECKSUMS).is_file():
        raise BundleError(f"{path} has no {CHECKSUMS}: the bundle is incomplete")
    listed = _read_json(path / CHECKSUMS)
    if not isinstance(listed, dict) or not {CONFIG, MODEL} <= set(listed):
        raise BundleError(f"{path / CHECKSUMS} does not list {CONFIG} and {MODEL}")
    if (path / UNCERTAINTY).exists() and UNCERTAINTY not in listed:
        raise BundleError(f"{path / UNCERTAINTY} is not listed in {CHECKSUMS}")
    for name, expected in listed.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise BundleError(f"{path} lacks {name}: the bundle is incomplete")
        if sha256_file(file) != expected:
            raise BundleError(f"{file} is damaged: its SHA-256 is not the one in {CHECKSUMS}")
    return {str(name): str(value) for name, value in listed.items()}


def bundle_hash(path: str | Path) -> str:
    """SHA-256 that identifies a bundle's content (its verified checksums, model card left out)."""
    import hashlib

    content = {name: value for name, value in verify_checksums(path).items() if name != CARD}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe(potential: Potential) -> dict[str, Any]:
    """The content of ``config.json`` for a potential."""
    frames = [member.hyperparameters() for member in potential.members]
    # members of different kinds, such as graph ACE and linear ACE, share few
    shared = {
        key: value
        for key, value in frames[0].items()
        if all(key in one and one[key] == value for one in frames)
    }
    equal = len(set(potential.weights)) == 1
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "elements": list(potential.elements),
        "cutoff": potential.cutoff,
        "units": UNITS,
        "n_members": len(frames),
        "architecture": shared,
        "member_architecture": [
            {key: value for key, value in one.items() if key not in shared} for one in frames
        ],
        "isolated_atom_energies": potential.isolated_atom_energies,
        "level_of_theory": potential.level_of_theory,
        "metadata": potential.metadata,
        **({} if equal else {"member_weights": list(potential.weights)}),
    }


def _write_files(potential: Potential, folder: Path) -> None:
    """All files of a bundle, flushed to disk."""
    from safetensors.torch import save

    from gace.potential.model_card import model_card

    tensors = {
        f"member.{index}.{name}": value.detach().cpu().contiguous().clone()
        for index, member in enumerate(potential.members)
        for name, value in member.state_dict().items()
    }
    config = describe(potential)
    content = {
        CONFIG: (json.dumps(config, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(),
        MODEL: save(tensors),
        CARD: model_card(potential, config).encode(),
    }
    if potential.uncertainty is not None:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(potential.uncertainty.arrays())
        np.savez(buffer, **arrays)
        content[UNCERTAINTY] = buffer.getvalue()
    for name, data in content.items():
        _write_flushed(folder / name, data)
    checksums = {name: sha256_file(folder / name) for name in sorted(content)}
    _write_flushed(folder / CHECKSUMS, (json.dumps(checksums, indent=2) + "\n").encode())


def _write_flushed(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _swap(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``."""
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    path.rename(old / path.name)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _replaceable(path: Path) -> bool:
    """Whether ``path`` is a bundle or an empty folder."""
    return path.is_dir() and ((path / CONFIG).is_file() or not any(path.iterdir()))


def _check_config(config: dict[str, Any], file: Path) -> None:
    """Refuse a configuration that someone wrote by hand, or in part.

    Raises:
        BundleError: it names the file and the key that is missing or wrong.
    """
    for key, kind in KEYS.items():
        if key not in config:
            raise BundleError(f"{file} lacks '{key}'")
        if not isinstance(config[key], kind) or isinstance(config[key], bool):
            raise BundleError(f"{file}: '{key}' cannot be {json.dumps(config[key])[:40]}")
    unknown = [one for one in config["elements"] if not isinstance(one, str) or one not in atomic_numbers]
    if unknown:
        raise BundleError(f"{file}: 'elements' names an unknown element {json.dumps(unknown[0])}")
    described = len(config["member_architecture"])
    if not 1 <= config["n_members"] == described:
        raise BundleError(
            f"{file}: 'n_members' is {config['n_members']}, but 'member_architecture' describes {described}"
        )
    if not all(isinstance(one, dict) for one in config["member_architecture"]):
        raise BundleError(f"{file}: 'member_architecture' must hold one object per member")
    for element, energy in config["isolated_atom_energies"].items():
        if isinstance(energy, bool) or not isinstance(energy, int | float) or not math.isfinite(energy):
            raise BundleError(
                f"{file}: 'isolated_atom_energies' must be numbers, in eV; that of {element} is "
                f"{json.dumps(energy)[:40]}"
            )


def _member(config: dict[str, Any], index: int, tensors: dict[str, torch.Tensor], path: Path) -> Any:
    """Rebuild one member and take its tensors out of ``tensors``."""
    architecture = {**config["architecture"], **config["member_architecture"][index]}
    for key in ("elements", "cutoff"):
        if key not in architecture:
            raise BundleError(f"{path / CONFIG}: the architecture of member {index} lacks '{key}'")
        if architecture[key] != config[key]:
            raise BundleError(
                f"{path / CONFIG}: the {key} of member {index} must be those of the bundle: "
                f"{json.dumps(architecture[key])} is not {json.dumps(config[key])}"
            )
    prefix = f"member.{index}."
    own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    try:
        # in double precision whatever the weights are stored in: rounded Clebsch–Gordan coefficients would
        # break the rotational symmetry of a potential that is loaded as float64
        model = built(architecture)
        model.load_state_dict(own)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or "no tensors"
        raise BundleError(f"{path}: member {index} does not fit its architecture: {reason}") from None
    return model.eval()


def _read_uncertainty(path: Path) -> Any:
    """The uncertainty in a bundle, or None."""
    from gace.uncertainty.container import Uncertainty

    file = path / UNCERTAINTY
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Uncertainty.from_arrays({name: stored[name] for name in stored.files})
    # an empty or cut file, members of the archive that are cut or no arrays, arrays of another shape
    except (OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{file} is not readable: {error}") from None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} is damaged: {error}") from None


__all__ = ["bundle_hash", "describe", "load", "read_bundle", "read_config", "save_bundle", "verify_checksums"]
