"""A batch of labels: reuse, failures, remedies, the gate, the files it leaves. Teachers stand in for DFT."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from click.testing import CliRunner

from gace.errors import InputError, MissingDependencyError
from gace.structures.io import read_structures, write_structures
from gace_platform.labelling.batch import Verdict, label_structures
from gace_platform.labelling.command import command
from gace_platform.labelling.config import LabelConfig, QualityGate, load_label_config
from gace_platform.labelling.run import run_labels
from gace_platform.labelling.supervisor import EngineProcess
from gace_platform.ledger import LabelStore

MISBEHAVING = '''
"""Calculators that misbehave as real programs do, told by the number of atoms."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from ase.calculators.lj import LennardJones


class Moody(LennardJones):
    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        behaviour = {2: "fine", 3: "raise", 4: "crash", 5: "hang", 6: "nan", 7: "killed", 8: "killed once"}
        match behaviour.get(len(atoms), "fine"):
            case "raise":
                raise RuntimeError("SCF not converged in 1 cycles!")
            case "crash":
                print("about to crash", flush=True)
                os.abort()
            case "hang":
                time.sleep(60)
            case "nan":
                self.results["forces"] = self.results["forces"] * np.nan
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed once":
                marker = Path(os.environ["MARKER"])
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)


class Late(LennardJones):
    def calculate(self, atoms=None, *arguments, **keys):
        from gace.errors import InputError, MissingDependencyError

        raise (MissingDependencyError if len(atoms) == 2 else InputError)("no such program, or element")


def refuses(**kwargs):
    raise ValueError("no such argument")
