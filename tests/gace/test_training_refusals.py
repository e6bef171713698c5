"""Bad training data end in one line that names the structure, before anything is computed."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from gace.errors import InputError
from gace.structures.io import set_labels, write_structures
from gace.training.run import train

TINY = {"channels": 2, "l_max": [1], "order": 2, "radial_hidden": [4], "densities": 2, "readout_hidden": 2}


def cells(n: int = 4) -> list[Atoms]:
    """Rattled copper cells, labelled by EMT."""
    rng, found = np.random.default_rng(0), []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True, a=3.7)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        energy, forces, stress = (
            atoms.get_potential_energy(),
            atoms.get_forces(),
            atoms.get_stress(voigt=False),
        )
        found.append(set_labels(atoms, energy, forces, stress))
    return found


@pytest.fixture
def refusal(tmp_path):
    """A function that trains on structures and returns the message of its refusal."""

    def told(structures, **sections):
        write_structures(tmp_path / "train.xyz", structures)
        config = {
            "data": {"train": str(tmp_path / "train.xyz")},
            "potential": {"preset": "1L-small", "cutoff": 3.5, "overrides": TINY},
            "training": {"max_epochs": 2},
        }
        for section, values in sections.items():
            config[section] = {**config[section], **values}
        with pytest.raises(InputError) as caught:
            train(config, tmp_path / "run", progress=False)
        assert not (tmp_path / "run/summary.json").exists()
        return str(caught.value)

    return told


def coincide(atoms):
    atoms.positions[1] = atoms.positions[0]


def nowhere(atoms):
    atoms.positions[0, 0] = np.nan


def without_cell(atoms):
    atoms.cell[0] = 0.0


def four_stresses(atoms):
    atoms.info["REF_stress"] = np.ones(4)


def huge_energy(atoms):
    atoms.info["REF_energy"] = 1e30


def huge_force(atoms):
    atoms.arrays["REF_forces"][1, 2] = 1e200


LINEAR = {"preset": "linear-small", "overrides": {"size": 20}}


@pytest.mark.parametrize("sections", [{}, {"data": {"on_disk": True}}, {"potential": LINEAR}])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (coincide, "two atoms are less than 0.001 Å apart"),
        (nowhere, "a position is NaN"),
        (without_cell, "without a cell vector"),
        (four_stresses, "a stress has 6 or 9 numbers"),
        (huge_energy, "a label of its energy of 1e+30"),
        (huge_force, "a label of its forces of 1e+200"),
    ],
)
def test_a_spoilt_structure_is_named(refusal, spoil, message, sections):
    structures = cells()
    spoil(structures[2])
    told = refusal(structures, **sections)
    assert "train.xyz, frame 2 (Cu4)" in told
    assert message in told


@pytest.mark.parametrize("energy", [np.nan, np.inf, 1e30])
def test_impossible_isolated_atoms_are_refused(refusal, energy):
    assert "data.isolated_atoms: Cu cannot have" in refusal(cells(), data={"isolated_atoms": {"Cu": energy}})


def keep(*names):
    """The structures with only these of their labels."""
    structures = cells()
    for atoms in structures:
        for name in {"energy", "forces", "stress"} - set(names):
            atoms.info.pop(f"REF_{name}", None)
            atoms.arrays.pop(f"REF_{name}", None)
    return structures


@pytest.mark.parametrize(
    ("names", "training", "where"),
    [
        (["energy"], {"energy_weight": 0}, " in stage 1 of 2"),
        (["forces"], {"forces_weight": 0, "final_stage": None}, ""),
        (
            ["energy"],
            {"stages": [{"fraction": 0.5}, {"fraction": 0.5, "energy_weight": 0}]},
            " in stage 2 of 2",
        ),
    ],
)
def test_labels_without_weight_are_no_training(refusal, names, training, where):
    assert refusal(keep(*names), training=training).startswith(f"nothing to learn{where}: no label")


def test_structures_without_weight_are_no_training(refusal):
    structures = cells()
    for atoms in structures:
        atoms.info["weight"] = 0
    assert "nothing to learn" in refusal(structures)


@pytest.mark.parametrize("preset", ["1L-small", "linear-small"])
def test_an_element_that_is_none_is_refused(refusal, preset):
    potential = {"preset": preset, "overrides": {}, "elements": ["Cu", "Xx"]}
    assert "potential.elements: no element 'Xx'" in refusal(cells(), potential=potential)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"readout_hidden": -1}, "readout_hidden must be a whole number, 0 or larger (got -1)"),
        ({"n_radial": 0}, "n_radial must be a whole number, 1 or larger"),
        ({"cutoff_power": 1}, "cutoff_power must be a whole number, 2 or larger"),
        ({"channels": 2.5}, "channels must be a whole number, 1 or larger (got 2.5)"),
        ({"radial_hidden": "wide"}, "radial_hidden must be a list of whole numbers (got 'wide')"),
        ({"radial_hidden": ["wide"]}, "radial_hidden must be whole numbers (got ['wide'])"),
        ({"l_max": 3}, "l_max must be a list of whole numbers (got 3)"),
        ({"order": 2.5}, "order must be a list of whole numbers (got 2.5)"),
        ({"core_reach": -1}, "core_reach must be a number, zero or larger (got -1.0)"),
        ({"order_decay": "slow"}, "order_decay must be a number, zero or larger (got 'slow')"),
        ({"pair_cutoffs": "Cu-Cu"}, "potential.overrides: "),
    ],
)
def test_overrides_of_another_kind_are_refused(refusal, overrides, message):
    assert message in refusal(cells(), potential={"overrides": TINY | overrides})


def test_a_cutoff_without_end_is_refused(refusal):
    assert "potential.cutoff" in refusal(cells(), potential={"cutoff": np.inf})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("training", {"learning_rate": np.inf}),
        ("training", {"energy_weight": np.inf}),
        ("training", {"final_stage": {"forces_weight": np.inf}}),
        ("potential", {"cutoff": np.nan}),
    ],
)
def test_what_is_not_finite_is_refused(refusal, section, values):
    assert "finite number" in refusal(cells(), **{section: values})
