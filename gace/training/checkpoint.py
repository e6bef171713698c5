"""One file that holds everything a run needs to go on: tensors bit for bit, the rest as JSON in its header.

A single file is replaced in one step, so that no kill can leave tensors and counters that disagree.
Nothing in it can execute code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gace.errors import InputError
from gace.files import replacing
from gace.training.optimizer import Optimizer

FORMAT_VERSION = 1


def checkpoint_path(out: Path) -> Path:
    """Where a run in the folder ``out`` keeps its state."""
    return out / "checkpoint" / "state.safetensors"


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON-able state, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format_version": str(FORMAT_VERSION), "state": json.dumps(state)}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=header)


def load_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of an earlier run, or None if there is none.

    Raises:
        InputError: the file is damaged or of another format version.
    """
    from safetensors import safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        version = header.get("format_version")
        if version == str(FORMAT_VERSION):
            return tensors, json.loads(header["state"])
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged ({reason}): delete {path.parent} to start anew") from None
    raise InputError(
        f"{path} has format version {version}, this program reads {FORMAT_VERSION}: delete {path.parent}"
    )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Moments and step counters of an optimiser, by parameter number and name."""
    return {
        f"optimizer.{index}.{name}": value
        for index, slot in optimizer.slots().items()
        for name, value in slot.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            slots.setdefault(int(index), {})[key] = tensor
    optimizer.load_slots(slots)


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, their names preceded by ``prefix.``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: one for name, one in tensors.items() if name.startswith(prefix + ".")}
