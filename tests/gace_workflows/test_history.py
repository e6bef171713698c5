"""What is read back from AiiDA's database: the loop that counts, and what the labels of each turn cost."""

import datetime

import pytest

from gace_platform.ledger.store import LabelRecord, LabelStore
from gace_workflows.campaign.file import load_campaign
from gace_workflows.campaign.folder import CampaignFolder

pytestmark = pytest.mark.aiida


@pytest.fixture(scope="module")
def profile():
    """A profile in memory."""
    from aiida.manage.configuration import load_profile
    from aiida.storage.sqlite_temp import SqliteTempBackend

    return load_profile(SqliteTempBackend.create_profile("gace-history-tests"), allow_switch=True)


@pytest.fixture
def start(profile):
    """Store a loop in a state, or a process that another one called."""
    from aiida import orm
    from aiida.common.links import LinkType

    from gace_workflows.active_learning import ActiveLearningWorkChain

    def make(state="running", status=None, caller=None, step=None, inputs=None, outputs=None):
        loop = caller is None
        node = orm.WorkChainNode(
            process_type=ActiveLearningWorkChain.build_process_type()
            if loop
            else "aiida.workflows:gace.label"
        )
        node.set_process_state(state)
        if status is not None:
            node.set_exit_status(status)
        if caller is not None:
            node.base.links.add_incoming(caller, LinkType.CALL_WORK, "call")
        for name, data in (inputs or {}).items():
            node.base.links.add_incoming(data.store(), LinkType.INPUT_WORK, name)
        node.store()
        for name, data in (outputs or {}).items():
            data.store().base.links.add_incoming(node, LinkType.RETURN, name)
        if step is not None:
            node.base.extras.set_many({"gace_step": step[0], "gace_generation": step[1]})
        return node

    return make


@pytest.fixture
def folder(tmp_path):
    """A campaign's folder whose label store holds an isolated atom and four structures, and a loss."""
    folder = CampaignFolder.at(tmp_path / "there")
    store = LabelStore(folder.labels)
    prices = {"atom": 5.0, "good": 100.0, "hopeless": 30.0, "doubtful": 20.0, "under way": 50.0}
    for key, seconds in prices.items():
        failed = key == "hopeless"
        store.put(
            LabelRecord(
                key=key, run=f"run of {key}", status="failed" if failed else "computed", numbers=[29],
                positions=[[0.0, 0.0, 0.0]], cell=[[0.0] * 3] * 3, pbc=[False] * 3, charge=0, spin=1,
                energy=None if failed else -1.0, attempts=[], core_seconds=seconds, finished=0.0,
            )
        )  # fmt: skip
    store.journal.append("started", "good", run="killed")
    store.note_running("good", "killed", 7.0)
    return folder


def row(key, verdict, price, energy=-1.0, reused=False):
    """A structure's row in the verdict table of a labelling job."""
    return {
        "structure_id": key, "formula": "Cu", "n_atoms": 1, "key": key, "verdict": verdict, "reason": "",
        "reused": reused, "price": price, "paid": 0.0 if reused else price, "attempts": [], "energy": energy,
    }  # fmt: skip


def test_the_last_loop_counts_whatever_the_clock_said(start):
    from aiida import orm

    from gace_workflows.campaign.progress import find_work_chain

    failed = start("finished", 400)
    last = start("running")
    # the clock was set back before the second loop was submitted
    last.backend_entity.model.ctime = failed.ctime - datetime.timedelta(hours=1)
    last.backend_entity.model.save()
    assert orm.load_node(last.pk).ctime < failed.ctime
    assert find_work_chain().pk == last.pk


def test_the_report_adds_up_to_the_ledger_after_kills_and_a_new_loop(start, folder, write_campaign, tmp_path):
    from aiida import orm
    from ase import Atoms

    from aiida_gace.data.dataset import DatasetData
    from gace_workflows.campaign.history import read_history
    from gace_workflows.campaign.outcome import bill
    from gace_workflows.campaign.record import make_record

    names = ("good", "hopeless", "doubtful")
    structures = DatasetData([Atoms("Cu", info={"structure_id": name}) for name in names])
    # the first loop was killed when it had labelled, and again when it labelled the next batch
    first = start("excepted")
    start("excepted", caller=first, step=("label", 0), inputs={"structures": structures})
    second = start("running")
    rows = [
        row("good", "accepted", 100.0, reused=True),
        row("hopeless", "quarantined", 30.0, energy=None),
        row("doubtful", "quarantined", 20.0),
    ]
    table = {"structures": rows, "isolated_atoms": {"Cu": row("atom", "accepted", 5.0, reused=True)}}
    start(
        "finished", 0, caller=second, step=("label", 0),
        inputs={"structures": structures}, outputs={"verdicts": orm.Dict(table)},
    )  # fmt: skip
    start("running", caller=second, step=("label", 1), inputs={"structures": structures})

    history = read_history(second, folder.labels)
    totals = bill(folder, history)
    record = make_record(history, load_campaign(write_campaign(tmp_path)), totals, {})
    store = LabelStore(folder.labels)
    paid = sum(one.core_seconds for one in store.records())
    paid += sum(float(one["core_seconds"]) for one in store.lost())
    assert paid == 212.0
    assert totals.core_seconds["label"] == paid
    assert [one.core_seconds["label"] for one in record.generations] == [162.0, 50.0]
    assert [one.core_seconds for one in record.labels] == [100.0, 30.0, 20.0]
    assert [one.verdict for one in record.labels] == ["accepted", "failed", "quarantined"]
    assert (totals.labels, totals.labels_failed, totals.labels_quarantined) == (3, 1, 1)
    assert totals.labels_reused == 1
