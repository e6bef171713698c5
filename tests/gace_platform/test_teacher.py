"""Teachers: any ASE calculator as a reference, with stress in ASE's sign."""

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule

import gace
from gace.engines.named import make_calculator
from gace.errors import InputError
from gace.potential.bundle import save_bundle
from gace.potential.graph_ace import GraphACE
from gace_platform.labelling.config import TeacherReference, load_label_config
from gace_platform.labelling.engines.base import Failure, make_engine
from gace_platform.labelling.engines.teacher import TeacherEngine


def teacher(calculator: str, **changes) -> TeacherEngine:
    return TeacherEngine(TeacherReference(engine="teacher", calculator=calculator, **changes))


def strained_silicon() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=3)
    strain = np.eye(3) + 0.03 * np.random.default_rng(0).normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms


def numerical_stress(engine: TeacherEngine, atoms: Atoms, step: float) -> np.ndarray:
    """Central differences of the energy by symmetric strain over the volume, eV/Å³ (3, 3)."""
    stress = np.zeros((3, 3))
    for row in range(3):
        for column in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[row, column] += sign * step / 2
                strain[column, row] += sign * step / 2
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                energies.append(engine.run(strained, 0).energy)
            stress[row, column] = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
    return stress


def test_the_silicon_teacher_gives_the_published_crystal():
    """Tersoff 1988: lattice constant 5.432 Å, cohesive energy 4.63 eV per atom."""
    label = teacher("tersoff-si").run(bulk("Si", a=5.432), 0)
    assert label.energy / 2 == pytest.approx(-4.63, abs=0.005)
    assert np.abs(label.stress).max() < 1e-4


def test_the_stress_of_the_silicon_teacher_is_the_derivative_of_its_energy():
    engine, atoms = teacher("tersoff-si"), strained_silicon()
    # central differences with step 1e-5 leave about 1e-10 relative truncation and 1e-9 rounding error
    np.testing.assert_allclose(engine.run(atoms, 0).stress, numerical_stress(engine, atoms, 1e-5), atol=1e-8)


def test_the_forces_of_the_silicon_teacher_are_the_derivative_of_its_energy():
    engine, atoms = teacher("tersoff-si"), strained_silicon()
    step = 1e-5
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * step
        energies.append(engine.run(moved, 0).energy)
    assert engine.run(atoms, 0).forces[2, 1] == pytest.approx(
        (energies[1] - energies[0]) / (2 * step), abs=1e-7
    )


def test_a_stretched_crystal_is_under_tension():
    assert np.trace(teacher("tersoff-si").run(bulk("Si", a=5.6), 0).stress) > 0


def test_a_molecule_has_no_stress():
    assert teacher("tblite").run(molecule("H2O"), 0).stress is None


def test_tblite_sees_charge_and_spin():
    water = molecule("H2O")
    neutral = teacher("tblite").run(water, 0).energy
    water.info["charge"] = 1
    assert teacher("tblite").charge_and_spin(water) == (1, 1)
    assert teacher("tblite").run(water, 0).energy - neutral > 5.0  # eV; water's ionisation energy is 12.6


def test_an_impossible_spin_is_refused():
    oxygen = molecule("O2")
    oxygen.info["spin"] = 1
    with pytest.raises(InputError, match="unpaired"):
        teacher("tblite").check([oxygen])


def test_unconverged_tight_binding_is_a_failure():
    with pytest.raises(Failure) as failure:
        teacher("tblite", kwargs={"max_iterations": 1}).run(molecule("CH3CH2OH"), 0)
    assert failure.value.failure_class == "unconverged"


def test_settings_tell_teachers_apart():
    settings = [
        teacher("tblite").settings(),
        teacher("tblite", kwargs={"method": "GFN1-xTB"}).settings(),
        teacher("emt").settings(),
        teacher("emt", version="2").settings(),
    ]
    assert all(settings[i] != settings[j] for i in range(4) for j in range(i))


def test_any_ase_calculator_can_be_named_by_its_import_path():
    calculator = make_calculator("ase.calculators.lj:LennardJones", rc=5.0)
    assert calculator.parameters["rc"] == 5.0


def test_the_reference_decides_the_engine():
    engine = make_engine(TeacherReference(engine="teacher", calculator="emt"))
    assert engine.settings()["engine"] == "teacher"


def test_a_bundle_teaches_and_its_content_is_part_of_the_key(tmp_path):
    atoms, labels, keys = strained_silicon(), [], []
    for seed in (0, 1):  # in the same folder
        model = GraphACE.from_preset("1L-small", elements=["Si"], channels=4, cutoff=3.0, seed=seed)
        potential = gace.Potential([model], isolated_atom_energies={"Si": -1.0})
        save_bundle(potential, tmp_path / "bundle")
        engine = teacher("gace", kwargs={"bundle": str(tmp_path / "bundle")})
        labels.append(engine.run(atoms, 0))
        keys.append(engine.settings())
        again = atoms.copy()
        again.calc = potential.calculator(uncertainty=False)
        assert labels[-1].energy == pytest.approx(again.get_potential_energy(), abs=1e-8)
    assert keys[0] != keys[1]
    assert labels[0].energy != labels[1].energy
    assert str(tmp_path) not in str(keys)  # the same bundle elsewhere is the same teacher


def test_a_bundle_that_is_absent_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        teacher("gace", kwargs={"bundle": str(tmp_path / "nowhere")}).settings()


def test_a_teacher_without_its_bundle_is_told_what_it_needs():
    with pytest.raises(InputError, match="need a bundle"):
        teacher("gace").settings()


def test_paths_of_a_teacher_count_from_the_files_folder(tmp_path, monkeypatch):
    content = {
        "reference": {
            "engine": "teacher",
            "calculator": "gace",
            "kwargs": {"bundle": "potential"},
            "faults": {"scratch": "lost"},
        },
        "store": "labels",
    }
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir("/")
    found = load_label_config(tmp_path / "labels.yaml").reference
    assert found.kwargs["bundle"] == str(tmp_path / "potential")
    assert found.faults.scratch == tmp_path / "lost"


def test_a_version_does_not_make_the_bundles_folder_part_of_the_key(tmp_path):
    model = GraphACE.from_preset("1L-small", elements=["Si"], channels=4, cutoff=3.0, seed=0)
    keys = []
    for name in ("here", "there"):
        save_bundle(gace.Potential([model], isolated_atom_energies={"Si": -1.0}), tmp_path / name)
        keys.append(teacher("gace", version="2", kwargs={"bundle": str(tmp_path / name)}).settings())
    assert keys[0] == keys[1]
    assert keys[0]["code_version"].startswith("2 ")
