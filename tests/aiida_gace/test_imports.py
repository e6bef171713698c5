"""A finished AiiDA group of calculations, taken into a label store."""

import json

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.units import GPa
from click.testing import CliRunner

from gace_platform.labelling.command import command
from gace_platform.ledger.canonical import canonical
from gace_platform.ledger.keys import label_key
from gace_platform.ledger.store import LabelStore

pytestmark = pytest.mark.aiida

UPF = '<UPF version="2.0.1"><PP_HEADER element="Si" z_valence="4.0"/></UPF>\n'
PARAMETERS = {
    "CONTROL": {"calculation": "scf"},
    "SYSTEM": {"ecutwfc": 20.0, "ecutrho": 80.0},
    "ELECTRONS": {"conv_thr": 1e-9},
}


@pytest.fixture
def calculation(computer):
    """``calculation(atoms, ...)``: a single point by Quantum ESPRESSO, as its plug-in leaves it."""
    from io import BytesIO

    from aiida import orm
    from aiida.common.links import LinkType
    from aiida.engine import ProcessState
    from aiida_pseudo.data.pseudo.upf import UpfData

    def make(atoms, energy=-100.0, exit_status=0, converged=True, inside=False, **system):
        parameters = {**PARAMETERS, "SYSTEM": {**PARAMETERS["SYSTEM"], **system}}
        if "conv_thr" in system:
            parameters = {**PARAMETERS, "ELECTRONS": {"conv_thr": system["conv_thr"]}}
        if "calculation" in system:
            parameters = {**PARAMETERS, "CONTROL": {"calculation": system["calculation"]}}
        kpoints = orm.KpointsData()
        kpoints.set_kpoints_mesh([2, 2, 2])
        inputs = {
            "structure": orm.StructureData(ase=atoms),
            "parameters": orm.Dict(parameters),
            "pseudos__Si": UpfData(BytesIO(UPF.encode()), "Si.upf"),
        }
        if inside:  # the base work chain, which knows how dense its k-points are
            node = orm.WorkChainNode(process_type="aiida.workflows:quantumespresso.pw.base")
            inputs = {f"pw__{name}": data for name, data in inputs.items()}
            inputs["kpoints_distance"] = orm.Float(0.3)
            made, put = LinkType.RETURN, LinkType.INPUT_WORK
        else:
            node = orm.CalcJobNode(computer=computer, process_type="aiida.calculations:quantumespresso.pw")
            node.set_option("resources", {"num_machines": 1})
            inputs["kpoints"] = kpoints
            made, put = LinkType.CREATE, LinkType.INPUT_CALC
        for name, data in inputs.items():
            node.base.links.add_incoming(data.store(), put, name)
        node.set_process_state(ProcessState.FINISHED)
        node.set_exit_status(exit_status)
        node.store()
        if exit_status:
            return node
        results = {
            "energy": energy,
            "energy_units": "eV",
            "creator_version": "6.7",
            "convergence_info": {"scf_conv": {"convergence_achieved": converged}},
        }
        trajectory = orm.TrajectoryData()
        trajectory.set_trajectory(
            ["Si"] * len(atoms), atoms.positions[None], cells=atoms.cell.array[None], pbc=[True] * 3
        )
        trajectory.set_array("forces", 0.1 * (atoms.positions - atoms.positions.mean(axis=0))[None])
        trajectory.set_array("stress", np.diag([1.0, 2.0, 3.0])[None])  # GPa, compression positive
        for name, data in {"output_parameters": orm.Dict(results), "output_trajectory": trajectory}.items():
            if inside:
                data.store()
            data.base.links.add_incoming(node, made, name)
            data.store()
        return node

    return make


@pytest.fixture
def group(aiida_profile):
    """``group(*nodes)``: the label of a new group that holds them."""
    from aiida import orm

    def make(*nodes):
        made = orm.Group(label=f"scf-{orm.QueryBuilder().append(orm.Group).count()}").store()
        made.add_nodes(list(nodes))
        return made.label

    return make


@pytest.fixture
def take_in(tmp_path):
    """``take_in(group, **keys)``: run ``gace labels import``; its exit code and summary (or output)."""

    def run(label, **keys):
        file = tmp_path / "import.yaml"
        file.write_text(yaml.safe_dump({"group": label, "store": "labels", "source": "a test", **keys}))
        done = CliRunner().invoke(command, ["import", str(file), "--json"])
        if done.exit_code or done.exception:
            return done.exception
        return json.loads(done.stdout.splitlines()[-1])

    run.store = LabelStore(tmp_path / "labels")
    return run


