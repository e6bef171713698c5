"""Failures of real programs: what pw.x 6.7 and CP2K 2023.1 printed when they failed, and its class.

``failures/`` holds outputs of small runs made to fail, shortened; where memory lacked, standard error too.
"""

import importlib.util
import shutil
import stat
from pathlib import Path

import pytest
from ase.build import bulk

from gace_platform.labelling.engines import cp2k_output, quantum_espresso

FAILURES = Path(__file__).with_name("failures")
BROKE_OFF = 312
"""AiiDA's exit code for an output of pw.x that is not complete: the words decide."""

PW = {
    "unconverged": "unconverged",
    "timeout": "timeout",
    "overlap": "geometry",
    "odd": "geometry",
    "pseudo": "crashed",
    "keyword": "crashed",
    "memory": "memory",
    "killed": "killed",
    "disk": "disk",
}
CP2K = {
    "unconverged": "unconverged",
    "timeout": "timeout",
    "overlap": "geometry",
    "odd": "geometry",
    "keyword": "crashed",
    "memory": "memory",
    "killed": "killed",
}


def recorded(program, name):
    """Output and standard error of a failed run."""
    errors = FAILURES / f"{program}-{name}.err"
    return (FAILURES / f"{program}-{name}.out").read_text(), errors.read_text() if errors.exists() else ""


@pytest.mark.parametrize(("name", "expected"), PW.items())
def test_what_pw_printed_tells_the_class(name, expected):
    output, errors = recorded("pw", name)
    assert quantum_espresso.failure_class(BROKE_OFF, output, errors) == expected


@pytest.mark.parametrize(("name", "expected"), CP2K.items())
def test_what_cp2k_printed_tells_the_class(name, expected):
    output, errors = recorded("cp2k", name)
    assert cp2k_output.failure_class(output, errors) == expected
    try:
        converged = cp2k_output.read_output(output)["converged"]
    except ValueError:
        converged = False
    assert not converged


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_a_full_disk_is_told_apart_from_a_crash_by_any_program(words):
    """Whatever the exit code says: aiida's for pw.x is that of an output that broke off."""
    vasp = pytest.importorskip("aiida_gace.adapters.vasp", reason="AiiDA is not installed")
    errors = f"At line 17 of file davcio.f90\nFortran runtime error: {words}\n"
    assert quantum_espresso.failure_class(410, "Error in routine davcio (10):", errors) == "disk"
    assert cp2k_output.failure_class(f" [ABORT]\n {words}") == "disk"
    assert vasp.failure_class(700, errors) == "disk"


@pytest.mark.parametrize(
    ("name", "words"),
    [("unconverged", "convergence NOT achieved"), ("overlap", "overlap!"), ("pseudo", "not found")],
)
def test_what_pw_said_is_kept_for_the_user(name, words):
    pytest.importorskip("aiida_quantumespresso", reason="aiida-quantumespresso is not installed")
    from aiida_gace.adapters.quantum_espresso import telling

    assert words in telling(recorded("pw", name)[0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unconverged", "NOT converged"),
        ("odd", "LSD option for an odd number"),
        ("overlap", "GEOMETRY wrong"),
    ],
)
def test_what_cp2k_said_is_kept_for_the_user(name, words):
    assert words in cp2k_output.telling(recorded("cp2k", name)[0])


def needs(reason, absent):
    """Marks of a test that runs a program for some ten seconds."""

    def mark(test):
        skip = pytest.mark.skipif(absent, reason=reason)
        return skip(pytest.mark.slow(pytest.mark.aiida(pytest.mark.dft(test))))

    return mark


needs_pw = needs(
    "Quantum ESPRESSO is not installed: apt-get install quantum-espresso quantum-espresso-data",
    shutil.which("pw.x") is None or importlib.util.find_spec("aiida_quantumespresso") is None,
)
needs_cp2k = needs(
    "CP2K is not installed: apt-get install cp2k cp2k-data, and pip install 'gace[cp2k]'",
    shutil.which("cp2k") is None or importlib.util.find_spec("aiida_cp2k") is None,
)


