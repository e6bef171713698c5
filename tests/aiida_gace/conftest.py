"""A throw-away AiiDA profile, and ways to make calculation nodes as a finished job would leave them."""

import json

import pytest


@pytest.fixture(scope="session")
def aiida_profile():
    """A profile in memory, loaded for the whole session."""
    from aiida.manage.configuration import load_profile
    from aiida.storage.sqlite_temp import SqliteTempBackend

    return load_profile(SqliteTempBackend.create_profile("gace-tests"), allow_switch=True)


@pytest.fixture(scope="session")
def computer(aiida_profile, tmp_path_factory):
    from aiida import orm

    return orm.Computer(
        label="here",
        hostname="localhost",
        transport_type="core.local",
        scheduler_type="core.direct",
        workdir=str(tmp_path_factory.mktemp("work")),
    ).store()


@pytest.fixture(scope="session")
def localhost(aiida_profile, tmp_path_factory):
    """This machine as AiiDA's computer for programs, polled quickly."""
    from aiida import orm

    aiida_profile.set_option("runner.poll.interval", 1)
    found = orm.QueryBuilder().append(orm.Computer, filters={"label": "localhost"}).first(flat=True)
    if found is not None:
        return found
    computer = orm.Computer(
        label="localhost",
        hostname="localhost",
        transport_type="core.local",
        scheduler_type="core.direct",
        workdir=str(tmp_path_factory.mktemp("work")),
    )
    computer.set_minimum_job_poll_interval(0.2)
    computer.set_default_mpiprocs_per_machine(1)
    computer.store()
    computer.configure(safe_interval=0.0, use_login_shell=False)
    return computer


@pytest.fixture
def water():
    """Three water molecules with labels."""
    from ase.build import molecule

    from gace.structures.io import set_labels

    frames = []
    for number in range(3):
        atoms = molecule("H2O")
        atoms.rattle(0.02 * number, seed=number)
        atoms.info.update(charge=0, structure_id=f"w{number}", label_key=f"{number:016d}-{0:016d}")
        frames.append(set_labels(atoms, energy=-10.0 - number, forces=atoms.positions * 0.1))
    return frames


@pytest.fixture
def bundle(tmp_path):
    """A small untrained potential, as a bundle."""
    from gace.potential.bundle import save_bundle
    from gace.potential.graph_ace import GraphACE
    from gace.potential.potential import Potential

    model = GraphACE.from_preset("1L-small", elements=["H", "O"], mean_neighbours=2.0, scale=1.0, seed=0)
    potential = Potential([model], isolated_atom_energies={"H": -1.0, "O": -2.0})
    save_bundle(potential, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def finished_job(computer, tmp_path):
    """``finished_job(kind, retrieved, temporary)``: the node of a job that ended, from the files it left."""
    from aiida import orm
    from aiida.common.links import LinkType

    def make(kind, files, inputs=None):
        node = orm.CalcJobNode(computer=computer, process_type=f"aiida.calculations:gace.{kind}")
        node.set_option("resources", {"num_machines": 1, "num_mpiprocs_per_machine": 1})
        for name, data in (inputs or {}).items():
            node.base.links.add_incoming(data.store(), LinkType.INPUT_CALC, name)
        node.store()
        folder = orm.FolderData()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            folder.base.repository.put_object_from_bytes(text.encode(), name)
        folder.base.links.add_incoming(node, LinkType.CREATE, "retrieved")
        folder.store()
        return node

    return make


@pytest.fixture
def parse(finished_job, tmp_path):
    """Parse what a job left: ``parse(kind, files, temporary)`` gives outputs and exit code."""
    from aiida.plugins import ParserFactory

    def run(kind, files, temporary=None, inputs=None):
        node = finished_job(kind, files, inputs)
        results, function = ParserFactory(f"gace.{kind}").parse_from_node(
            node, store_provenance=False, retrieved_temporary_folder=str(temporary or tmp_path / "nothing")
        )
        return results, function.exit_status

    return run
