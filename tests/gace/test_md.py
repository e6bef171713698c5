"""Molecular dynamics, with a model potential whose trajectories are known."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from gace.engines import molecular_dynamics
from gace.errors import InputError


@pytest.fixture
def copper():
    return bulk("Cu", cubic=True).repeat(2)


def run(atoms, **options):
    return molecular_dynamics(atoms, EMT(), **{"steps": 40, "timestep": 2.0, "seed": 3, **options})


def test_total_energy_is_conserved_without_a_thermostat(copper):
    energies = []
    outcome = run(
        copper, steps=200, ensemble="nve", temperature=600, every=5,
        observe=lambda frame: energies.append(frame.total_energy),
    )  # fmt: skip
    # velocity Verlet at 2 fs for copper: a few 1e-5 eV per atom around the mean
    assert np.ptp(energies) / len(copper) < 1e-3
    assert abs(outcome.energy_drift) < 1.0


def test_nve_with_the_graph_potential(single):
    """A drift says that forces are not the derivative of the energy, or that lists miss neighbours."""
    from ase.build import molecule

    from gace.engines import relaxation

    start = relaxation(molecule("H2O"), single.calculator(), fmax=0.5, steps=200).atoms
    outcome = molecular_dynamics(
        start, single.calculator(), steps=400, timestep=0.02, ensemble="nve", temperature=300, seed=1
    )
    kinetic = 1.5 * units.kB * 300 * 1000
    # over the run the total energy moves by less than 1 % of the kinetic energy of one atom
    assert outcome.status == "done"
    assert abs(outcome.energy_drift) * 400 * 0.02e-3 < 0.01 * kinetic


def test_thermostat_reaches_its_temperature(copper):
    outcome = run(copper, steps=600, temperature=500, friction=0.02)
    # 96 degrees of freedom: the mean over the second half fluctuates by some 10 %
    assert outcome.mean_temperature == pytest.approx(500, rel=0.25)


def test_ramp_heats(copper):
    temperatures = []
    run(
        copper, steps=600, temperature=100, final_temperature=1200, friction=0.05,
        observe=lambda frame: temperatures.append(frame.temperature),
    )  # fmt: skip
    assert np.mean(temperatures[-10:]) > 3 * np.mean(temperatures[:10])


def test_equal_seeds_give_equal_trajectories(copper):
    assert np.array_equal(run(copper).atoms.positions, run(copper).atoms.positions)


def test_other_seeds_give_other_trajectories(copper):
    assert not np.array_equal(run(copper).atoms.positions, run(copper, seed=4).atoms.positions)


def test_the_start_is_left_alone(copper):
    before = copper.positions.copy()
    run(copper)
    assert np.array_equal(copper.positions, before)
    assert copper.calc is None


def test_initial_velocities_are_kept(copper):
    copper.set_velocities(np.full((len(copper), 3), 0.01))
    frames = []
    run(copper, steps=0, observe=lambda frame: frames.append(frame.atoms.get_velocities()))
    np.testing.assert_allclose(frames[0], 0.01)


def test_first_and_last_step_are_observed(copper):
    steps = []
    run(copper, steps=25, every=10, observe=lambda frame: steps.append(frame.step))
    assert steps == [0, 10, 20, 25]


def test_an_observer_can_stop(copper):
    outcome = run(copper, every=5, observe=lambda frame: frame.step < 15)
    assert (outcome.status, outcome.steps) == ("stopped", 15)


def test_runaway_is_an_ending_not_an_error():
    close = Atoms("ArAr", positions=[[0, 0, 0], [0, 0, 0.45]])
    outcome = molecular_dynamics(close, LennardJones(), steps=50, timestep=5.0, every=1)
    assert outcome.status == "diverged"
    assert outcome.steps < 50


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", -1),
        ("temperature", -5),
        ("timestep", 0),
        ("friction", -1),
        ("every", 0),
        ("final_temperature", -50),
        ("final_temperature", float("nan")),
        ("temperature", float("inf")),
        ("timestep", float("inf")),
        ("friction", float("inf")),
    ],
)
def test_impossible_numbers_are_named(copper, option, value):
    with pytest.raises(InputError, match=option):
        run(copper, **{option: value})


def test_unknown_ensemble_is_named(copper):
    with pytest.raises(InputError, match="no ensemble called 'npt'"):
        run(copper, ensemble="npt")


def test_a_runaway_between_two_observations_is_an_ending_too(single):
    """Forces, then positions become NaN within a stride, which the search for neighbours refuses."""
    from ase.build import molecule

    class Torn(type(single.calculator())):
        def calculate(self, *arguments):
            super().calculate(*arguments)
            self.results["forces"] *= np.nan if np.abs(self.atoms.positions).max() > 30 else 1e4

    calculator = Torn(single)
    outcome = molecular_dynamics(molecule("H2O"), calculator, steps=60, timestep=1.0, every=60)
    assert outcome.status == "diverged"
    assert outcome.steps < 60
    with pytest.raises(InputError, match="no parameters for element"):
        molecular_dynamics(molecule("HCl"), calculator, steps=1)


def test_a_ramp_without_a_thermostat_is_refused(copper):
    with pytest.raises(InputError, match="final temperature"):
        run(copper, ensemble="nve", final_temperature=500.0)