def wrapped(folder, program, line):
    """The program behind a script: ``line`` sets a limit or starts it in another way."""
    script = folder / program
    script.write_text(
        f'#!/bin/bash\ncase $* in *version*) exec {shutil.which(program)} "$@";; esac\n{line}\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def crystal():
    """Silicon with two atoms per cell, moved out of its symmetry."""
    atoms = bulk("Si", "diamond", a=5.5)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def attempt(localhost):
    """``attempt(reference, time_limit)``: one attempt by a real program, and what became of it."""
    from aiida import engine

    from aiida_gace.adapters import make_adapter

    def run(reference, time_limit=300.0):
        adapter = make_adapter(reference)
        adapter.prepare()
        _, node = engine.run_get_node(adapter.builder(crystal(), 0, time_limit))
        return adapter.outcome(node, crystal())

    return run


def pw(**changes):
    from gace_platform.labelling.config import QuantumEspressoReference

    content = {
        "engine": "quantum-espresso",
        "pseudopotentials": {"Si": "Si.pz-vbc.UPF"},
        "protocol": "fast",
        "cutoff_wfc": 12,
        "kpoints_distance": 0.8,
    }
    return QuantumEspressoReference(**{**content, **changes})


def cp2k(**changes):
    from gace_platform.labelling.config import CP2KReference

    content = {
        "engine": "cp2k",
        "basis": "SZV-MOLOPT-SR-GTH",
        "cutoff": 120,
        "rel_cutoff": 40,
        "smearing": 1000,
    }
    return CP2KReference(**{**content, **changes})


# They do not fit at the cutoffs below, and are never done: rounding does not allow such residuals.
FAILING = {
    "memory": ('exec bash -c \'ulimit -v {kilobytes}; exec {program} "$@"\' run "$@"', "memory"),
    "killed": ('timeout -s KILL 3 {program} "$@"', "killed"),
}


@needs_pw
@pytest.mark.parametrize("name", FAILING)
def test_pw_that_really_fails(name, attempt, tmp_path):
    line, expected = FAILING[name]
    program = wrapped(tmp_path, "pw.x", line.format(program=shutil.which("pw.x"), kilobytes=450_000))
    outcome = attempt(pw(executable=program, cutoff_wfc=500, conv_thr_per_atom=1e-40, max_cycle=10_000))
    assert outcome.label is None
    assert outcome.failure_class == expected
    assert outcome.message


@needs_cp2k
@pytest.mark.parametrize("name", FAILING)
def test_cp2k_that_really_fails(name, attempt, tmp_path):
    line, expected = FAILING[name]
    program = wrapped(tmp_path, "cp2k", line.format(program=shutil.which("cp2k"), kilobytes=1_000_000))
    outcome = attempt(cp2k(executable=program, cutoff=4000, eps_scf=1e-30, max_cycle=10_000))
    assert outcome.label is None
    assert outcome.failure_class == expected
    assert outcome.message


@needs_cp2k
def test_cp2k_that_really_runs_out_of_time(attempt):
    outcome = attempt(cp2k(cutoff=1200, eps_scf=1e-30, max_cycle=10_000), time_limit=5.0)
    assert (outcome.label, outcome.failure_class) == (None, "timeout")


@needs_pw
def test_a_disk_that_is_full_blames_no_structure_and_stays_on_the_bill(localhost, tmp_path):
    """The program cannot write, once; then there is room, and another batch pays for the label."""
    from aiida import engine, orm

    from aiida_gace.data.dataset import DatasetData
    from gace_platform.ledger import LabelStore
    from gace_workflows.reference_batch import ReferenceBatchWorkChain

    full = tmp_path / "full"
    full.touch()
    said = "Fortran runtime error: No space left on device"
    busy = "for ((i = 0; i < 200000; i++)); do :; done"
    # asked for its version it gets no arguments
    fails = f'{{ {busy}; echo "{said}" >&2; exit 2; }}'
    line = f'[ -e {full} -a $# -gt 0 ] && {fails}\nexec {shutil.which("pw.x")} "$@"'
    settings = pw(executable=wrapped(tmp_path, "pw.x", line)).model_dump(exclude_unset=True)
    store = LabelStore(tmp_path / "store")
    inputs = {
        "structures": DatasetData([crystal()]),
        "config": orm.Dict({"reference": settings, "store": str(store.folder)}),
    }
    _, node = engine.run_get_node(ReferenceBatchWorkChain, **inputs)
    assert node.exit_status == 420
    assert "the disk is full" in node.exit_message
    assert store.keys() == []
    (loss,) = store.lost()
    assert (loss["core_seconds"] > 0.1, loss["retired"]) == (True, True)
    full.unlink()
    results, node = engine.run_get_node(ReferenceBatchWorkChain, **inputs)
    assert node.is_finished_ok
    (row,) = results["verdicts"].get_dict()["structures"]
    assert (row["verdict"], [one["failure_class"] for one in row["attempts"]]) == ("accepted", [None])
    assert sum(price for _, price in store.prices()) > row["price"]
    assert store.paid_twice() == 0
