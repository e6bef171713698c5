"""Every random draw derives from a seed and the content it is about.

Nothing may depend on the order of arrival, the number of workers, or wall time; so no code
in this project calls a global generator. It asks here for one.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *content: str | int) -> int:
    """A 63-bit seed from a base seed and a description of what is drawn (SHA-256)."""
    text = "\x1f".join([str(seed), *(str(part) for part in content)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *content: str | int) -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *content))
