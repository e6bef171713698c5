"""VASP through AiiDA: the input as aiida-vasp writes it, the output as its parser leaves it; no VASP here."""

import os
import stat

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from gace.errors import InputError
from gace_platform.labelling.config import VaspReference
from gace_platform.labelling.engines.vasp import REMEDIES, VaspEngine
from gace_platform.ledger.keys import settings_hash

pytest.importorskip("aiida_vasp", reason="aiida-vasp is not installed: pip install 'gace[vasp]'")

pytestmark = [pytest.mark.aiida]

POTCAR = """  PAW_PBE {name} 05Jan2001
 {valence}
 parameters from PSCTR are:
   VRHFIN ={symbol}: s2p2
   LEXCH  = PE
   EATOM  =   103.0669 eV,    7.5752 Ry
   TITEL  = PAW_PBE {name} 05Jan2001
   LULTRA =        F    use ultrasoft PP ?
   POMASS =   28.085; ZVAL   =    {valence}    mass and valenz
   ENMAX  =  245.345; ENMIN  =  184.009 eV
 END of PSCTR-controll parameters
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Potentials with the heads of real ones, and a program that is none."""
    place = tmp_path_factory.mktemp("vasp") / "potpaw_PBE"
    for symbol, name, valence in (("Si", "Si", 4.0), ("O", "O_s", 6.0), ("Fe", "Fe_pv", 14.0)):
        (place / name).mkdir(parents=True)
        text = POTCAR.format(symbol=symbol, name=name, valence=f"{valence:.3f}")
        (place / name / "POTCAR").write_text(text)
    program = place.parent / "vasp_std"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return place


@pytest.fixture
def reference(folder):
    def make(**changes):
        return VaspReference(
            **{
                "engine": "vasp",
                "version": "6.4.2",
                "potentials": {"Si": "Si", "O": "O_s", "Fe": "Fe_pv"},
                "potential_folder": folder,
                "executable": str(folder.parent / "vasp_std"),
                "encut": 400,
                "kpoints_distance": 0.3,
                **changes,
            }
        )

    return make


@pytest.fixture
def localhost(aiida_profile, tmp_path_factory):
    from aiida import orm

    found = orm.QueryBuilder().append(orm.Computer, filters={"label": "localhost"}).first(flat=True)
    if found is None:
        found = orm.Computer(
            label="localhost",
            hostname="localhost",
            transport_type="core.local",
            scheduler_type="core.direct",
            workdir=str(tmp_path_factory.mktemp("work")),
        )
        found.set_default_mpiprocs_per_machine(1)
        found.store()
        found.configure(safe_interval=0.0, use_login_shell=False)
    return found


@pytest.fixture
def adapter(localhost, reference):
    from aiida_gace.adapters import make_adapter

    def make(**changes):
        made = make_adapter(reference(**changes))
        made.prepare()
        return made

    return make


@pytest.fixture
def written(adapter, tmp_path, monkeypatch):
    """``written(atoms, remedy, **reference)``: the input files as aiida-vasp would send them."""
    from aiida import engine

    def write(atoms, remedy=0, **changes):
        builder = adapter(**changes).builder(atoms, remedy, 3600)
        builder.metadata.dry_run = True
        builder.metadata.store_provenance = False
        monkeypatch.chdir(tmp_path)
        engine.run(builder)
        place = max((tmp_path / "submit_test").iterdir(), key=os.path.getmtime)
        files = {one.name: one.read_text() for one in place.iterdir() if one.is_file()}
        tags = {}
        for line in files["INCAR"].splitlines():
            name, _, value = line.partition("=")
            tags[name.strip()] = value.strip()
        return files, tags

    return write


def quartz_like():
    """Elements in an order in which no POSCAR may have them."""
    atoms = Atoms("OSiOFeSi", positions=np.arange(15).reshape(5, 3) * 0.37, cell=[5.0, 6.0, 7.0], pbc=True)
    atoms.info.update(charge=0, spin=0)
    return atoms


def test_incar_asks_for_a_single_point_with_forces_and_stress(written):
    _, tags = written(bulk("Si"))
    assert (tags["NSW"], tags["IBRION"], tags["ISIF"]) == ("0", "-1", "2")
    assert float(tags["ENCUT"]) == 400
    assert float(tags["EDIFF"]) == 1e-6
    assert (tags["ISMEAR"], tags["PREC"]) == ("0", "Accurate")
    assert {"ISPIN", "NELECT", "GGA", "IVDW"}.isdisjoint(tags)


