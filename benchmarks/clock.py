"""How time, memory and the moment's speed of the machine are measured.

The machine may be shared, so the number to compare is the processor time of this process on one thread:
the median and the minimum over the steps. With several threads, or on an accelerator, processor time means
nothing and wall time stands in its place; the key ``clock`` says which. ``calib_ms`` is the processor time
of a fixed NumPy job before and after, by which results of different moments and machines can be normalised.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Clock:
    """Collects wall and processor seconds of repeated work.

    Args:
        synchronise: called before either reading; an accelerator's barrier.
    """

    def __init__(self, synchronise: Callable[[], object] = lambda: None) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._synchronise = synchronise

    def __enter__(self) -> Clock:
        self._synchronise()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self._synchronise()
        self.wall.append(time.perf_counter() - self._start[0])
        self.cpu.append(time.process_time() - self._start[1])

    @property
    def pairs(self) -> list[list[float]]:
        """``[wall, cpu]`` of each, rounded to milliseconds."""
        return [[round(w, 3), round(c, 3)] for w, c in zip(self.wall, self.cpu, strict=True)]

    def repeat(self, work: Callable[[int], object], *, steps: int, seconds: float, least: int) -> Clock:
        """Time ``work(k)`` until ``steps`` are done or ``seconds`` of processor time are used."""
        began = time.process_time()
        for k in range(steps):
            if k >= least and time.process_time() - began >= seconds:
                break
            with self:
                work(k)
        return self

    def summary(self, *, n_atoms: int, wall: bool = False) -> dict[str, Any]:
        """Median and minimum, in all and per atom, under the keys of the peers' drivers."""
        times = 1e3 * np.array(self.wall if wall else self.cpu)
        median, least = float(np.median(times)), float(times.min())
        return {
            "natoms": n_atoms,
            "steps": len(times),
            "clock": "wall" if wall else "cpu",
            "ms_per_step": round(median, 3),
            "ms_min": round(least, 3),
            "wall_ms_median": round(1e3 * float(np.median(self.wall)), 3),
            "us_per_atom": round(1e3 * median / n_atoms, 3),
            "us_per_atom_min": round(1e3 * least / n_atoms, 3),
        }


def calibration() -> float:
    """Processor time of a fixed job (matrix products and exponentials), ms; the best of five."""
    matrix = np.random.default_rng(0).normal(size=(256, 256))

    def job() -> float:
        began = time.process_time()
        for _ in range(4):
            product = matrix @ matrix
            np.exp(-product * product * 1e-3)
        return 1e3 * (time.process_time() - began)

    return round(min(job() for _ in range(5)), 3)


def peak_mb() -> int | None:
    """Largest resident memory of this process so far, MiB; None where the system does not tell."""
    try:
        with Path("/proc/self/status").open() as status:
            lines = [line for line in status if line.startswith("VmHWM")]
    except OSError:
        return None
    return round(int(lines[0].split()[1]) / 1024) if lines else None


def since(started: tuple[float, float]) -> list[float]:
    """Wall and processor seconds since ``time.time(), time.process_time()`` were taken."""
    return [round(time.time() - started[0], 2), round(time.process_time() - started[1], 2)]


def barrier_of(device: str) -> Callable[[], object]:
    """What waits until a device has done its work."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    if not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device here: use --device cpu")
    return torch.cuda.synchronize


def memory(device: str) -> dict[str, int | None]:
    """Peak memory of the process, and of the accelerator if one is used, MiB."""
    found = {"peak_mb": peak_mb()}
    if device.startswith("cuda"):
        import torch

        found["peak_device_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


def machine() -> str:
    """The processor in words."""
    try:
        with Path("/proc/cpuinfo").open() as info:
            names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores"
