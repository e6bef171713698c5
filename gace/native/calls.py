"""How Python hands arrays to the compiled C++, and how that says what went wrong."""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray

_LENGTH = 4096


class Reason:
    """Room for the C++ to say why it failed; ``*reason.room`` are the last arguments of its functions."""

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(_LENGTH)
        self.room = self._text, ctypes.c_int64(_LENGTH)

    def __str__(self) -> str:
        return self._text.value.decode(errors="replace")


def pointer(array: NDArray[Any] | None) -> ctypes.c_void_p | None:
    """Where a contiguous array lies; null for none."""
    return None if array is None else ctypes.c_void_p(array.ctypes.data)
