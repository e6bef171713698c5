"""The engine pyscf-gth: what it refuses, what fails, physics against finite differences on a tiny cell."""

import io

import numpy as np
import pytest
from ase.build import bulk, molecule

from gace.errors import InputError
from gace_platform.labelling.batch import label_structures
from gace_platform.labelling.config import LabelConfig, PySCFCrystalReference
from gace_platform.labelling.engines.base import Failure, make_engine
from gace_platform.labelling.supervisor import EngineProcess

pytest.importorskip("pyscf")


def reference(**changes):
    content = {"engine": "pyscf-gth", "basis": "gth-szv", "cutoff": 40, "kpoints_distance": 1.3}
    return PySCFCrystalReference(**{**content, **changes})


def engine(**changes):
    return make_engine(reference(**changes))


def silicon():
    """Two atoms, moved and strained, with a gap still."""
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.rattle(0.03, seed=1)
    strained = atoms.cell.array @ np.array([[1.03, 0.02, 0], [0.02, 0.98, 0.01], [0, 0.01, 1.02]])
    atoms.set_cell(strained, scale_atoms=True)
    return atoms


def stating(**info):
    atoms = silicon()
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize(
    ("changes", "structure", "message"),
    [
        ({}, molecule("SiH4"), "not periodic"),
        ({}, stating(charge=1), "neutral cells"),
        ({}, stating(spin=1), "impossible"),
        ({}, stating(spin=2), "more than one k-point"),
        ({"basis": "gth-szw"}, silicon(), "basis 'gth-szw' has nothing for Si"),
        ({"functional": "BLYP"}, bulk("U", "fcc", a=5.0), "has nothing for U"),
    ],
)
def test_what_is_not_sound_is_refused(changes, structure, message):
    with pytest.raises(InputError, match=message):
        engine(**changes).check([structure])


def test_a_hybrid_functional_is_refused_with_the_file():
    with pytest.raises(ValueError, match="functional"):
        reference(functional="PBE0")


def test_every_setting_that_moves_a_label_enters_the_key():
    plain = engine().settings()
    for changes in (
        {"functional": "PADE"},
        {"basis": "gth-dzvp"},
        {"cutoff": 60},
        {"kpoints_distance": None},
    ):
        assert engine(**changes).settings() != plain
    assert engine(max_cycle=99, gap_min=0.2).settings() == plain


def test_isolated_atoms_are_computed_at_the_centre_of_the_zone_with_their_spin():
    made = engine(kpoints_distance=0.3)
    atom = made.isolated_atom("Si")
    # what reaches the engine's process is the structure alone
    del atom.info["config_type"]
    made.check([atom])
    assert made.mesh(atom) == (1, 1, 1)
    assert made.mesh(silicon()) != (1, 1, 1)


@pytest.mark.slow
@pytest.mark.dft
def test_a_crystal_without_a_gap_is_a_failure_that_nothing_mends():
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.rattle(0.1, seed=1)
    strained = atoms.cell.array @ np.array([[1.04, 0.03, 0], [0.03, 0.97, 0.02], [0, 0.02, 1.01]])
    atoms.set_cell(strained, scale_atoms=True)
    with pytest.raises(Failure, match=r"band gap of -?0\.0") as failure:
        engine(kpoints_distance=1.0).run(atoms, 0)
    assert failure.value.failure_class == "geometry"


@pytest.mark.dft
def test_an_unconverged_field_is_no_label(tmp_path):
    config = LabelConfig(reference=reference(max_cycle=1, cutoff=30), store=tmp_path / "store", attempts=1)
    with EngineProcess(config, tmp_path / "engine.log") as process:
        (verdict,) = label_structures([silicon()], config, process)
    assert verdict.verdict == "quarantined"
    assert verdict.reason.startswith("unconverged: no self-consistency in 1 cycles (diis)")


@pytest.mark.slow
@pytest.mark.dft
@pytest.mark.timeout(1800)
def test_forces_and_stress_are_slopes_of_the_energy():
    """A batch through store and gate first, then central differences of what its engine says."""
    made, step = engine(conv_tol=1e-10), 0.01
    atoms = silicon()
    label = made.run(atoms, 0)
    # what the grid leaves of the net force
    assert np.abs(label.forces.sum(axis=0)).max() < 2e-3
    direction = np.random.default_rng(0).normal(size=(2, 3))
    direction -= direction.mean(axis=0)

    def slope(move):
        moved = [move(atoms.copy(), sign * step) for sign in (1, -1)]
        energies = [float(made._field(one, 0, io.StringIO()).kernel()) * 27.211386245988 for one in moved]
        return (energies[0] - energies[1]) / (2 * step)

    def shift(one, amount):
        one.positions += amount * direction
        return one

    def strain(tensor):
        def move(one, amount):
            one.set_cell(one.cell.array @ (np.eye(3) + amount * tensor), scale_atoms=True)
            return one

        return move

    found = slope(shift)
    assert abs(found) > 0.1
    # third-order terms of the difference, and atoms that move against the grid
    assert -np.sum(label.forces * direction) == pytest.approx(found, rel=3e-3, abs=3e-3)
    for tensor in (np.eye(3) / np.sqrt(3), label.stress - np.trace(label.stress) / 3 * np.eye(3)):
        tensor = tensor / np.linalg.norm(tensor)
        found = slope(strain(tensor)) / atoms.get_volume()
        assert abs(found) > 0.005
        # the grid keeps its points as the cell is strained, so nothing jumps
        assert np.sum(label.stress * tensor) == pytest.approx(found, rel=0.01, abs=1e-4)


@pytest.mark.slow
@pytest.mark.dft
@pytest.mark.timeout(1800)
def test_a_batch_goes_through_store_and_gate_with_its_isolated_atoms(tmp_path):
    from gace.structures.io import read_structures, write_structures
    from gace_platform.labelling.run import run_labels

    write_structures(tmp_path / "pool.xyz", [silicon()])
    config = LabelConfig(
        reference=reference(isolated_box=5), structures=tmp_path / "pool.xyz", store=tmp_path / "store",
        isolated_atoms=True, attempts=2,
    )  # fmt: skip
    summary = run_labels(config, tmp_path / "out")
    assert summary["accepted"] == 1
    (labelled,) = read_structures(tmp_path / "out" / "labelled.xyz")
    (atom,) = read_structures(tmp_path / "out" / "isolated_atoms.xyz")
    assert -8 < labelled.info["REF_energy"] / 2 - atom.info["REF_energy"] < -2
    assert labelled.info["REF_stress"].shape == (3, 3)
    assert run_labels(config, tmp_path / "again")["computed"] == 0
