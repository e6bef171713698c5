"""Keep freed memory in the process instead of handing it back to the system after every step.

A training step frees and allocates the same few hundred arrays of 0.1 to 10 MB again and again. With the
default thresholds of the GNU C library each of them is a fresh mapping whose pages the kernel clears: up to
40 % of the time of a step on one core was measured in the kernel.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Raise the thresholds of the GNU C library's allocator; whether that was possible here.

    Other systems and allocators are left alone. Calling it again does no harm.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 512 << 20, M_TOP_PAD: 64 << 20}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