def test_functional_dispersion_charge_and_moments(written):
    atoms = quartz_like()
    atoms.info["charge"] = 1
    moments = {"Fe": 4.0}
    _, tags = written(atoms, functional="PBEsol", dispersion="D3BJ", magnetisation=moments, tags={"ncore": 4})
    assert (tags["GGA"], tags["IVDW"], tags["ISPIN"], tags["NCORE"]) == ("PS", "12", "2", "4")
    assert float(tags["NELECT"]) == 2 * 6 + 2 * 4 + 14 - 1
    # O O Si Si Fe, as in the POSCAR
    assert [float(word) for word in tags["MAGMOM"].split()] == [0, 0, 0, 0, 4]


def test_poscar_and_potcar_have_the_same_order_of_elements(written):
    atoms = quartz_like()
    files, _ = written(atoms)
    lines = files["POSCAR"].splitlines()
    assert (lines[5].split(), lines[6].split()) == (["O", "Si", "Fe"], ["2", "2", "1"])
    titles = [line.split()[3] for line in files["POTCAR"].splitlines() if "TITEL" in line]
    assert titles == ["O_s", "Si", "Fe_pv"]
    fractional = np.array([line.split()[:3] for line in lines[8:13]], dtype=float)
    expected = atoms.get_scaled_positions(wrap=False)[[0, 2, 1, 4, 3]]
    # 15 digits are written
    assert np.abs(fractional - expected).max() < 1e-13


def test_potentials_are_not_kept_with_the_inputs(written):
    # they are licensed: AiiDA's repository is shared more freely than that
    from aiida_vasp.calcs.vasp import VaspCalculation

    files, _ = written(bulk("Si"))
    assert "POTCAR" in files
    assert "POTCAR" not in VaspCalculation._ALWAYS_RETRIEVE_LIST


def test_kpoints_follow_the_density_asked_for(written):
    files, _ = written(bulk("Si", cubic=True), kpoints_distance=0.3)
    # 2π/5.43 Å = 1.157 1/Å in 4 steps of 0.29
    assert files["KPOINTS"].splitlines()[3].split()[:3] == ["4", "4", "4"]


def test_an_isolated_atom_has_its_spin_and_one_kpoint(written, reference):
    atom = VaspEngine(reference()).isolated_atom("O")
    files, tags = written(atom)
    assert (tags["ISPIN"], float(tags["MAGMOM"]), int(float(tags["NUPDOWN"]))) == ("2", 2.0, 2)
    assert files["KPOINTS"].splitlines()[3].split()[:3] == ["1", "1", "1"]
    assert len(set(np.round(atom.cell.lengths(), 3))) == 3


@pytest.mark.parametrize("remedy", range(len(REMEDIES)))
def test_remedies_change_the_way_and_not_the_theory(written, remedy):
    _, first = written(bulk("Si"))
    _, tags = written(bulk("Si"), remedy)
    way = {"ALGO", "NELM", "AMIX", "BMIX", "TIME", "ISYM"}
    assert {name: value for name, value in tags.items() if name not in way} == {
        name: value for name, value in first.items() if name not in way
    }
    assert remedy in (0, len(REMEDIES) - 1) or tags != first


def test_wall_time_and_processes_reach_the_scheduler(adapter):
    builder = adapter(processes=8).builder(bulk("Si"), 0, 3600)
    options = builder.metadata.options
    assert (options.max_wallclock_seconds, options.withmpi) == (3600, True)
    assert options.resources["num_mpiprocs_per_machine"] == 8


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"potentials": {"Si": "Si_GW"}}, "did you mean 'Si'"),
        ({"potential_folder": "/nowhere"}, "potential_folder"),
        ({"executable": "/nowhere/vasp_std"}, "executable"),
        ({"potentials": {"O": "O_s"}}, "names none for Si"),
    ],
)
def test_what_cannot_work_is_refused_early(reference, changes, word):
    with pytest.raises(InputError, match=word):
        VaspEngine(reference(**changes)).check([bulk("Si")])


def test_molecules_are_refused(reference):
    with pytest.raises(InputError, match="not periodic"):
        VaspEngine(reference()).check([Atoms("Si")])


