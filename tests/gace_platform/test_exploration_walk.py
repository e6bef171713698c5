import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from gace_platform.exploration.config import Ramp, Schedule
from gace_platform.exploration.drive import Answer
from gace_platform.exploration.walk import Walker, walk


def schedule(**keys):
    return Schedule(**{"steps": 60, "sample_every": 10, "check_every": 5, "gamma_max": 2.0, **keys})


class Harmonic:
    """Springs to the start positions; γ and trouble on command, by the number of calls."""

    def __init__(self, constant=5.0, gamma=None, forces=None, problem=""):
        self.constant, self.gamma, self.forces, self.problem = constant, gamma, forces, problem
        self.origin, self.calls = {}, {}

    def __call__(self, numbers, structures, gamma):
        return [self.one(number, atoms) for number, atoms in zip(numbers, structures, strict=True)]

    def one(self, number, atoms):
        origin = self.origin.setdefault(number, atoms.positions.copy())
        step = self.calls[number] = self.calls.get(number, -1) + 1
        away = atoms.positions - origin
        forces = -self.constant * away if self.forces is None else self.forces(step, away)
        energy = 0.5 * self.constant * float((away**2).sum())
        return Answer(forces, energy, None if self.gamma is None else self.gamma(step), self.problem)


def one_walk(drive, atoms=None, **keys):
    walker = Walker(0, atoms or molecule("CH4"), schedule(**keys), seed=1)
    walk([walker], drive)
    return walker


def steps(walker):
    return [frame.step for frame in walker.frames]


def test_a_walk_that_ends_well_keeps_every_sample():
    walker = one_walk(Harmonic())
    assert walker.ending == "completed"
    assert steps(walker) == [10, 20, 30, 40, 50, 60]


def test_the_heat_bath_gives_the_canonical_distribution():
    atoms = Atoms("Ar200", positions=10.0 * np.arange(600).reshape(200, 3))
    keys = {"steps": 3000, "sample_every": 20, "check_every": 20, "timestep_fs": 2.0, "friction": 0.05}
    drive = Harmonic(constant=2.0)
    walker = one_walk(drive, atoms, keep_together=False, temperature=Ramp(start=400, end=400), **keys)
    late = [frame.positions - drive.origin[0] for frame in walker.frames if frame.step > 600]
    # 600 oscillators, about 20 independent times: a statistical error near 1 %
    assert np.mean(np.square(late)) == pytest.approx(units.kB * 400 / 2.0, rel=0.04)


def test_the_temperature_follows_the_ramp():
    walker = one_walk(Harmonic(), temperature=Ramp(start=300, end=900))
    assert [walker.temperature(step) for step in (0, 30, 60)] == [300, 600, 900]


def test_too_large_a_gamma_ends_the_walk_and_keeps_the_last_moment_below():
    walker = one_walk(Harmonic(gamma=lambda step: 0.05 * step))
    assert walker.ending == "novelty"
    # γ = 2 is reached at step 40, met at step 45; all kept frames lie below
    assert steps(walker) == [10, 20, 30, 40]
    assert walker.largest_gamma == pytest.approx(2.25)


def test_the_last_trusted_moment_is_kept_between_samples():
    walker = one_walk(Harmonic(gamma=lambda step: 3.0 if step >= 20 else 1.0))
    assert steps(walker) == [10, 15]


def test_rewinding_drops_the_time_before_the_end():
    walker = one_walk(Harmonic(gamma=lambda step: 3.0 if step >= 50 else 1.0), rewind_fs=10.0)
    # 10 fs are 20 steps of 0.5 fs
    assert steps(walker) == [10, 20, 30]


def test_without_a_limit_gamma_ends_nothing():
    walker = one_walk(Harmonic(gamma=lambda step: 1e6), gamma_max=None)
    assert walker.ending == "completed"


def test_a_start_that_is_novel_itself_is_the_one_frame_kept():
    walker = one_walk(Harmonic(gamma=lambda step: 3.0))
    assert (walker.ending, steps(walker)) == ("novelty", [0])


def test_gamma_is_asked_for_only_when_it_is_looked_at():
    asked = []

    class Watching(Harmonic):
        def __call__(self, numbers, structures, gamma):
            asked.append(gamma)
            return super().__call__(numbers, structures, gamma)

    one_walk(Watching(), steps=12)
    assert [step for step, look in enumerate(asked) if look] == [0, 5, 10, 12]


def test_atoms_that_collide_end_the_walk():
    def crush(step, away):
        forces = np.zeros_like(away)
        forces[1, :] = -20.0  # the first hydrogen lies at (+, +, +) of the carbon
        return forces

    walker = one_walk(Harmonic(forces=crush), check_every=1, gamma_max=None)
    assert walker.ending in {"distance", "overheated"}
    assert walker.last_step < 60


def test_too_close_a_pair_is_seen_at_the_next_look():
    class Teleport(Harmonic):
        def one(self, number, atoms):
            answer = super().one(number, atoms)
            if self.calls[number] == 22:
                atoms.positions[1] = atoms.positions[0] + 0.3
            return answer

    walker = one_walk(Teleport())
    assert (walker.ending, walker.last_step) == ("distance", 25)
    assert steps(walker) == [10, 20]


class FallsApart(Harmonic):
    """After the look at step 20 one atom is somewhere else, and at rest there."""

    def one(self, number, atoms):
        answer = super().one(number, atoms)
        if self.calls[number] == 22:
            atoms.positions[1] += 5.0
            self.origin[number][1] += 5.0
        return answer


def test_a_molecule_that_comes_apart_ends_the_walk():
    walker = one_walk(FallsApart())
    assert (walker.ending, walker.last_step) == ("fragments", 25)


def test_fragments_may_be_allowed():
    assert one_walk(FallsApart(), keep_together=False).ending == "completed"


def test_forces_that_are_not_finite_end_the_walk_with_the_reason():
    class Failing(Harmonic):
        def one(self, number, atoms):
            answer = super().one(number, atoms)
            if self.calls[number] == 33:
                return Answer(np.full_like(answer.forces, np.nan), np.nan, None, "SCF did not converge")
            return answer

    walker = one_walk(Failing())
    assert (walker.ending, walker.detail) == ("not finite", "SCF did not converge")
    assert steps(walker) == [10, 20, 30]


def test_a_runaway_is_overheated():
    walker = one_walk(
        Harmonic(forces=lambda step, away: 100 * away + 1.0), distance_min=0.0, keep_together=False
    )
    assert walker.ending == "overheated"


def test_who_walks_beside_does_not_matter():
    def walks(numbers):
        walkers = [Walker(number, molecule("CH4"), schedule(), seed=5) for number in numbers]
        walk(walkers, Harmonic())
        return {walker.number: walker.frames[-1].positions for walker in walkers}

    alone, together = walks([2]), walks([0, 1, 2])
    assert np.array_equal(alone[2], together[2])
    assert not np.array_equal(together[0], together[1])
