"""CP2K through AiiDA: units and signs against finite differences, failures by class, remedies.

The tests that run the program need Debian's cp2k and cp2k-data, and the package aiida-cp2k.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from gace.errors import InputError
from gace_platform.labelling.config import CP2KReference
from gace_platform.labelling.engines import cp2k_output
from gace_platform.labelling.engines.cp2k import CP2KEngine
from gace_platform.labelling.engines.cp2k_data import entry

pytestmark = [pytest.mark.aiida, pytest.mark.dft]

FOLDER = Path(os.environ.get("CP2K_DATA_DIR", "/usr/share/cp2k"))
needs_data = pytest.mark.skipif(
    not (FOLDER / "BASIS_MOLOPT").is_file(),
    reason="CP2K's data are not installed: apt-get install cp2k-data",
)
needs_program = pytest.mark.skipif(
    shutil.which("cp2k") is None or not (FOLDER / "BASIS_MOLOPT").is_file(),
    reason="CP2K is not installed: apt-get install cp2k cp2k-data",
)
needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("aiida_cp2k") is None,
    reason="aiida-cp2k is not installed: pip install 'gace[cp2k]'",
)


def reference(**changes):
    return CP2KReference(
        **{
            "engine": "cp2k",
            "basis": "SZV-MOLOPT-SR-GTH",
            "cutoff": 160,
            "rel_cutoff": 40,
            "kpoints_distance": 1.2,
            **changes,
        }
    )


def silicon(seed=1):
    atoms = bulk("Si", "diamond", a=5.5)
    atoms.rattle(0.1, seed=seed)
    strained = atoms.cell.array @ np.array([[1.02, 0.01, 0], [0.01, 0.99, 0], [0, 0, 1.01]])
    atoms.set_cell(strained, scale_atoms=True)
    return atoms


@pytest.fixture
def compute(localhost):
    """``compute(atoms, remedy=0, **reference)``: one attempt by the program, and what became of it."""
    from aiida import engine

    from aiida_gace.adapters import make_adapter

    def run(atoms, remedy=0, **changes):
        adapter = make_adapter(reference(**changes))
        adapter.prepare()
        _, node = engine.run_get_node(adapter.builder(atoms, remedy, 300))
        return adapter.outcome(node, atoms)

    return run


FINE = {"eps_scf": 1e-8, "cutoff": 240, "rel_cutoff": 60}


@needs_program
@needs_plugin
@pytest.mark.slow
def test_forces_are_the_slope_of_the_energy(compute):
    atoms, step = silicon(), 0.02
    direction = np.random.default_rng(0).normal(size=(len(atoms), 3))
    direction -= direction.mean(axis=0)
    forces = compute(atoms, **FINE).label.forces
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * step * direction
        energies.append(compute(moved, **FINE).label.energy)
    slope = (energies[0] - energies[1]) / (2 * step)
    assert abs(slope) > 0.5
    # third-order terms of the difference, and atoms that move against the grid
    assert -np.sum(forces * direction) == pytest.approx(slope, rel=5e-3, abs=5e-3)


@needs_program
@needs_plugin
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["volume", "shear"])
def test_stress_is_the_slope_of_the_energy_with_tension_positive(compute, mode):
    atoms, step = silicon(), 0.01
    stretched = atoms.cell.array @ np.array([[1.08, 0.03, 0], [0.03, 0.97, 0.02], [0, 0.02, 1.04]])
    atoms.set_cell(stretched, scale_atoms=True)
    stress = compute(atoms, **FINE).label.stress
    strain = np.eye(3) / np.sqrt(3)
    if mode == "shear":
        strain = stress - np.trace(stress) / 3 * np.eye(3)
        strain /= np.linalg.norm(strain)
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
        energies.append(compute(strained, **FINE).label.energy)
    slope = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())
    assert abs(slope) > 0.01
    # the number of grid points jumps as the cell is strained, which moves the energy by parts of a meV
    assert np.sum(stress * strain) == pytest.approx(slope, abs=0.0015)


@needs_program
@needs_plugin
@pytest.mark.slow
def test_remedies_lead_to_the_same_label(compute):
    cell = silicon(2)
    # at Γ bands of so small a cell lie close, and a minimiser ends in an excited state
    labels = [compute(cell, remedy, kpoints_distance=None).label for remedy in (0, 1, 2, 4)]
    assert np.ptp([label.energy for label in labels]) < 1e-5
    # forces are first order in the error of the density, about the root of the energy's
    assert np.ptp([label.forces for label in labels], axis=0).max() < 3e-3


@needs_program
@needs_plugin
@pytest.mark.slow
def test_unconverged_field_is_a_failure_and_no_label(compute):
    outcome = compute(silicon(), max_cycle=2)
    assert outcome.label is None
    assert outcome.failure_class == "unconverged"
    assert outcome.core_seconds > 0
    assert "NOT converged" in outcome.log


@needs_program
@needs_plugin
@pytest.mark.slow
def test_batch_goes_through_store_ladder_and_gate(localhost, tmp_path):
    from aiida import engine, orm

    from aiida_gace.data.dataset import DatasetData
    from gace_platform.ledger import LabelStore
    from gace_workflows.reference_batch import ReferenceBatchWorkChain

    inputs = {
        "structures": DatasetData([silicon(1), silicon(2)]),
        "config": orm.Dict(
            {
                # too few cycles for the first attempt, enough for a remedy that multiplies them
                "reference": reference(max_cycle=8, isolated_box=6).model_dump(exclude_unset=True),
                "store": str(tmp_path / "store"),
                "isolated_atoms": True,
                "attempts": 5,
            }
        ),
    }
    results, node = engine.run_get_node(ReferenceBatchWorkChain, **inputs)
    assert node.is_finished_ok
    table = results["verdicts"].get_dict()
    assert [row["verdict"] for row in table["structures"]] == ["accepted", "accepted"]
    assert all(len(row["attempts"]) > 1 for row in table["structures"])
    assert set(table["isolated_atoms"]) == {"Si"}
    (atom,) = results["isolated_atoms"].get_structures()
    labelled = results["labelled"].get_structures()
    binding = labelled[0].info["REF_energy"] / 2 - atom.info["REF_energy"]
    assert -8 < binding < -2
    assert labelled[0].info["REF_stress"].shape == (3, 3)
    again, _ = engine.run_get_node(ReferenceBatchWorkChain, **inputs)
    assert again["summary"]["computed"] == 0
    assert again["labelled"].dataset_hash == results["labelled"].dataset_hash
    store = LabelStore(tmp_path / "store")
    assert store.paid_twice() == 0
    assert all(record.evidence["converged"] for record in store.records())


OUTPUT = """
 CP2K| version string:                                       CP2K version 2023.1
 DFT| Multiplicity                                                             1
 FUNCTIONAL| PBE:
 QS| Density cutoff [a.u.]:                                                100.0
 QS| Relative density cutoff [a.u.]:                                        20.0
                             - Atoms:                                          2
  *** SCF run converged in    12 steps ***
 ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:               -7.866268763240116

 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X                  Y                  Z
      1      1      Si          0.003669855518    -0.003973856675    -0.009718097461
      2      1      Si         -0.003669898627     0.003973891106     0.009718110176
 SUM OF ATOMIC FORCES          -0.000000043109     0.000000034431     0.000000012714     0.000000056617

 STRESS| Analytical stress tensor [GPa]
 STRESS|                        x                   y                   z
 STRESS|      x       -1.20328045130E+00  -5.14557857226E+00  -5.90284563380E+00
 STRESS|      y       -5.14557857226E+00  -1.18467623027E+00  -6.91368295189E+00
 STRESS|      z       -5.90284563380E+00  -6.91368295189E+00  -1.23266969687E+00
 STRESS| 1/3 Trace                                            -1.20687545948E+00
  **** **** ******  **  PROGRAM ENDED AT                 2026-11-23 23:42:34.758
