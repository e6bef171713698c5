"""Training: from labelled structures to a potential bundle.

Names are loaded at first use, so that reading a configuration does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gace.lazy import at_first_use

if TYPE_CHECKING:
    from gace.training.config import TrainConfig
    from gace.training.outcome import TrainResult
    from gace.training.run import train

_HOMES = {"TrainConfig": "config", "TrainResult": "outcome", "train": "run"}

__all__ = ["TrainConfig", "TrainResult", "train"]

__getattr__ = at_first_use(__name__, _HOMES)
