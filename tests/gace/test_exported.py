"""Exported potentials say what the bundle says, in Python and in C++."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import gace
import gace.potential.exported as module
from gace.cli import main
from gace.engines.lammps.mliap import Unified
from gace.errors import BundleError, InputError
from gace.evaluation import evaluate
from gace.potential.bundle import save_bundle
from gace.potential.combination import combine
from gace.potential.compilation import compiler_available
from gace.potential.exported import ExportedPotential, export
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.graph import Graph
from gace.structures.io import set_labels
from gace.structures.neighbours import build_graph

ROOT = Path(__file__).parents[2]
ELEMENTS = ["C", "H", "O"]
SMALL = dict(cutoff=3.5, l_max=[1, 1], order=2, channels=3, n_radial=3, radial_hidden=[4], densities=2)

needs_compiler = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")


@pytest.fixture(scope="module")
def potential():
    inner = dict(inner_cutoffs={"C-H": 1.0, "C-C": 1.4}, close_limits={"C": 2.5})  # ethanol feels them
    members = [
        GraphACE(elements=ELEMENTS, readout_hidden=2, seed=seed, **more, **SMALL)
        for seed, more in enumerate((inner, {}))
    ]
    return Potential(
        members,
        weights=[1.0, 2.0],
        isolated_atom_energies={"C": -1000.0, "H": -13.0, "O": -2000.0},
        level_of_theory={"functional": "PBE"},
    )


@pytest.fixture(scope="module")
def exported(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "potential.pt2"
    summary = export(potential, path)
    assert summary["bytes"] == path.stat().st_size
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path


def structures():
    """Molecules, a crystal, a lone atom and a pair: many neighbours, few, one and none."""
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.05, seed=1)
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=2)
    return [ethanol, crystal, Atoms("O"), Atoms("CH", [[0, 0, 0], [0.3, 1.0, 0]]), molecule("C6H6")]


@pytest.fixture
def stand_in(potential):
    """As an exported file, its code done operation by operation."""
    isolated = torch.tensor([potential.isolated_atom_energies[one] for one in potential.elements])

    def code(species, neighbour, vector):
        zero = torch.zeros_like(species)
        # an atom's share of the virial is nobody's concern here: all of it is the first one's
        found = potential.evaluate_graph(Graph(species, neighbour, vector, zero, vector.new_ones(1)))
        virial = torch.zeros(len(species), 3, 3, dtype=torch.float64)
        virial[0] = torch.from_numpy(found.virial[0])
        return torch.from_numpy(found.energies) - isolated[species], torch.from_numpy(found.forces), virial

    return ExportedPotential(
        code,
        {
            "elements": ELEMENTS,
            "cutoff": potential.cutoff,
            "isolated_atom_energies": potential.isolated_atom_energies,
            "level_of_theory": potential.level_of_theory,
            "metadata": {},
            "device": "cpu",
            "dtype": "float64",
        },
    )


def test_it_is_evaluated_on_labelled_structures(potential, stand_in):
    """As gace evaluate does it, whatever there is to evaluate."""
    atoms = molecule("CH3CH2OH")
    (found,) = potential.predict([atoms])
    summary = evaluate(stand_in, [set_labels(atoms, found.energy - 0.1, found.forces)] * 2)
    assert summary["energy"]["mae"] == pytest.approx(100, abs=1e-6)
    assert summary["forces"]["mae"] == pytest.approx(0, abs=1e-8)
    assert stand_in.evaluated_for([atoms] * 1000) is stand_in


def test_it_has_no_members_to_be_taken(potential, stand_in, tmp_path):
    """What goes through the members says so, and does not do without."""
    for call in (
        lambda: combine([potential, stand_in]),
        lambda: combine([stand_in, potential], [1.0, 3.0]),
        lambda: Unified(stand_in, ["C"]),
        lambda: save_bundle(stand_in, tmp_path / "bundle"),
        lambda: export(stand_in, tmp_path / "again.pt2"),
    ):
        with pytest.raises(InputError, match=r"an exported file cannot be .*: give its bundle"):
            call()


def test_what_does_not_exist_is_refused(stand_in):
    """Although one device, one precision and one path are all there is."""
    assert stand_in.calculator("cpu", "float32", path="eager").potential.dtype == torch.float64
    for options in (dict(device="tpu"), dict(dtype="float16"), dict(path="nonsense")):
        with pytest.raises(InputError, match=r"no (device|dtype|path) called"):
            stand_in.calculator(**options)


class _Code:
    """Code can neither be copied nor pickled."""

    def __call__(self, *arguments):
        raise AssertionError

    def __reduce__(self):
        raise TypeError("cannot pickle code")


def test_a_copy_shares_the_code_and_another_process_opens_the_file(stand_in, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(module, "load_exported", lambda path: opened.append(path) or stand_in)
    potential = ExportedPotential(_Code(), stand_in.described, tmp_path / "potential.pt2")
    calculator = copy.deepcopy(potential.calculator())
    assert calculator.potential.code is potential.code
    assert calculator.potential.metadata is not potential.metadata
    assert not opened
    build, arguments = potential.__reduce__()
    assert build is module.load_exported
    assert arguments == (tmp_path / "potential.pt2",)
    with pytest.raises(InputError, match="by its file"):
        stand_in.__reduce__()


@pytest.mark.slow
@needs_compiler
def test_round_trip(potential, exported):
    back = gace.load(exported)
    assert (back.elements, back.cutoff) == (potential.elements, potential.cutoff)
    assert back.level_of_theory == {"functional": "PBE"}
    # one by one, and all in one batch
    for batch in (200, 1):
        found = back.predict(structures(), batch_atoms=batch)
        for a, b in zip(found, potential.predict(structures()), strict=True):
            assert a.energy == pytest.approx(b.energy, abs=1e-10)
            np.testing.assert_allclose(a.forces, b.forces, atol=1e-12)
            np.testing.assert_allclose(a.energies, b.energies, atol=1e-10)
            assert (a.stress is None) == (b.stress is None)
            if b.stress is not None:
                np.testing.assert_allclose(a.stress, b.stress, atol=1e-13)


@pytest.mark.slow
@needs_compiler
def test_it_is_a_calculator_and_a_command_takes_it(exported, tmp_path):
    atoms = molecule("CH3CH2OH")
    atoms.calc = gace.load(exported).calculator()
    assert "energy_std" not in atoms.calc.implemented_properties
    energy = atoms.get_potential_energy()
    atoms.write(tmp_path / "ethanol.xyz", format="extxyz")
    assert np.isfinite(energy)
    structure = str(tmp_path / "ethanol.xyz")
    main(["md", str(exported), structure, "--steps", "3", "--ensemble", "nve", "--json"])


@pytest.mark.slow
@needs_compiler
def test_the_command_exports_in_single_precision(potential, tmp_path, capsys):
    bundle = save_bundle(potential, tmp_path / "bundle")
    out = tmp_path / "single.pt2"
    main(["export", str(bundle), "--out", str(out), "--dtype", "float32", "--json"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["dtype"], summary["n_members"]) == ("float32", 2)
    back = gace.load(out)
    assert back.dtype == torch.float32
    for a, b in zip(back.predict(structures()), potential.predict(structures()), strict=True):
        # some eV per atom to seven digits
        np.testing.assert_allclose(a.energies, b.energies, atol=1e-5)
        # forces reach 25 eV/Å, where repulsions of opposite sign cancel
        np.testing.assert_allclose(a.forces, b.forces, rtol=5e-6, atol=2e-5)


def test_what_is_no_export_is_refused(potential, tmp_path):
    with pytest.raises(InputError, match=r"\*\.pt2"):
        export(potential, tmp_path / "potential.pt")
    with pytest.raises(InputError, match="no such folder"):
        export(potential, tmp_path / "nowhere" / "potential.pt2")
    with pytest.raises(BundleError, match="no such file"):
        gace.load(tmp_path / "absent.pt2")
    (tmp_path / "text.pt2").write_text("no package")
    with pytest.raises(BundleError, match="no exported potential"):
        gace.load(tmp_path / "text.pt2")


def test_without_a_compiler_it_says_so(potential, tmp_path, monkeypatch):
    monkeypatch.setattr("gace.potential.exported.compiler_available", lambda: False)
    with pytest.raises(InputError, match="C\\+\\+ compiler"):
        export(potential, tmp_path / "potential.pt2")


@pytest.mark.slow
@needs_compiler
def test_a_program_in_cpp_says_the_same(potential, exported, tmp_path):
    """The example of the documentation, built against this machine's PyTorch."""
    base = Path(torch.__file__).parent
    program = tmp_path / "evaluate"
    line = [shutil.which("g++") or "c++", "-O1", "-std=c++20", str(ROOT / "examples/cpp/evaluate.cpp")]
    line += [f"-I{base}/include", f"-I{base}/include/torch/csrc/api/include", f"-L{base}/lib"]
    line += [f"-Wl,-rpath,{base}/lib", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(program)]
    subprocess.run(line, check=True, timeout=600)
    atoms = structures()[1]
    graph = build_graph([atoms], potential.elements, potential.cutoff)
    rows = [f"{graph.n_atoms} {graph.neighbour.shape[1]}", *map(str, graph.species.tolist())]
    for index, vector in zip(graph.neighbour.flatten(), graph.edge_vector.reshape(-1, 3), strict=True):
        rows.append(f"{int(index)} " + " ".join(repr(float(one)) for one in vector))
    (tmp_path / "structure.txt").write_text("\n".join(rows))
    done = subprocess.run(
        [program, exported, tmp_path / "structure.txt"], capture_output=True, text=True, check=True
    )
    described, *lines = done.stdout.splitlines()
    assert json.loads(described)["elements"] == ELEMENTS
    values = np.array([line.split() for line in lines[: len(atoms)]], dtype=float)
    (expected,) = potential.predict([atoms])
    np.testing.assert_allclose(values[:, 0] - 1000.0, expected.energies, atol=1e-10)
    np.testing.assert_allclose(values[:, 1:], expected.forces, atol=1e-11)
    virial = np.array([line.split() for line in lines[len(atoms) :]], dtype=float)
    np.testing.assert_allclose(virial / atoms.get_volume(), expected.stress, atol=1e-12)