"""


def test_output_of_a_single_point_in_our_units():
    found = cp2k_output.read_output(OUTPUT)
    assert found["energy"] == pytest.approx(-7.866268763240116 * 27.211386, rel=1e-7)
    assert found["forces"][0][2] == pytest.approx(-0.009718097461 * 51.422067, rel=1e-7)
    assert found["stress"][0][1] == pytest.approx(5.14557857226 * 0.00624151, rel=1e-5)
    assert (found["cutoff"], found["rel_cutoff"], found["atoms"]) == (200.0, 40.0, 2)
    assert (found["converged"], found["cycles"], found["ended"]) == (True, 12, True)


OF_2025 = (
    OUTPUT.replace("energy [a.u.]:", "energy [hartree]")
    .replace("ATOMIC FORCES in [a.u.]\n", "FORCES| Atomic forces [hartree/bohr]")
    .replace(" # Atom   Kind   Element          X", " FORCES|   Atom     x")
    .replace("      1      1      Si ", " FORCES|      1 ")
    .replace("      2      1      Si ", " FORCES|      2 ")
    .replace("tensor [GPa]", "tensor [bar]")
)
"""As CP2K prints since 2025: without colon, with a prefix, and the stress in bar."""


def test_outputs_of_later_versions_are_read_too():
    old, new = cp2k_output.read_output(OUTPUT), cp2k_output.read_output(OF_2025)
    assert (new["energy"], new["forces"]) == (old["energy"], old["forces"])
    np.testing.assert_allclose(new["stress"], np.array(old["stress"]) * 1e-4, rtol=1e-12)


@pytest.mark.parametrize("output", [OUTPUT, OF_2025])
@pytest.mark.parametrize(
    ("number", "word"), [("0.003973891106", "forces of all atoms"), ("-1.18467623027E+00", "stress")]
)
def test_a_number_that_does_not_fit_its_column_is_no_label(output, number, word):
    with pytest.raises(ValueError, match=word):
        cp2k_output.read_output(output.replace(number, "*" * len(number)))


def test_a_stress_in_an_unknown_unit_is_not_left_out():
    with pytest.raises(ValueError, match="GPa or bar"):
        cp2k_output.read_output(OUTPUT.replace("[GPa]", "[kbar]"))


@needs_data
def test_a_stress_that_is_missing_is_a_failure_and_no_label():
    from types import SimpleNamespace

    from aiida_gace.adapters.cp2k import CP2KAdapter

    found = {**cp2k_output.read_output(OUTPUT), "stress": None}
    results = SimpleNamespace(output_parameters=SimpleNamespace(get_dict=lambda: found))
    node = SimpleNamespace(is_finished_ok=True, outputs=results)
    outcome = CP2KAdapter(reference()).outcome(node, silicon())
    assert (outcome.label, outcome.failure_class) == (None, "parser")
    assert "no stress" in outcome.message


@pytest.mark.parametrize(
    ("cut", "word"), [("ENERGY|", "energy"), (" ATOMIC FORCES", "forces"), (" STRESS|      z", "stress")]
)
def test_output_that_breaks_off_is_no_label(cut, word):
    with pytest.raises(ValueError, match=word):
        cp2k_output.read_output(OUTPUT.partition(cut)[0])


BOX = """
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/     {first:<66}*
 *    |       {second:<66}*
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                                            qs_scf.F:634 *
 *******************************************************************************
