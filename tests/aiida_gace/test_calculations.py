"""What each calculation job lays out for its command."""

import pytest
import yaml

pytestmark = pytest.mark.aiida


@pytest.fixture
def code(computer):
    from aiida import orm

    return orm.InstalledCode(label="gace", computer=computer, filepath_executable="/bin/true").store()


@pytest.fixture
def prepare(code):
    """Prepare a job for submission: ``prepare(kind, config, **inputs)`` gives its folder, config and info."""
    from aiida import orm
    from aiida.common.folders import SandboxFolder
    from aiida.engine.utils import instantiate_process
    from aiida.manage import get_manager
    from aiida.plugins import CalculationFactory

    sandboxes = []

    def run(kind, config, **inputs):
        runner = get_manager().get_runner()
        process = instantiate_process(
            runner, CalculationFactory(f"gace.{kind}"), code=code, config=orm.Dict(config), **inputs
        )
        folder = SandboxFolder()
        sandboxes.append(folder)
        info = process.prepare_for_submission(folder)
        with folder.open("config.yaml", "r") as handle:
            return folder, yaml.safe_load(handle), info

    yield run
    for sandbox in sandboxes:
        sandbox.erase()


def test_command_line(prepare, water):
    from aiida_gace.data.dataset import DatasetData

    _, _, info = prepare("label", {}, structures=DatasetData(water))
    assert info.codes_info[0].cmdline_params == ["labels", "run", "config.yaml", "--out", "out", "--json"]


def test_job_leaves_its_exit_status(prepare, water):
    from aiida_gace.data.dataset import DatasetData

    _, _, info = prepare("label", {}, structures=DatasetData(water))
    assert "echo $? > exit_code" in info.append_text
    assert "exit_code" in info.retrieve_list


def test_committee_files(prepare, water, bundle):
    from aiida_gace.data.dataset import DatasetData
    from aiida_gace.data.potential import PotentialData

    folder, config, info = prepare(
        "committee",
        {"training": {"max_epochs": 3}},
        train=DatasetData(water),
        isolated_atoms=DatasetData(water[:1]),
        start_from=PotentialData(tree=bundle),
    )
    assert config == {
        "training": {"max_epochs": 3},
        "data": {"train": "train.xyz", "isolated_atoms": "isolated_atoms.xyz"},
        "potential": {"start_from": "start_from"},
    }
    assert {"train.xyz", "isolated_atoms.xyz", "start_from"} <= set(folder.get_content_list())
    assert ("out/members/*/metrics.jsonl", ".", 3) in info.retrieve_list


def test_laid_potential_is_a_whole_bundle(prepare, water, bundle):
    import gace
    from aiida_gace.data.dataset import DatasetData
    from aiida_gace.data.potential import PotentialData

    folder, config, _ = prepare("explore", {}, start=DatasetData(water), potential=PotentialData(tree=bundle))
    assert list(gace.load(folder.get_abs_path(config["potential"])).elements) == ["H", "O"]


def test_configuration_of_the_registration(prepare, water, bundle):
    from aiida_gace.data.dataset import DatasetData
    from aiida_gace.data.potential import PotentialData
    from gace.config import parse_config
    from gace_platform.registry.config import RegisterConfig

    _, config, _ = prepare(
        "register",
        {"name": "water", "generation": 1},
        potential=PotentialData(tree=bundle),
        exam=DatasetData(water),
    )
    parsed = parse_config(config, RegisterConfig)
    assert (str(parsed.bundle), str(parsed.exam.structures)) == ("potential", "exam.xyz")


def test_configuration_of_the_review(prepare, water, bundle):
    from aiida_gace.data.dataset import DatasetData
    from aiida_gace.data.potential import PotentialData
    from gace.config import parse_config
    from gace_platform.labelling.review import ReviewConfig

    _, config, _ = prepare("review", {}, structures=DatasetData(water), potential=PotentialData(tree=bundle))
    parsed = parse_config(config, ReviewConfig)
    assert (str(parsed.structures), parsed.potential) == ("labelled.xyz", "potential")


def test_configuration_of_the_selection(prepare, water, bundle):
    from aiida_gace.data.dataset import DatasetData
    from aiida_gace.data.potential import PotentialData
    from gace.config import parse_config
    from gace_platform.candidates.config import SelectConfig

    _, config, _ = prepare(
        "select",
        {"count": 2},
        pool=DatasetData(water),
        training=DatasetData(water[:1]),
        potential=PotentialData(tree=bundle),
    )
    parsed = parse_config(config, SelectConfig)
    assert (str(parsed.pool), str(parsed.training), parsed.potential) == (
        "pool.xyz",
        "training.xyz",
        "potential",
    )
