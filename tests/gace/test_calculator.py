"""The ASE calculator and its reused neighbour lists."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

import gace
from gace.engines.verlet import VerletList
from gace.errors import InputError
from gace.potential import compiled
from gace.structures.neighbours import neighbourhood


def attached(atoms, potential, **options):
    atoms = atoms.copy()
    atoms.calc = potential.calculator(**options)
    return atoms


def test_results_are_those_of_the_potential(committee, ethanol):
    atoms = attached(ethanol, committee)
    (expected,) = committee.predict([ethanol], uncertainty=True)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.energies, atol=1e-10)


def test_error_bars_and_novelty_are_properties(committee, ethanol):
    atoms = attached(ethanol, committee)
    (expected,) = committee.predict([ethanol], uncertainty=True)
    for name in ("energy_std", "forces_std", "gamma"):
        found = atoms.calc.get_property(name, atoms)
        # the graph here has other padding, so sums round differently
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-8)


def test_single_model_has_no_error_bars(single, ethanol):
    atoms = attached(ethanol, single)
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("energy_std", atoms)


def test_error_bars_can_be_switched_off(committee, ethanol):
    atoms = attached(ethanol, committee, uncertainty=False)
    atoms.get_forces()
    assert "gamma" not in atoms.calc.results
    assert "gamma" not in atoms.calc.implemented_properties


def test_stress_has_ases_sign_and_order(silicon_potential, silicon):
    atoms = attached(silicon, silicon_potential)
    numerical = np.zeros(6)
    step = 1e-5
    for index, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            strained = attached(silicon, silicon_potential)
            strained.set_cell(silicon.cell.array @ strain, scale_atoms=True)
            numerical[index] += sign * strained.get_potential_energy() / (2 * step)
    numerical /= silicon.get_volume()
    # central difference of step 1e-5
    np.testing.assert_allclose(atoms.get_stress(), numerical, rtol=1e-5, atol=1e-7 * abs(numerical).max())


def test_molecule_has_no_stress(single, ethanol):
    with pytest.raises(PropertyNotImplementedError):
        attached(ethanol, single).get_stress()


def test_unknown_element_is_explained(single):
    with pytest.raises(InputError, match="no parameters for element Cl: this potential knows H, C, O"):
        attached(molecule("HCl"), single).get_potential_energy()


def test_one_calculator_serves_many_structures(single, silicon):
    calculator = single.calculator()
    for atoms in (molecule("H2O"), molecule("CH4"), molecule("H2O"), Atoms("H")):
        atoms.calc = calculator
        found = atoms.get_potential_energy()
        assert found == pytest.approx(single.predict([atoms])[0].energy, abs=1e-10)


def test_potential_keeps_trainable_parameters(single):
    single.calculator()
    assert all(parameter.requires_grad for parameter in single.members[0].parameters())


def same(found, expected):
    return all(np.array_equal(one, two, equal_nan=True) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("start", [molecule("CH3CH2OH"), bulk("Si").repeat(2)], ids=["molecule", "crystal"])
def test_reused_lists_are_bit_for_bit_fresh_ones(start):
    elements = ("H", "C", "O", "Si")
    atoms, rng = start.copy(), np.random.default_rng(0)
    reused = VerletList(elements, 4.0, skin=0.6)
    for _ in range(40):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        assert same(reused.neighbourhood(atoms), neighbourhood(atoms, elements, 4.0))
    assert 1 < reused.searches < 20


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_cell(atoms.cell.array * 1.01),
        lambda atoms: atoms.set_pbc((True, True, False)),
        lambda atoms: atoms.numbers.__setitem__(0, 6),
        lambda atoms: atoms.positions.__setitem__((0, 0), 0.31),
    ],
    ids=["cell", "pbc", "element", "move"],
)
def test_lists_are_renewed(change):
    atoms = bulk("Si")
    reused = VerletList(("Si", "C"), 4.0, skin=0.6)
    reused.neighbourhood(atoms)
    change(atoms)
    assert same(reused.neighbourhood(atoms), neighbourhood(atoms, ("Si", "C"), 4.0))
    assert reused.searches == 2


def test_wrapped_atoms_are_found_again(silicon_potential, silicon):
    atoms = attached(silicon, silicon_potential)
    before = atoms.get_potential_energy()
    atoms.positions[1] += atoms.cell[0]
    assert atoms.get_potential_energy() == pytest.approx(before, abs=1e-9)


def test_a_refused_structure_leaves_the_list_as_it_was(single):
    """Atoms of other species at the same places, refused for want of a cell, then the first ones again."""
    water = molecule("H2O")
    refused = Atoms("HOH", water.positions, pbc=True)
    calculator = single.calculator()
    expected = calculator.get_potential_energy(water)
    with pytest.raises(InputError, match="without a cell vector"):
        calculator.get_potential_energy(refused)
    assert calculator.get_potential_energy(water) == expected


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_impossible_skins_are_refused(single, skin):
    with pytest.raises(InputError, match="skin must be a length of 0 Å or more"):
        single.calculator(skin=skin)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("path", ["tabulated", "eager"])
def test_nothing_depends_on_what_the_caller_differentiates(single, bundle, ethanol, mode, path):
    """Forces are the potential's own derivatives: calculators are made and used where gradients are off."""
    expected = attached(ethanol, single).get_forces()
    with mode():
        made = attached(ethanol, single, path=path)
        assert made.get_forces() == pytest.approx(expected, abs=1e-6)
        loaded = gace.load(bundle, device="cpu", dtype="float32")
        inside = attached(ethanol, loaded, path=path, dtype="float64")
        (inside_too,) = loaded.to(dtype="float64").predict([ethanol])
        forces = inside.get_forces()
    assert inside_too.forces == pytest.approx(forces, abs=1e-6)
    made.calc.reset()
    assert made.get_forces() == pytest.approx(expected, abs=1e-6)
    inside.calc.reset()
    assert np.array_equal(inside.get_forces(), forces)


@pytest.mark.parametrize("path", ["compiled", "auto"])
def test_calculators_with_code_can_be_copied(committee, ethanol, monkeypatch, path):
    """The copy says the same, by code of its own that its members share."""
    monkeypatch.setattr(compiled, "compiler_available", lambda: True)
    monkeypatch.setattr(compiled, "CompiledFunction", _Plainly)
    atoms = attached(ethanol, committee, path=path)
    energy = atoms.get_potential_energy()
    other = copy.deepcopy(atoms.calc)
    codes = [one.func for one in other.potential._evaluators]
    assert codes[0] is codes[-1] is not atoms.calc.potential._evaluators[0].func
    assert (codes[0].functions, codes[0].wait) == ({}, path == "compiled")
    other.reset()
    assert other.get_potential_energy(ethanol) == pytest.approx(energy, abs=1e-10)


class _Plainly:
    """A function that claims to be compiled, and can no more be copied than one that is."""

    seconds = 0.0

    def __init__(self, function, example) -> None:
        self.function = function

    def __reduce__(self):
        raise TypeError("code cannot be copied")

    def __call__(self, *arguments):
        return self.function(*arguments)
