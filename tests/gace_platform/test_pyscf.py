"""The PySCF engine: early refusals, failures, remedies, reproducibility, physics."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import Bohr, Hartree

from gace.errors import InputError
from gace_platform.labelling.batch import label_structures
from gace_platform.labelling.config import LabelConfig, PySCFReference
from gace_platform.labelling.engines.atoms import unpaired_electrons
from gace_platform.labelling.engines.base import Failure
from gace_platform.labelling.engines.pyscf import PySCFEngine
from gace_platform.labelling.engines.pyscf_speed import product
from gace_platform.labelling.supervisor import EngineProcess

pytest.importorskip("pyscf")


def engine(**changes) -> PySCFEngine:
    return PySCFEngine(PySCFReference(**{"basis": "sto-3g", "grid_level": 1, **changes}))


def water(**info) -> Atoms:
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize(
    ("symbol", "unpaired"),
    [
        *[("H", 1), ("He", 0), ("C", 2), ("N", 3), ("O", 2), ("F", 1), ("Si", 2), ("P", 3), ("Ti", 2)],
        *[("Cr", 6), ("Mn", 5), ("Fe", 4), ("Cu", 1), ("Zn", 0), ("Pd", 0), ("Eu", 7), ("Gd", 8)],
        *[("W", 4), ("Pt", 2), ("Au", 1)],
    ],
)
def test_ground_states_of_atoms_follow_hunds_rule(symbol, unpaired):
    assert unpaired_electrons(symbol) == unpaired


@pytest.mark.parametrize(
    ("changes", "structure", "message"),
    [
        ({"functional": "pbee"}, water(), "unknown functional 'pbee'; did you mean 'PBE"),
        ({"functional": "nonsense"}, water(), "unknown functional"),
        ({"functional": "wb97x-d"}, water(), "does not have the functional"),
        ({"basis": "def2-svpp"}, water(), "unknown basis 'def2-svpp'; did you mean 'def2svp"),
        ({"basis": "6-31g"}, Atoms("Au2", [[0, 0, 0], [2.5, 0, 0]]), "has no functions for Au"),
        ({"charge": 1, "spin": 0}, water(), "impossible"),
        ({}, water(spin=1), "impossible"),
        ({}, water(charge=10), "leaves no electrons"),
        ({}, water(charge=0.5), "whole number"),
        ({}, bulk("Si"), "periodic"),
        ({"auxiliary_basis": "nonsense-jfit"}, water(), "auxiliary basis"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, structure, message):
    with pytest.raises(InputError, match=message):
        engine(**changes).check([molecule("H2"), structure])


def test_what_can_be_computed_is_not_refused():
    engine(basis="def2-svp").check([water(), water(charge=1), molecule("O2"), Atoms("Au")])


def test_a_structures_own_charge_and_spin_come_before_the_references():
    both = engine(charge=2, spin=2)
    assert both.charge_and_spin(water()) == (2, 2)
    assert both.charge_and_spin(water(charge=0, spin=0)) == (0, 0)


def test_the_lowest_spin_is_the_default():
    assert engine().charge_and_spin(water()) == (0, 0)
    assert engine().charge_and_spin(water(charge=-1)) == (-1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"functional": "b3lyp"},
        {"basis": "def2-svp"},
        {"density_fit": False},
        {"grid_level": 3},
        {"conv_tol": 1e-9},
    ],
)
def test_every_setting_that_moves_a_label_enters_the_key(changes):
    assert engine(**changes).settings() != engine().settings()


def test_spellings_of_a_basis_are_one_level_of_theory():
    assert engine(basis="def2-SVP").settings() == engine(basis="def2svp").settings()


@pytest.mark.dft
def test_an_unconverged_field_is_a_failure_with_the_end_of_its_log():
    with pytest.raises(Failure) as failure:
        engine(max_cycle=1).run(water(), 0)
    assert failure.value.failure_class == "unconverged"
    assert "not converged" in failure.value.log


@pytest.mark.dft
def test_every_remedy_gives_the_same_label():
    tight = engine(conv_tol=1e-10)
    labels = [tight.run(water(), attempt) for attempt in range(len(tight.remedies()))]
    for label in labels[1:]:
        # each is converged to 1e-10 Hartree; forces follow with its square root times a constant of order one
        assert label.energy == pytest.approx(labels[0].energy, abs=1e-7)
        np.testing.assert_allclose(label.forces, labels[0].forces, atol=2e-4)


@pytest.mark.dft
def test_an_excited_state_is_a_failure(monkeypatch):
    """Second-order steps from swapped orbitals converge, and not to the ground state."""
    from pyscf.soscf.newton_ah import _CIAH_SOSCF

    kernel = _CIAH_SOSCF.kernel

    def from_swapped(field, *_):
        ground = field.undo_soscf().run()
        pairs = field.mol.nelectron // 2
        occupation = np.zeros(field.mol.nao)
        occupation[[*range(pairs - 1), pairs]] = 2
        return kernel(field, ground.mo_coeff, occupation)

    monkeypatch.setattr(_CIAH_SOSCF, "kernel", from_swapped)
    with pytest.raises(Failure, match="excited state") as failure:
        engine(basis="sto-3g", functional="hf").run(water(), 2)
    assert failure.value.failure_class == "unconverged"


@pytest.mark.dft
def test_an_unconverged_structure_never_becomes_a_label(tmp_path):
    reference = PySCFReference(basis="sto-3g", grid_level=0, max_cycle=1)
    config = LabelConfig(reference=reference, store=tmp_path / "store", attempts=1)
    with EngineProcess(config, tmp_path / "engine.log") as process:
        (verdict,) = label_structures([water()], config, process)
    assert verdict.verdict == "quarantined"
    assert verdict.reason.startswith("unconverged: no self-consistency in 1 cycles (diis)")
    assert verdict.record.energy is None
    assert "REF_energy" not in verdict.atoms.info


@pytest.mark.dft
def test_forces_agree_with_finite_differences_of_the_energy():
    """Below 1 meV/Å with the default settings, of which the integration grid leaves some tenths."""
    reference = PySCFEngine(PySCFReference())
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=2)
    forces = reference.run(atoms, 0).forces
    step = 1e-3
    for atom, axis in ((0, 2), (1, 1), (2, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(reference.run(moved, 0).energy)
        assert forces[atom, axis] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=1e-3)


needs_dispersion = pytest.mark.skipif(
    importlib.util.find_spec("pyscf.dispersion") is None,
    reason="pyscf-dispersion is not installed: pip install 'gace[dispersion]'",
)


def methane_pair(distance=3.6):
    """Two methane molecules that little but dispersion holds together."""
    first, second = molecule("CH4"), molecule("CH4")
    second.rotate(40, (1, 1, 0))
    second.translate((distance, 0, 0))
    return first + second


@needs_dispersion
@pytest.mark.dft
@pytest.mark.parametrize(("correction", "density_fit"), [("d3bj", True), ("d3zero", True), ("d4", False)])
def test_dispersion_pulls_and_its_forces_are_its_slope(correction, density_fit):
    """Energy and forces of the correction alone: the difference to the same label without it."""
    step, plain = 0.01, engine(density_fit=density_fit)
    corrected = engine(density_fit=density_fit, dispersion=correction)
    corrected.check([methane_pair()])
    added = {}
    for shift in (-step, 0.0, step):
        labels = [one.run(methane_pair(3.6 + shift), 0) for one in (corrected, plain)]
        added[shift] = labels[0].energy - labels[1].energy, labels[0].forces - labels[1].forces
    energy, forces = added[0.0]
    assert -0.2 < energy < -0.01
    pull = forces[5:, 0].sum()
    assert pull < -0.01
    # a smooth sum over pairs: what is left is the difference's third order and the convergence of the fields
    assert pull == pytest.approx(-(added[step][0] - added[-step][0]) / (2 * step), abs=3e-4)


@needs_dispersion
@pytest.mark.dft
def test_remedies_keep_the_dispersion():
    corrected = engine(dispersion="d4", conv_tol=1e-10)
    energies = [corrected.run(methane_pair(), attempt).energy for attempt in (0, 2)]
    assert np.ptp(energies) < 1e-6
    assert energies[0] < engine(conv_tol=1e-10).run(methane_pair(), 0).energy - 0.01


@needs_dispersion
@pytest.mark.parametrize(
    "changes", [{"functional": "slater", "dispersion": "d4"}, {"functional": "slater-d3bj"}]
)
def test_a_functional_without_parameters_of_dispersion_is_refused(changes):
    with pytest.raises(InputError, match="no dispersion correction"):
        engine(**changes).check([water()])


@needs_dispersion
def test_dispersion_and_its_version_enter_the_key():
    settings = engine(dispersion="d4").settings()
    assert settings["dispersion_version"][0].isdigit()
    assert settings != engine(dispersion="d3bj").settings()
    assert "dispersion_version" not in engine().settings()


@pytest.mark.dft
def test_with_grid_response_the_net_force_vanishes():
    label = engine(grid_response=True, basis="def2-svp").run(water(), 0)
    assert np.abs(label.forces.sum(axis=0)).max() < 1e-5


@pytest.mark.dft
def test_oxygen_is_a_triplet():
    oxygen = molecule("O2")
    energies = {spin: engine().run(with_spin(oxygen, spin), 0).energy for spin in (0, 2)}
    assert energies[2] < energies[0]


def with_spin(atoms: Atoms, spin: int) -> Atoms:
    copy = atoms.copy()
    copy.info["spin"] = spin
    return copy


@pytest.mark.dft
@pytest.mark.parametrize("symbol", ["H", "C", "O"])
def test_isolated_atoms_converge_in_their_ground_state(symbol):
    atom = engine(basis="def2-svp").isolated_atom(symbol)
    label = engine(basis="def2-svp").run(atom, 0)
    published = {"H": -13.568, "C": -1027.26, "O": -2038.53}  # eV; H as in rMD17, C and O spin-polarised PBE
    assert label.energy == pytest.approx(published[symbol], abs=0.05)
    assert np.abs(label.forces).max() == 0.0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (1, 1), (-2.0, 0), (0.5, 3.0)])
def test_the_fast_product_keeps_pyscfs_contract(order, alpha, beta):
    random = np.random.default_rng(0)
    a, b = (np.asarray(random.normal(size=shape), order=order) for shape in ((4, 7), (7, 5)))
    c = random.normal(size=(4, 5))
    expected = alpha * a @ b + beta * c
    assert product(a, b, alpha, c, beta) is c
    np.testing.assert_allclose(c, expected, atol=1e-14)
    np.testing.assert_allclose(product(a, b, alpha), alpha * a @ b, atol=1e-14)


@pytest.mark.dft
def test_what_makes_labels_cheap_does_not_move_them():
    from pyscf import dft, gto

    atoms = molecule("CH3OH")
    label = PySCFEngine(PySCFReference(conv_tol=1e-10)).run(atoms, 0)
    plain = gto.M(
        atom=list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)), basis="def2-svp"
    )
    field = dft.RKS(plain, xc="PBE").density_fit()
    field.grids.level, field.conv_tol, field.verbose = 2, 1e-10, 0
    assert label.energy == pytest.approx(field.kernel() * Hartree, abs=1e-6)
    forces = -field.nuc_grad_method().kernel() * Hartree / Bohr
    # both are converged to 1e-10 Hartree in the energy, so to about 1e-5 in the forces
    np.testing.assert_allclose(label.forces, forces, atol=5e-5)


ORDER = """
import json, sys
from ase.build import molecule
from gace_platform.labelling.config import PySCFReference
from gace_platform.labelling.engines.pyscf import PySCFEngine
engine = PySCFEngine(PySCFReference(basis="6-31g"))
answers = {name: engine.run(molecule(name), 0) for name in sys.argv[1:]}
print(json.dumps({name: [one.energy.hex(), one.forces.tobytes().hex()] for name, one in answers.items()}))
"""


@pytest.mark.dft
def test_labels_are_the_same_bit_for_bit_in_any_order():
    outputs = []
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for order in (["H2O", "NH3", "CH3OH"], ["CH3OH", "H2O", "NH3"]):
        command = [sys.executable, "-c", ORDER, *order]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
        outputs.append(json.loads(result.stdout.splitlines()[-1]))
    assert outputs[0] == outputs[1]
