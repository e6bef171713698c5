"""Files ``*.gace``: compiled C++ without PyTorch says what the bundle says."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import gace
from gace.cli import main
from gace.errors import BundleError, InputError, MissingDependencyError
from gace.linear.model import LinearACE
from gace.native import NativeCalculator, NativePotential, library, write
from gace.potential.compilation import compiler_available
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.io import set_labels, write_structures
from gace.structures.neighbours import build_graph, find_edges

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")

ROOT = Path(__file__).parents[2]
ELEMENTS = ["H", "C", "O"]
ISOLATED = {"H": -13.5, "C": -1027.0, "O": -2041.0, "Si": -7870.0}
CLOSE = dict(inner_cutoffs={"C-H": 1.0, "C-C": 1.6}, close_limits={"C": 1.5})  # what follows feels them

ARCHITECTURES = {
    "one layer": dict(l_max=[2], order=3),
    "two layers": dict(l_max=[2, 1], order=2),
    "three layers": dict(l_max=[2, 1, 1], order=[3, 2, 2], l_message=1),
    "order four": dict(l_max=[2], order=4, densities=2, embedding="polynomial", readout_hidden=0),
    "linear readout": dict(l_max=[1, 1], order=2, densities=0, readout_hidden=0),
    "no repulsion": dict(l_max=[1, 1], order=2, core_repulsion=False),
    "natural parity": dict(l_max=[2, 2], order=3, parity="natural"),
    "inner cutoffs": dict(l_max=[2, 1], order=2, **CLOSE),
    "pair cutoffs": dict(l_max=[2, 1], order=2, pair_cutoffs={"C-H": 2.0, "H-H": 2.8}, **CLOSE),
    "odd channels": dict(l_max=[2, 1], order=3, channels=19),
}


def structures():
    """Molecules, a crystal smaller than the cutoff, a lone atom, a pair: many neighbours, few, one, none."""
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.05, seed=1)
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=2)
    slab = Atoms("C2", [[0, 0, 5], [1.2, 0.1, 5.2]], cell=[2.6, 2.6, 10], pbc=[True, True, False])
    return [ethanol, crystal, Atoms("O"), Atoms("CH", [[0, 0, 0], [0.3, 1.0, 0]]), slab, molecule("C6H6")]


def model_of(name="two layers", seed=0, elements=ELEMENTS, **changes):
    arguments = dict(
        cutoff=3.5, channels=4, radial_hidden=[8], densities=3, readout_hidden=4, mean_neighbours=6.0
    )
    made = GraphACE(
        elements=elements, seed=seed, scale=0.3, **{**arguments, **ARCHITECTURES[name], **changes}
    )
    some = [one for one in structures() if set(one.get_chemical_symbols()) <= set(elements)]
    if some:
        made.calibrate(build_graph(some, elements, 3.5))
    return made


def linear_of(seed=0):
    made = LinearACE(elements=ELEMENTS, cutoff=3.5, order=4, size=60)
    made.standardise([build_graph(structures(), ELEMENTS, 3.5)])
    torch.nn.init.normal_(made.coefficients, std=1e-2, generator=torch.Generator().manual_seed(seed))
    return made


def same(found, expected, scale=1.0):
    """Two predictions, number by number, as far as double (or by ``scale`` single) precision goes."""
    for name in ("energy", "forces", "stress", "energies", "energy_std", "forces_std", "gamma"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-10 * scale, atol=1e-10 * scale, err_msg=name)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_says_what_its_bundle_says(name, dtype, tmp_path):
    potential = Potential([model_of(name)], isolated_atom_energies=ISOLATED).to(dtype=dtype)
    write(potential, tmp_path / "one.gace")
    native = gace.load(tmp_path / "one.gace")
    expected = potential.evaluated_by("tabulated").predict(structures())
    for one, other in zip(native.predict(structures()), expected, strict=True):
        same(one, other, scale=1.0 if dtype == "float64" else 1e5)


@pytest.mark.parametrize("name", ["2L-medium", "FS-medium", "2L-large"])
def test_presets(name, tmp_path):
    """Vectors of all widths: 32 channels, and more."""
    model = GraphACE.from_preset(name, elements=["Si"], cutoff=4.0, inner_cutoffs={"Si-Si": 2.3})
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=2)
    model.calibrate(build_graph([atoms], ["Si"], 4.0))
    potential = Potential([model], isolated_atom_energies=ISOLATED)
    write(potential, tmp_path / "one.gace")
    (found,) = gace.load(tmp_path / "one.gace").predict([atoms])
    same(found, potential.evaluated_by("tabulated").predict([atoms])[0])


def test_linear_ace_and_a_mixture(tmp_path):
    potential = Potential(
        [linear_of(), model_of(), linear_of(1)], isolated_atom_energies=ISOLATED, weights=[1, 2, 1]
    )
    write(potential, tmp_path / "one.gace")
    found = gace.load(tmp_path / "one.gace").predict(structures(), uncertainty=True)
    expected = potential.evaluated_by("tabulated").predict(structures(), uncertainty=True)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_error_bars_and_novelty(committee, ethanols, tmp_path):
    write(committee, tmp_path / "one.gace")
    native = gace.load(tmp_path / "one.gace")
    assert native.has_error_bars
    assert native.has_novelty
    expected = committee.evaluated_by("tabulated").predict(ethanols, uncertainty=True)
    for one, other in zip(native.predict(ethanols, uncertainty=True), expected, strict=True):
        same(one, other)
    calculator = NativeCalculator(tmp_path / "one.gace")
    atoms = ethanols[0].copy()
    np.testing.assert_allclose(calculator.get_property("gamma", atoms), expected[0].gamma, rtol=1e-10)
    assert calculator.get_property("energy_std", atoms) == pytest.approx(expected[0].energy_std)
    assert "gamma" not in NativeCalculator(tmp_path / "one.gace", uncertainty=False).implemented_properties


def test_linear_features_feed_the_novelty(tmp_path):
    """The invariants of a linear ACE come sorted by element and are put back in order."""
    from gace.uncertainty.container import Uncertainty
    from gace.uncertainty.novelty import Novelty

    model, graph = linear_of(), build_graph(structures(), ELEMENTS, 3.5)
    novelty = Novelty.fit(model(graph).features.detach(), graph.species, ELEMENTS, seed=0)
    potential = Potential([model], isolated_atom_energies=ISOLATED, uncertainty=Uncertainty(novelty))
    write(potential, tmp_path / "one.gace")
    expected = potential.evaluated_by("tabulated").predict(structures(), uncertainty=True)
    found = gace.load(tmp_path / "one.gace").predict(structures(), uncertainty=True)
    for one, other in zip(found, expected, strict=True):
        same(one, other, scale=100)


@pytest.mark.parametrize("name", ["two layers", "three layers", "one layer"])
def test_many_atoms_go_part_by_part(name, tmp_path):
    """More bonds than are evaluated at once; on one thread and on two."""
    model = model_of(name, elements=["Si"], cutoff=5.0, inner_cutoffs={"Si-Si": 2.3}, mean_neighbours=28.0)
    atoms = bulk("Si", cubic=True) * (13, 13, 13)
    atoms.rattle(0.05, seed=5)
    potential = Potential([model], isolated_atom_energies=ISOLATED)
    write(potential, tmp_path / "one.gace")
    expected = potential.calculator()
    for threads in (1, 2):
        found = NativeCalculator(tmp_path / "one.gace", threads=threads)
        np.testing.assert_allclose(found.get_forces(atoms), expected.get_forces(atoms), atol=1e-10)
        assert found.get_potential_energy(atoms) == pytest.approx(
            expected.get_potential_energy(atoms), rel=1e-13
        )
        np.testing.assert_allclose(found.get_stress(atoms), expected.get_stress(atoms), atol=1e-12)


def test_forces_and_stress_are_derivatives(tmp_path):
    write(Potential([model_of("pair cutoffs")], isolated_atom_energies=ISOLATED), tmp_path / "one.gace")
    calculator = NativeCalculator(tmp_path / "one.gace", skin=0.0)
    atoms = structures()[1]
    atoms.calc = calculator
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    forces, stress = atoms.get_forces(), atoms.get_stress()
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)


def test_a_process_needs_no_torch(committee, tmp_path):
    """Neither it nor SciPy: that is 200 MB and two seconds of a start."""
    write(committee, tmp_path / "one.gace")
    code = (
        "import sys\nfrom ase import Atoms\nfrom gace.native import NativeCalculator\n"
        "atoms = Atoms('OH2', [[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0.1]])\n"
        f"atoms.calc = NativeCalculator({str(tmp_path / 'one.gace')!r})\n"
        "print(repr(float(atoms.get_potential_energy())), atoms.get_forces().shape)\n"
        "print([name for name in ('torch', 'scipy', 'pydantic', 'safetensors') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    energy, loaded = ended.stdout.splitlines()
    water = Atoms("OH2", [[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0.1]])
    assert float(energy.split()[0]) == pytest.approx(
        committee.calculator().get_potential_energy(water), abs=1e-9
    )
    assert loaded == "[]"


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_pairs_are_those_of_vesins_python(pbc):
    from gace.native.pairs import pairs

    for atoms in structures():
        atoms = atoms.copy()
        if not atoms.cell.rank:
            atoms.center(vacuum=2.0)
        atoms.pbc = pbc
        for one, other in zip(find_edges(atoms, 4.0, pairs), find_edges(atoms, 4.0), strict=True):
            np.testing.assert_array_equal(one, other)


def test_structures_that_cannot_be(tmp_path):
    write(Potential([model_of()], isolated_atom_energies=ISOLATED), tmp_path / "one.gace")
    calculator = NativeCalculator(tmp_path / "one.gace")
    for atoms, reason in (
        (Atoms(), "no atoms"),
        (Atoms("Au"), "no parameters for element Au"),
        (Atoms("OH", [[0, 0, 0], [float("nan"), 0, 0]]), "NaN"),
        (Atoms("O", pbc=True), "without a cell vector"),
    ):
        with pytest.raises(InputError, match=reason):
            calculator.get_potential_energy(atoms)
    assert np.isfinite(calculator.get_potential_energy(molecule("H2O")))
    model = calculator.model
    for species, neighbour in (([3], [[0]]), ([-1], [[0]]), ([0], [[1]])):
        with pytest.raises(InputError, match=r"does not know|is no atom"):
            model.evaluate(np.array(species), np.array(neighbour), np.full((1, 1, 3), 9.0), np.zeros(1, int))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "one.gace"
    write(Potential([model_of()], isolated_atom_energies=ISOLATED, metadata={"note": 'a "b" \\ é'}), path)
    return path


def test_copies_and_other_processes(file):
    potential = gace.load(file)
    assert isinstance(potential, NativePotential)
    (expected,) = potential.predict([molecule("H2O")])
    for other in (copy.copy(potential), copy.deepcopy(potential), pickle.loads(pickle.dumps(potential))):
        assert other.predict([molecule("H2O")])[0].energy == expected.energy
        assert other.metadata == {"note": 'a "b" \\ é'}
    assert potential.to("cpu", "float32") is potential
    assert potential.calculator(path="eager").get_potential_energy(molecule("H2O")) == expected.energy
    for call in (lambda: potential.to("tpu"), lambda: potential.evaluated_by("nonsense")):
        with pytest.raises(InputError, match=r"no (device|path) called"):
            call()


def test_a_copy_is_the_potential_that_was_opened(committee, tmp_path, monkeypatch):
    """Whatever becomes of the file, of the folder one stands in, or of the environment."""
    monkeypatch.chdir(tmp_path)
    write(Potential([model_of()], isolated_atom_energies=ISOLATED), "one.gace")
    calculator, water = NativeCalculator("one.gace", threads=1), molecule("H2O")
    expected, packed = calculator.get_potential_energy(water), pickle.dumps(calculator.model)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    other = pickle.loads(packed)
    assert other.threads == 1
    assert NativeCalculator(other).get_potential_energy(water) == expected
    write(committee, tmp_path / "one.gace")
    assert copy.deepcopy(calculator).get_potential_energy(molecule("H2O")) == expected
    with pytest.raises(BundleError, match="another potential by now"):
        pickle.loads(packed)


def test_without_a_compiler_the_error_says_what_is_missing(file, monkeypatch):
    monkeypatch.setattr(library.machine_code, "found_compiler", lambda: None)
    with pytest.raises(MissingDependencyError, match=r"C\+\+ compiler"):
        library.library.__wrapped__()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "flags_for", lambda _: ("-march=abacus",))
    with pytest.raises(InputError, match=r"cannot build what evaluates \*\.gace: .*abacus"):
        library.library.__wrapped__()


def test_the_commands_take_it(committee, bundle, ethanol, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (label,) = committee.predict([ethanol])
    write_structures("labelled.xyz", [set_labels(ethanol, label.energy, label.forces)] * 2)
    write_structures("start.xyz", [ethanol])

    def said(*arguments):
        main([*arguments, "--json"])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    made = said("export", str(bundle), "--out", "one.gace")
    assert made["n_members"] == 3
    assert made["dtype"] == "float64"
    assert made["bytes"] == (tmp_path / "one.gace").stat().st_size
    # meV/Å: the labels are those of the networks, not of tables
    assert said("evaluate", "one.gace", "labelled.xyz")["forces"]["mae"] == pytest.approx(0, abs=1e-3)
    run = ["--temperature", "1", "--steps", "5", "--timestep", "0.02", "--seed", "3"]
    ours, theirs = (said("md", one, "start.xyz", *run) for one in ("one.gace", str(bundle)))
    assert ours["status"] == theirs["status"] == "done"
    assert ours["mean_temperature"] == pytest.approx(theirs["mean_temperature"], rel=1e-8)
    assert ours["gamma_max"] == pytest.approx(theirs["gamma_max"], rel=1e-8)
    assert said("info", "one.gace")["novelty"] is True
    assert said("info", "one.gace")["level_of_theory"] == committee.level_of_theory
    assert said("relax", "one.gace", "start.xyz", "--steps", "3", "--fmax", "1e6")["converged"]


def test_a_gpu_has_no_use_for_it(bundle, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["export", str(bundle), "--out", str(tmp_path / "one.gace"), "--device", "cuda"])
    assert ended.value.code != 0
    assert not (tmp_path / "one.gace").exists()


@pytest.mark.slow
def test_a_program_in_cpp_says_the_same(single, ethanol, tmp_path):
    """As docs/engines.md builds it, with nothing of Python."""
    program, folder = tmp_path / "native", ROOT / "gace" / "native" / "cpp"
    line = [library.machine_code.found_compiler(), "-O0", "-std=c++17", "-fopenmp", f"-I{folder}"]
    line += ["-o", program, ROOT / "examples/cpp/native.cpp", *library.SOURCES]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    write(single, tmp_path / "one.gace")
    ethanol.write(tmp_path / "ethanol.xyz", format="xyz", fmt="%.17g")
    said = subprocess.run(
        [program, tmp_path / "one.gace", tmp_path / "ethanol.xyz"], capture_output=True, text=True, check=True
    )
    (energy,), *forces = ([float(one) for one in row.split()] for row in said.stdout.splitlines())
    calculator = single.calculator()
    assert energy == pytest.approx(calculator.get_potential_energy(ethanol), abs=1e-8)
    np.testing.assert_allclose(forces, calculator.get_forces(ethanol), atol=1e-9)
    refused = subprocess.run(
        [program, tmp_path / "ethanol.xyz", tmp_path / "ethanol.xyz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "is no *.gace" in refused.stderr
