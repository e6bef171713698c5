"""The walk itself: Langevin dynamics with a temperature ramp, watched, ended and rewound.

A walk never raises for what its physics did: how it ended is a value. Integrator: BAOAB splitting
[LeimkuhlerMatthews2013]_. Each walker draws from a generator of its own, so it does not matter
which walkers move beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from gace.randomness import generator
from gace.structures.identity import structure_hash
from gace_platform.exploration.config import Schedule
from gace_platform.exploration.drive import Answer, Drive
from gace_platform.exploration.geometry import count_fragments, shortest_distance

Ending = Literal["completed", "novelty", "distance", "fragments", "overheated", "not finite"]
OVERHEATED = 5.0
"""A kinetic temperature beyond so many times the target (plus 500 K) is no fluctuation."""


class Frame(NamedTuple):
    """A moment of a walk."""

    step: int
    positions: NDArray[np.float64]
    """Å ``(N, 3)``."""
    energy: float
    """Of the drive, eV."""
    forces: NDArray[np.float64]
    """Of the drive, eV/Å ``(N, 3)``."""
    gamma: float | None


@dataclass
class Walker:
    """One walker: where it is, what it has kept, and how it ended."""

    number: int
    atoms: Atoms
    schedule: Schedule
    seed: int
    ending: Ending | None = None
    detail: str = ""
    last_step: int = 0
    frames: list[Frame] = field(default_factory=list)
    largest_gamma: float = 0.0

    def __post_init__(self) -> None:
        """Draw the velocities at the first temperature, without drift."""
        self.random = generator(self.seed, "walk", self.number, structure_hash(self.atoms))
        self.masses = self.atoms.get_masses()[:, None]  # amu (N, 1)
        self.fragments = count_fragments(self.atoms) if self._watches_fragments() else 0
        self.forces = np.zeros((len(self.atoms), 3))
        scale = np.sqrt(units.kB * self.temperature(0) / self.masses)
        self.velocity = scale * self.random.standard_normal((len(self.atoms), 3))
        if len(self.atoms) > 1:
            self.velocity -= (self.masses * self.velocity).sum(0) / self.masses.sum()
        kept = int(self.schedule.rewind_fs / (self.schedule.timestep_fs * self.schedule.check_every)) + 2
        self.trusted: deque[Frame] = deque(maxlen=kept)

    def temperature(self, step: int) -> float:
        """Target temperature at a step, K."""
        ramp = self.schedule.temperature
        return ramp.start + (ramp.end - ramp.start) * step / self.schedule.steps

    def drift(self, step: int) -> None:
        """Kick, half a drift, friction and noise, half a drift: all of a step but its last kick."""
        time = self.schedule.timestep_fs * units.fs
        self.velocity += 0.5 * time * self.forces / self.masses
        self.atoms.positions += 0.5 * time * self.velocity
        keep = np.exp(-self.schedule.friction * self.schedule.timestep_fs)
        heat = np.sqrt((1 - keep**2) * units.kB * self.temperature(step) / self.masses)
        self.velocity = keep * self.velocity + heat * self.random.standard_normal(self.velocity.shape)
        self.atoms.positions += 0.5 * time * self.velocity
        self.last_step = step

    def kick(self, forces: NDArray[np.float64]) -> None:
        """The last kick of a step, by the forces at its end."""
        self.forces = forces
        self.velocity += 0.5 * self.schedule.timestep_fs * units.fs * forces / self.masses

    def geometry_holds(self, look: bool) -> bool:
        """Whether the positions are worth a look by the drive; ends the walk if not."""
        if not np.isfinite(self.atoms.positions).all():
            self.end("not finite", "a position is not finite")
        elif look:
            shortest = shortest_distance(self.atoms)
            if shortest < self.schedule.distance_min:
                self.end("distance", f"two atoms at {shortest:.2f} of their covalent distance")
            elif self._watches_fragments() and count_fragments(self.atoms) > self.fragments:
                self.end("fragments", "the molecule has come apart")
        return self.ending is None

    def judge(self, answer: Answer, look: bool) -> None:
        """Keep this step's frame where due, or end the walk."""
        step, limit = self.last_step, self.schedule.gamma_max
        if not np.isfinite(answer.forces).all():
            self.end("not finite", answer.problem or "a force is not finite")
            return
        kinetic = float((self.masses * self.velocity**2).sum()) / (3 * len(self.atoms) * units.kB)
        if not kinetic < OVERHEATED * self.temperature(step) + 500:
            self.end("overheated", f"kinetic temperature {kinetic:.0f} K")
            return
        if not look:
            return
        frame = Frame(step, self.atoms.positions.copy(), answer.energy, answer.forces, answer.gamma)
        if answer.gamma is not None:
            self.largest_gamma = max(self.largest_gamma, answer.gamma)
            if limit is not None and answer.gamma > limit:
                self._end_as_novel(frame)
                return
        self.trusted.append(frame)
        if step and step % self.schedule.sample_every == 0:
            self.frames.append(frame)
        if step == self.schedule.steps:
            self.ending = "completed"

    def end(self, ending: Ending, detail: str) -> None:
        """End the walk and rewind it: drop what is not trusted, keep the last moment that is."""
        self.ending, self.detail = ending, detail
        latest = self.last_step - self.schedule.rewind_fs / self.schedule.timestep_fs
        self.frames = [frame for frame in self.frames if frame.step <= latest]
        good = [frame for frame in self.trusted if 0 < frame.step <= latest]
        if good and (not self.frames or good[-1].step > self.frames[-1].step):
            self.frames.append(good[-1])

    def _end_as_novel(self, frame: Frame) -> None:
        self.end("novelty", f"gamma {frame.gamma:.2f} after {frame.step} steps")
        if frame.step == 0:
            # the start was given, not run into: it is physical, and nothing could be more worth a label
            self.frames = [frame]

    def _watches_fragments(self) -> bool:
        return self.schedule.keep_together and not self.atoms.pbc.any()


def walk(
    walkers: Sequence[Walker], drive: Drive, tell: Callable[[int, int], None] = lambda step, moving: None
) -> None:
    """Move ``walkers`` together until each has ended; all share one schedule.

    Args:
        walkers: Where they stand before their first step.
        drive: Their forces.
        tell: Called at each look with the step and the number of walkers under way.
    """
    schedule = walkers[0].schedule
    for step in range(schedule.steps + 1):
        look = step % schedule.check_every == 0 or step % schedule.sample_every == 0 or step == schedule.steps
        moving = [walker for walker in walkers if walker.ending is None]
        for walker in moving if step else ():
            walker.drift(step)
        moving = [walker for walker in moving if walker.geometry_holds(look)]
        if not moving:
            return
        if look:
            tell(step, len(moving))
        numbers = [walker.number for walker in moving]
        answers = drive(numbers, [walker.atoms for walker in moving], look)
        for walker, answer in zip(moving, answers, strict=True):
            if step:
                walker.kick(answer.forces)
            else:
                walker.forces = answer.forces
            walker.judge(answer, look)
