"""A model of torch-sim says of each system what the ASE calculator says, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule

from gace.errors import InputError
from gace.potential.potential import Potential

ts = pytest.importorskip("torch_sim", reason="needs torch-sim: pip install 'gace[torchsim]'")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from gace.engines.torchsim import TorchSimModel  # noqa: E402

CPU = torch.device("cpu")


def state_of(structures, dtype=torch.float64):
    return ts.io.atoms_to_state(structures, CPU, dtype)


@pytest.fixture
def crystals():
    """Periodic cells of several elements, shapes and sizes, one smaller than the cutoff."""
    diamond = bulk("C", cubic=True)
    diamond.rattle(0.05, seed=1)
    skewed = Atoms(
        "C2OH",
        scaled_positions=[[0.05, 0.1, 0.1], [0.45, 0.6, 0.5], [0.7, 0.2, 0.8], [0.3, 0.9, 0.35]],
        cell=[[3.1, 0.2, 0], [0.9, 3.3, 0.1], [-0.6, 1.1, 3.6]],
        pbc=True,
    )
    return [skewed, diamond, skewed.repeat((2, 1, 1))]


@pytest.mark.parametrize("batch_atoms", [1, None], ids=["one by one", "together"])
def test_crystals_as_in_ase(committee, crystals, batch_atoms):
    found = TorchSimModel(committee, uncertainty=True, batch_atoms=batch_atoms)(state_of(crystals))
    expected = committee.predict(crystals, uncertainty=True)
    # the same graph, summed in another order
    for index, one in enumerate(expected):
        own = np.repeat([0, 1, 2], [len(atoms) for atoms in crystals]) == index
        assert found["energy"][index].item() == pytest.approx(one.energy, abs=1e-8)
        assert found["energy_std"][index].item() == pytest.approx(one.energy_std, abs=1e-8)
        np.testing.assert_allclose(found["forces"][own], one.forces, atol=1e-9)
        np.testing.assert_allclose(found["stress"][index], one.stress, atol=1e-9)
        np.testing.assert_allclose(found["energies"][own], one.energies, atol=1e-9)
        np.testing.assert_allclose(found["gamma"][own], one.gamma, rtol=1e-9)


def test_molecules_as_in_ase(single, ethanols):
    water = molecule("H2O")
    found = TorchSimModel(single)(state_of([*ethanols[:2], water]))
    calculator = single.calculator()
    forces = np.concatenate([calculator.get_forces(atoms) for atoms in [*ethanols[:2], water]])
    np.testing.assert_allclose(found["forces"], forces, atol=1e-9)
    assert torch.isnan(found["stress"]).all()
    assert "gamma" not in found


def test_the_interface_of_torch_sim_is_kept(make_model):
    potential = Potential(
        [make_model(elements=["Si", "Fe"])], isolated_atom_energies={"Si": -7870.0, "Fe": -3e4}
    )
    validate_model_outputs(TorchSimModel(potential), CPU, torch.float64)


def test_replicas_conserve_their_energies(single):
    from gace.engines import relaxation

    water = relaxation(molecule("H2O"), single.calculator(), fmax=0.5, steps=200).atoms
    model = TorchSimModel(single)
    state = state_of([water] * 4)
    setup, step = ts.nve(model, dt=torch.tensor(0.02 * units.fs), kT=torch.tensor(300 * units.kB))
    state = setup(state, seed=3)

    def total():
        kinetic = ts.calc_kinetic_energy(
            masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
        )
        return (state.energy + kinetic).numpy().copy()

    before, start = total(), state.positions.clone()
    for _ in range(100):
        state = step(state)
    # as the same test with ASE's integrator: 1 % of the mean kinetic energy of an atom
    np.testing.assert_allclose(total(), before, atol=4e-4 * 3, rtol=0)
    moved = (state.positions - start).reshape(4, -1)
    assert moved.abs().max() > 1e-3
    assert not torch.equal(moved[0], moved[1])  # each replica has its own velocities
    assert model.searches < 4 * 10


def test_lists_follow_when_systems_change_places(single, ethanols):
    model, water = TorchSimModel(single), molecule("H2O")
    model(state_of([water, ethanols[0]]))
    found = model(state_of([ethanols[0], ethanols[1], water]))["energy"]
    expected = [one.energy for one in single.predict([ethanols[0], ethanols[1], water])]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_single_precision_is_kept(single, ethanol):
    found = TorchSimModel(single, dtype="float32")(state_of([ethanol], torch.float32))
    assert found["forces"].dtype == torch.float32
    np.testing.assert_allclose(found["forces"], single.predict([ethanol])[0].forces, atol=1e-3)


def test_an_unknown_element_is_named(single):
    with pytest.raises(InputError, match="Si"):
        TorchSimModel(single)(state_of([bulk("Si")]))


def test_an_impossible_skin_is_refused(single):
    with pytest.raises(InputError, match="skin"):
        TorchSimModel(single, skin=-1.0)