'''


@pytest.fixture
def moody(tmp_path, monkeypatch):
    """The import path of calculators that misbehave."""
    (tmp_path / "misbehaving.py").write_text(MISBEHAVING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setitem(sys.modules, "misbehaving", None)  # only the engine's own process may import it
    return "misbehaving:Moody"


def config_of(tmp_path: Path, calculator: str = "lj", **changes) -> LabelConfig:
    reference = {"engine": "teacher", "calculator": calculator}
    return LabelConfig(**{"reference": reference, "store": tmp_path / "store", **changes})


def chain(length: int) -> Atoms:
    return Atoms(f"Ar{length}", positions=[[1.1 * number, 0.0, 0.0] for number in range(length)])


def label(structures: list[Atoms], config: LabelConfig, folder: Path) -> list[Verdict]:
    with EngineProcess(config, folder / "engine.log") as process:
        return label_structures(structures, config, process)


def verdicts_of(tmp_path: Path, lengths: list[int], config: LabelConfig) -> list[Verdict]:
    return label([chain(length) for length in lengths], config, tmp_path)


@pytest.mark.parametrize(
    ("length", "failure_class"),
    [(3, "unconverged"), (4, "crashed"), (6, "not_finite"), (7, "killed")],
)
def test_a_failed_calculation_is_quarantined_and_the_batch_goes_on(tmp_path, moody, length, failure_class):
    failed, fine = verdicts_of(tmp_path, [length, 2], config_of(tmp_path, moody))
    assert failed.verdict == "quarantined"
    assert failed.reason.startswith(failure_class)
    assert failed.record.energy is None
    assert "REF_energy" not in failed.atoms.info
    assert fine.verdict == "accepted"


def test_a_hanging_calculation_is_stopped_at_the_time_limit(tmp_path, moody):
    hung, fine = verdicts_of(tmp_path, [5, 2], config_of(tmp_path, moody, time_limit=2.0))
    # the remedy for a time limit is four times the time
    assert hung.reason.startswith("timeout: stopped after 8 s")
    assert [one["remedy"] for one in hung.record.attempts] == ["as given", "more time"]
    assert fine.verdict == "accepted"


def test_the_reason_of_a_crash_holds_the_end_of_the_log(tmp_path, moody):
    (crashed,) = verdicts_of(tmp_path, [4], config_of(tmp_path, moody))
    assert "SIGABRT" in crashed.reason
    assert "about to crash" in crashed.reason


def test_a_calculation_killed_from_outside_is_tried_again_with_the_same_remedy(tmp_path, moody):
    (verdict,) = verdicts_of(tmp_path, [8], config_of(tmp_path, moody))
    assert verdict.verdict == "accepted"
    assert [(one["attempt"], one["failure_class"]) for one in verdict.record.attempts] == [
        (0, "killed"),
        (0, None),
    ]


def test_a_quarantined_structure_is_not_paid_for_again(tmp_path, moody):
    config = config_of(tmp_path, moody)
    verdicts_of(tmp_path, [3], config)
    (again,) = verdicts_of(tmp_path, [3], config)
    assert again.reused
    assert again.verdict == "quarantined"
    assert LabelStore(config.store).paid_twice() == 0


def test_each_attempt_uses_another_remedy_and_all_are_recorded(tmp_path):
    reference = {"engine": "teacher", "calculator": "tblite", "kwargs": {"max_iterations": 1}}
    config = config_of(tmp_path, reference=reference, attempts=3)
    (verdict,) = label([molecule("CH3CH2OH")], config, tmp_path)
    assert verdict.reason.startswith("unconverged")
    remedies = [one["remedy"] for one in verdict.record.attempts]
    assert len(remedies) == len(set(remedies)) == 3
    assert {one["failure_class"] for one in verdict.record.attempts} == {"unconverged"}


def test_a_remedy_that_helps_makes_a_label(tmp_path):
    reference = {"engine": "teacher", "calculator": "tblite", "kwargs": {"max_iterations": 6}}
    (verdict,) = label([molecule("CH3CH2OH")], config_of(tmp_path, reference=reference), tmp_path)
    assert verdict.verdict == "accepted"
    assert [one["failure_class"] for one in verdict.record.attempts] == ["unconverged", None]


def test_a_known_label_is_reused_and_not_computed(tmp_path):
    config = config_of(tmp_path)
    (first,) = verdicts_of(tmp_path, [3], config)
    (second,) = verdicts_of(tmp_path, [3], config)
    assert (first.reused, second.reused) == (False, True)
    assert first.atoms.info["REF_energy"] == second.atoms.info["REF_energy"]
    assert [entry["event"] for entry in LabelStore(config.store).journal] == ["started", "computed", "reused"]


def test_a_structure_given_twice_is_paid_for_once(tmp_path):
    verdicts = verdicts_of(tmp_path, [3, 2, 3], config_of(tmp_path))
    assert [one.reused for one in verdicts] == [False, False, True]


def test_labels_do_not_depend_on_the_order_of_the_batch(tmp_path):
    frames = [molecule(name) for name in ("CH3CH2OH", "H2O", "NH3")]
    reference = {"engine": "teacher", "calculator": "tblite"}
    energies = []
    for order, store in (([0, 1, 2], "a"), ([2, 1, 0], "b")):
        config = config_of(tmp_path, reference=reference, store=tmp_path / store)
        verdicts = label([frames[number] for number in order], config, tmp_path)
        energies.append({one.record.key: (one.record.energy, one.record.forces) for one in verdicts})
    assert energies[0] == energies[1]


def test_the_gate_is_applied_to_reused_labels_too(tmp_path):
    verdicts_of(tmp_path, [2], config_of(tmp_path))
    strict = config_of(tmp_path, quality=QualityGate(max_force=1e-3))
    (verdict,) = verdicts_of(tmp_path, [2], strict)
    assert verdict.reused
    assert "max_force" in verdict.reason


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text(text)
    return path


THROUGH_AIIDA = [
    "{engine: quantum-espresso, pseudopotentials: {Si: Si.UPF}, cutoff_wfc: 16}",
    "{engine: cp2k}",
    "{engine: vasp, version: 6.4.2, potentials: {Si: Si}, encut: 300}",
]
LENNARD_JONES = "reference: {engine: teacher, calculator: lj}\nstructures: pool.xyz\nstore: store\n"


def test_a_run_leaves_labelled_structures_and_a_verdict_on_each(tmp_path, moody):
    frames = [chain(2), chain(3)]
    frames[0].info.update(structure_id="first", origin="reserve")
    write_structures(tmp_path / "pool.xyz", frames)
    config = load_label_config(write_config(tmp_path, LENNARD_JONES.replace("lj", moody)))
    summary = run_labels(config, tmp_path / "out")
    (labelled,) = read_structures(tmp_path / "out" / "labelled.xyz")
    content = json.loads((tmp_path / "out" / "labels.json").read_text())
    first, second = content["structures"]
    assert labelled.info["label_key"] == first["key"]
    assert (labelled.info["structure_id"], labelled.info["origin"]) == ("first", "reserve")
    assert labelled.arrays["REF_forces"].shape == (2, 3)
    assert [first["verdict"], second["verdict"]] == ["accepted", "quarantined"]
    assert second["reason"].startswith("unconverged")
    assert (summary["accepted"], summary["quarantined"], summary["computed"]) == (1, 1, 2)


def test_a_label_replaces_the_one_a_structure_came_with(tmp_path):
    stale = chain(2)
    stale.info["REF_energy"] = 123.0
    (verdict,) = label([stale], config_of(tmp_path), tmp_path)
    assert verdict.atoms.info["REF_energy"] == verdict.record.energy != 123.0


def test_isolated_atoms_are_computed_once_and_check_binding_energies(tmp_path):
    write_structures(tmp_path / "pool.xyz", [molecule("H2O")])
    text = (
        LENNARD_JONES.replace("lj", "tblite") + "isolated_atoms: true\nquality: {max_binding_energy: 0.01}\n"
    )
    config = load_label_config(write_config(tmp_path, text))
    summary = run_labels(config, tmp_path / "out")
    again = run_labels(config, tmp_path / "out")
    atoms = read_structures(tmp_path / "out" / "isolated_atoms.xyz")
    assert {str(one.symbols): one.info["config_type"] for one in atoms} == dict.fromkeys(
        "HO", "isolated_atom"
    )
    assert (summary["isolated_atoms"], summary["quarantined"]) == (2, 1)
    assert again["core_seconds"] == 0


def test_a_periodic_structure_gets_a_stress(tmp_path):
    silicon = bulk("Si").copy()
    silicon.rattle(0.05, seed=1)
    (verdict,) = label([silicon], config_of(tmp_path, "tersoff-si"), tmp_path)
    assert np.shape(verdict.atoms.info["REF_stress"]) == (3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LENNARD_JONES.replace("store:", "stroe:"), "did you mean 'store'"),
        (LENNARD_JONES.replace("teacher", "pyscff"), "pyscf"),
        (LENNARD_JONES.replace("calculator", "calculater"), "did you mean 'calculator'"),
        (LENNARD_JONES.replace("lj", "tblit"), "did you mean 'tblite'"),
        (LENNARD_JONES.replace("lj", "nowhere:Thing"), "cannot import calculator"),
        (LENNARD_JONES.replace("lj", "misbehaving:Nothing"), "has no 'Nothing'"),
        (LENNARD_JONES.replace("lj", "misbehaving:refuses"), "does not take"),
        (LENNARD_JONES.replace("lj", "tersoff-si"), "has no Ar"),
        (LENNARD_JONES.replace("pool.xyz", "pond.xyz"), "no such file"),
        (LENNARD_JONES.replace("structures: pool.xyz", "attempts: 1"), "missing key 'structures'"),
        (LENNARD_JONES + "attempts: 0\n", "attempts"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_computed(tmp_path, moody, text, message):
    write_structures(tmp_path / "pool.xyz", [chain(2)])
    arguments = ["run", str(write_config(tmp_path, text)), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not list(tmp_path.glob("store/records/*/*"))


@pytest.mark.parametrize("name", ["run", "isolated"])
@pytest.mark.parametrize("reference", THROUGH_AIIDA)
def test_a_program_that_aiida_runs_is_refused_before_anything(tmp_path, name, reference):
    write_structures(tmp_path / "pool.xyz", [bulk("Si")])
    text = f"reference: {reference}\nstructures: pool.xyz\nstore: store\n"
    result = CliRunner().invoke(
        command, [name, str(write_config(tmp_path, text)), "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, InputError)
    assert "gace campaign run" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "store").exists()


def test_a_program_that_is_missing_when_it_runs_is_no_failure_of_the_structure(tmp_path, moody):
    config = config_of(tmp_path, moody.replace("Moody", "Late"))
    for _ in range(2):
        with pytest.raises(MissingDependencyError, match="no such program"):
            verdicts_of(tmp_path, [2], config)
    assert LabelStore(config.store).keys() == []


def test_wrong_input_that_shows_at_one_structure_ends_that_one_alone(tmp_path, moody):
    config = config_of(tmp_path, moody.replace("Moody", "Late"))
    found = verdicts_of(tmp_path, [3, 4], config)
    assert [one.verdict for one in found] == ["quarantined", "quarantined"]


def test_an_unwritable_folder_is_an_input_error(tmp_path):
    write_structures(tmp_path / "pool.xyz", [chain(2)])
    (tmp_path / "out").write_text("a file")
    config = load_label_config(write_config(tmp_path, LENNARD_JONES))
    with pytest.raises(InputError, match="cannot make the folder"):
        run_labels(config, tmp_path / "out")


def test_the_last_line_of_the_command_is_a_json_summary(tmp_path):
    write_structures(tmp_path / "pool.xyz", [chain(2), chain(3)])
    arguments = ["run", str(write_config(tmp_path, LENNARD_JONES)), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(command, arguments)
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["accepted"], summary["reused"]) == (2, 0)


def test_the_store_is_listed_with_prices(tmp_path):
    verdicts_of(tmp_path, [2, 3], config_of(tmp_path))
    result = CliRunner().invoke(command, ["list", str(tmp_path / "store"), "--json"])
    summary = json.loads(result.stdout)
    assert (summary["labels"], summary["failed"], summary["paid_twice"], summary["lost"]) == (2, 0, 0, 0)
    assert len(summary["records"]) == 2


def test_a_label_is_shown_with_its_history(tmp_path):
    (verdict,) = verdicts_of(tmp_path, [2], config_of(tmp_path))
    result = CliRunner().invoke(command, ["show", str(tmp_path / "store"), verdict.record.key[:8]])
    shown = json.loads(result.stdout)
    assert shown["energy"] == verdict.record.energy
    assert [entry["event"] for entry in shown["history"]] == ["started", "computed"]