def settings_of(store, summary):
    return json.loads((store.folder / "settings" / f"{summary['settings_hash']}.json").read_text())


def silicon(seed):
    atoms = bulk("Si", cubic=False)
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_labels_have_keys_units_and_signs(calculation, group, take_in):
    frames = [silicon(seed) for seed in range(3)]
    summary = take_in(group(*[calculation(atoms, -100.0 - n) for n, atoms in enumerate(frames)]))
    assert (summary["imported"], summary["structures"], summary["refused"]) == (3, 3, {})
    settings = settings_of(take_in.store, summary)
    frames[1].info.update(charge=0, spin=0)
    record = take_in.store.get(label_key(frames[1], settings))
    assert record.energy == pytest.approx(-101.0)
    # a record holds the label of the structure's canonical form
    placing = canonical(frames[1])[1]
    stress = placing.stress_as_asked(np.array(record.stress))
    assert stress == pytest.approx(-np.diag([1.0, 2.0, 3.0]) * GPa, abs=1e-7)
    forces = placing.forces_as_asked(np.array(record.forces))
    assert forces == pytest.approx(0.1 * (frames[1].positions - frames[1].positions.mean(0)), abs=1e-6)
    assert record.core_seconds == 0


def test_settings_come_from_the_calculations(calculation, group, take_in):
    summary = take_in(group(calculation(silicon(0))))
    settings = settings_of(take_in.store, summary)
    assert settings["engine"] == "quantum-espresso"
    assert settings["code_version"] == "6.7"
    assert settings["system"] == {"ecutrho": 80.0, "ecutwfc": 20.0}
    assert settings["kpoints"] == [[2, 2, 2], [0.0, 0.0, 0.0]]
    assert len(settings["pseudopotentials"]["Si"]) == 32


def test_a_work_chain_is_read_like_its_calculation(calculation, group, take_in):
    summary = take_in(group(calculation(silicon(0), inside=True)))
    assert summary["imported"] == 1
    settings = settings_of(take_in.store, summary)
    assert settings["kpoints_distance"] == 0.3
    assert "kpoints" not in settings


def test_what_failed_or_is_no_single_point_has_no_label(calculation, group, take_in, aiida_profile):
    from aiida import orm

    nodes = [
        calculation(silicon(0)),
        calculation(silicon(1), exit_status=410),
        calculation(silicon(2), converged=False),
        calculation(silicon(3), calculation="vc-relax"),
        orm.Int(3).store(),
    ]
    summary = take_in(group(*nodes))
    assert (summary["imported"], summary["without_label"]) == (1, 4)
    reasons = list(summary["refused"].values())
    assert ["did not end well" in reasons[0], "did not converge" in reasons[1]] == [True, True]
    assert ["vc-relax" in reasons[2], "no calculation" in reasons[3]] == [True, True]
    assert all(node.uuid in place for node, place in zip(nodes[1:], summary["refused"], strict=True))


def test_what_was_hardly_converged_has_no_label(calculation, group, take_in):
    nodes = [calculation(silicon(0)), calculation(silicon(1), conv_thr=1e-4)]
    summary = take_in(group(*nodes))
    assert (summary["imported"], list(summary["refused"].values())) == (1, ["converged to 0.0001 Ry only"])


def test_different_settings_are_refused(calculation, group, take_in):
    nodes = [calculation(silicon(0)), calculation(silicon(1), ecutwfc=30.0)]
    error = take_in(group(*nodes))
    assert "2 different settings (such as system" in str(error)
    assert list(take_in.store.records()) == []


def test_stated_settings_decide_the_key(calculation, group, take_in):
    from gace_platform.ledger.keys import settings_hash

    settings = {"engine": "quantum-espresso", "cutoff_wfc": 20}
    summary = take_in(group(calculation(silicon(0))), settings=settings)
    assert summary["settings_hash"] == settings_hash(settings)


def test_importing_twice_changes_nothing(calculation, group, take_in):
    label = group(calculation(silicon(0)))
    take_in(label)
    before = [record.model_dump() for record in take_in.store.records()]
    again = take_in(label)
    assert (again["imported"], again["present"], again["conflicts"]) == (0, 1, [])
    assert [record.model_dump() for record in take_in.store.records()] == before


def test_an_unknown_group_is_named_with_the_nearest(calculation, group, take_in):
    label = group(calculation(silicon(0)))
    error = take_in(label + "x")
    assert f"no AiiDA group '{label}x'" in str(error)


def test_files_and_group_at_once_are_refused(take_in):
    assert "either structures (files), group" in str(take_in("any", structures="a.xyz"))
