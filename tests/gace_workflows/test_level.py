"""A program that is exchanged under a campaign: labels of two levels of theory never meet."""

import pytest
from ase.build import bulk

from gace_platform.labelling.engines.base import make_engine
from gace_platform.ledger import LabelStore, settings_hash
from gace_workflows.campaign.file import dump_campaign, load_campaign
from gace_workflows.level import change_of_level, settings_of


def written(write_campaign, folder, version):
    """A campaign whose teacher is of this version."""
    reference = {"engine": "teacher", "calculator": "emt", "version": version}
    return load_campaign(write_campaign(folder, reference=reference))


def labelled(campaign, store=None):
    """A structure with the label key that the campaign's reference gives it."""
    settings = make_engine(campaign.reference).settings()
    if store is not None:
        LabelStore(store).remember_settings(settings_hash(settings), settings)
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.info["label_key"] = f"{'0' * 16}-{settings_hash(settings)}"
    return atoms


def test_another_version_is_named_and_the_same_is_none(write_campaign, tmp_path):
    old, new = (written(write_campaign, tmp_path / v, v) for v in ("1.0", "2.0"))
    known = [labelled(old, tmp_path / "store")]
    assert change_of_level(known, old, tmp_path / "store") is None
    assert change_of_level(known, new, tmp_path / "store") == "code_version was 1.0, is 2.0"
    assert change_of_level(known, new, tmp_path / "no store") == f"settings {next(iter(settings_of(known)))}"


@pytest.mark.aiida
def test_a_campaign_ends_before_it_pays_with_another_program(write_campaign, tmp_path):
    from aiida import orm
    from aiida.engine.utils import instantiate_process
    from aiida.manage import get_manager
    from aiida.manage.configuration import load_profile
    from aiida.storage.sqlite_temp import SqliteTempBackend

    from aiida_gace.data.dataset import DatasetData
    from gace_workflows.active_learning import ActiveLearningWorkChain

    load_profile(SqliteTempBackend.create_profile("gace-level-tests"), allow_switch=True)
    old, new = (written(write_campaign, tmp_path / v, v) for v in ("1.0", "2.0"))
    computer = orm.Computer(
        label="here", hostname="localhost", transport_type="core.local", scheduler_type="core.direct"
    ).store()
    chain = instantiate_process(
        get_manager().get_runner(),
        ActiveLearningWorkChain,
        code=orm.InstalledCode(computer=computer, filepath_executable="/bin/true"),
        campaign=orm.Dict(dump_campaign(new)),
        places=orm.Dict({"labels": str(tmp_path / "store")}),
        start=DatasetData([bulk("Cu", "fcc", a=3.6, cubic=True)]),
    )
    chain.ctx.dataset = DatasetData([labelled(old, tmp_path / "store")])
    ending = chain.label()
    assert ending.status == 420
    assert "code_version was 1.0, is 2.0" in ending.message
