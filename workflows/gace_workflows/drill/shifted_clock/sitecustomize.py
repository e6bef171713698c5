"""A wall clock that jumps, for the drill: Python imports this at start when its folder is in PYTHONPATH.

``time.time`` and ``time.time_ns`` are ahead of the machine by the seconds in the file that GACE_DRILL_CLOCK
names, read at every call. The clock of the machine, ``datetime.now`` and the times of files stay as they are.
"""

import os
import time
from collections.abc import Callable


def _shift(file: str) -> float:
    try:
        with open(file, encoding="ascii") as stream:  # noqa: PTH123
            return float(stream.read())
    except (OSError, ValueError):  # being written just now
        return 0.0


def _shifted(clock: Callable[[], float], nanoseconds: Callable[[], int], file: str) -> None:
    time.time = lambda: clock() + _shift(file)
    time.time_ns = lambda: nanoseconds() + int(_shift(file) * 1e9)


if _file := os.environ.get("GACE_DRILL_CLOCK"):
    _shifted(time.time, time.time_ns, _file)