"""


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("SCF run NOT converged. To continue the calculation", "regardless, please set", "unconverged"),
        ("Cholesky decompose failed: the matrix", "is not positive definite", "diagonalisation"),
        ("Use the LSD option for an odd number of electrons", "", "geometry"),
        ("found an unknown keyword NDIGITS", "", "crashed"),
    ],
)
def test_failure_classes(first, second, expected):
    output = BOX.format(first=first, second=second)
    assert cp2k_output.failure_class(output) == expected
    assert cp2k_output.abort_message(output).startswith(f"{first} {second}".strip())


def test_output_that_stops_without_a_word_was_killed():
    cut = " DIAG| Diagonalization library\n SCF WAVEFUNCTION OPTIMIZATION\n   1 NoMix/Diag."
    assert cp2k_output.failure_class(cut) == "killed"


def test_an_output_that_only_warns_of_an_unconverged_field_is_not_converged():
    warned = OUTPUT.replace(
        "*** SCF run converged in    12 steps ***", "*** WARNING: SCF run NOT converged ***"
    )
    assert cp2k_output.read_output(warned)["converged"] is False
    assert cp2k_output.failure_class(warned) == "unconverged"
    assert "NOT converged" in cp2k_output.telling(warned)


@needs_data
def test_entries_are_found_by_any_of_their_names():
    first, second = (entry(FOLDER / "GTH_POTENTIALS", "Si", name) for name in ("GTH-PBE", "GTH-PBE-q4"))
    assert first == second
    assert first.valence == 4
    other = entry(FOLDER / "GTH_POTENTIALS", "Si", "GTH-PADE")
    assert other.digest != first.digest


@needs_data
def test_basis_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'DZVP-MOLOPT-SR-GTH'"):
        CP2KEngine(reference(basis="DZVP-MOLOPT-SR-GHT")).basis("Si")


@needs_program
def test_settings_follow_what_moves_a_label():
    first, second = (CP2KEngine(reference(cutoff=cutoff)).settings() for cutoff in (160, 200))
    assert first["data"] == second["data"]
    assert first["code_version"][0].isdigit()
    assert first != second
    assert CP2KEngine(reference(max_cycle=300, processes=4)).settings() == first  # neither changes a label


@needs_program
@pytest.mark.parametrize(
    ("atoms", "changes", "word"),
    [
        (molecule("SiH4"), {}, "not periodic"),
        (bulk("Si", "diamond", a=5.4), {"charge": 1, "basis": {"C": "x"}}, "names nothing for Si"),
        (bulk("Si", "diamond", a=5.4), {"functional": "BLYP", "potential": "GTH-PBE-q5"}, "no 'GTH-PBE-q5'"),
    ],
)
def test_what_cannot_work_is_refused(atoms, changes, word):
    with pytest.raises(InputError, match=word):
        CP2KEngine(reference(**changes)).check([atoms])


@needs_program
def test_a_spin_that_the_electrons_do_not_allow_is_refused():
    atoms = bulk("Si", "diamond", a=5.4)
    atoms.info["spin"] = 1
    with pytest.raises(InputError, match="8 valence electrons cannot leave 1 unpaired"):
        CP2KEngine(reference()).check([atoms])


def test_missing_program_is_named_with_the_remedy():
    with pytest.raises(InputError, match="apt-get install cp2k"):
        CP2KEngine(reference(executable="no-such-cp2k")).check([])


def test_processor_time_of_the_job():
    from aiida_gace.adapters.base import processor_seconds

    assert processor_seconds("0m0.010s 0m0.020s\n1m2.500s 0m0.500s\n") == pytest.approx(63.03)
    assert processor_seconds("") == 0


@needs_data
def test_atoms_keep_the_spin_of_their_ground_state():
    engine = CP2KEngine(reference(potential="GTH-PBE"))
    section = engine.parameters(engine.isolated_atom("Si"), 0)["FORCE_EVAL"]["DFT"]
    assert (section["UKS"], section["MULTIPLICITY"]) == (True, 3)
    assert section["SCF"]["SMEAR"]["FIXED_MAGNETIC_MOMENT"] == 2
    crystal = engine.parameters(bulk("Si", "diamond", a=5.4), 0)["FORCE_EVAL"]["DFT"]
    assert "SMEAR" not in crystal["SCF"]
    assert "UKS" not in crystal


def test_kpoint_mesh_follows_the_cell():
    engine = CP2KEngine(reference(kpoints_distance=0.6))
    assert engine.mesh(bulk("Si", "diamond", a=5.43, cubic=True)) == (2, 2, 2)
    assert CP2KEngine(reference(kpoints_distance=None)).mesh(bulk("Si", "diamond", a=5.4)) == (1, 1, 1)
