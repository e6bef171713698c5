"""Training: from labelled structures to a potential bundle.

Names are loaded at first use, so that reading a configuration does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gace.training.config import TrainConfig
    from gace.training.run import TrainResult, train

_HOME = {"TrainConfig": "config", "TrainResult": "run", "train": "run"}

__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