def test_label_key_knows_the_content_of_the_potentials(reference, folder):
    before = settings_hash(VaspEngine(reference()).settings())
    file = folder / "Si" / "POTCAR"
    content = file.read_text()
    try:
        file.write_text(content + "\n another table")
        assert settings_hash(VaspEngine(reference()).settings()) != before
    finally:
        file.write_text(content)
    assert settings_hash(VaspEngine(reference(max_cycle=7, processes=4)).settings()) == before
    assert settings_hash(VaspEngine(reference(tags={"ldau": True})).settings()) != before


@pytest.fixture
def finished(computer):
    """``finished(misc, exit_status, output)``: a calculation as aiida-vasp's parser leaves it."""
    from aiida import orm
    from aiida.common.links import LinkType
    from aiida.engine import ProcessState

    def make(misc=None, exit_status=0, output=""):
        node = orm.CalcJobNode(computer=computer, process_type="aiida.calculations:vasp.vasp")
        node.set_option("resources", {"num_machines": 1})
        node.set_process_state(ProcessState.FINISHED)
        node.set_exit_status(exit_status)
        node.store()
        retrieved = orm.FolderData()
        retrieved.base.repository.put_object_from_bytes(output.encode(), "vasp_output")
        times = b"0m0.010s 0m0.020s\n1m40.000s 0m2.500s\n"
        retrieved.base.repository.put_object_from_bytes(times, "_scheduler-stdout.txt")
        retrieved.base.links.add_incoming(node, LinkType.CREATE, "retrieved")
        retrieved.store()
        if misc is not None:
            data = orm.Dict(misc)
            data.base.links.add_incoming(node, LinkType.CREATE, "misc")
            data.store()
        return node

    return make


def misc_of(forces, **changes):
    return {
        "total_energies": {"energy_free": -33.25, "energy_free_electronic": -33.25},
        "forces": forces.tolist(),
        "stress": [[10.0, 1.0, 0.0], [1.0, 20.0, 0.0], [0.0, 0.0, 30.0]],
        "run_status": {"finished": True, "electronic_converged": True, "ionic_converged": None},
        "version": "6.4.2",
        **changes,
    }


def test_forces_come_back_in_the_order_of_the_structure(adapter, finished):
    atoms = quartz_like()
    forces = np.arange(15.0).reshape(5, 3)
    node = finished(misc_of(forces[[0, 2, 1, 4, 3]]))  # as VASP has them: O O Si Si Fe
    outcome = adapter().outcome(node, atoms)
    assert outcome.failure_class is None
    assert outcome.label.forces == pytest.approx(forces)
    assert outcome.label.energy == -33.25
    # 10 kbar of compression in VASP's sign
    assert outcome.label.stress[0, 0] == pytest.approx(-1.0 * GPa)
    assert outcome.core_seconds == pytest.approx(102.53)


def test_another_version_than_stated_is_no_label(adapter, finished):
    from gace_platform.labelling.gate import disproof

    outcome = adapter().outcome(finished(misc_of(np.zeros((2, 3)), version="5.4.4")), bulk("Si"))
    assert "version" in disproof(outcome.label.evidence)


@pytest.mark.parametrize(
    ("exit_status", "output", "failure"),
    [
        (701, "DAV: 100", "unconverged"),
        (703, "Error EDDDAV: Call to ZHEGV failed. Returncode = 7", "diagonalisation"),
        (703, "internal error", "crashed"),
        (700, "slurmstepd: *** JOB CANCELLED DUE TO TIME LIMIT ***", "timeout"),
        (700, "", "killed"),
        (110, "", "memory"),
        (1002, "", "parser"),
        (999, "", "error"),
    ],
)
def test_failures_have_their_class_and_no_label(adapter, finished, exit_status, output, failure):
    outcome = adapter().outcome(finished(None, exit_status, output), bulk("Si"))
    assert (outcome.failure_class, outcome.label) == (failure, None)
    assert outcome.core_seconds > 100


def test_an_output_that_lacks_forces_is_a_failure(adapter, finished):
    misc = misc_of(np.zeros((2, 3)))
    del misc["forces"]
    outcome = adapter().outcome(finished(misc), bulk("Si"))
    assert (outcome.failure_class, outcome.label) == ("parser", None)
