"""The ``aiida:`` section of a campaign file: what it means, and what is refused before anything starts."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

from gace.errors import InputError
from gace_workflows import recipes
from gace_workflows.campaign import daemon
from gace_workflows.campaign.daemon import end_leftovers
from gace_workflows.campaign.file import dump_campaign, load_campaign, parse_campaign
from gace_workflows.campaign.folder import CampaignFolder
from gace_workflows.campaign.keeper import DaemonCare
from gace_workflows.campaign.profile import refuse_other_place
from gace_workflows.campaign.services import Services, broker_of, check_services, storage_of
from gace_workflows.drill.rehearsal import REHEARSAL

POSTGRES = {"backend": "postgresql", "database": "one", "user": "me", "password_file": "secret"}


def test_by_default_all_is_in_the_folder(tmp_path):
    assert storage_of(Services(), tmp_path) == ("core.sqlite_dos", {})
    assert broker_of(Services()) == ("core.zeromq", {})
    assert Services().jobs is None


def test_servers_get_what_aiida_wants(tmp_path):
    (tmp_path / "secret").write_text("open sesame\nsecond line")
    content = {
        "storage": POSTGRES,
        "broker": {"backend": "rabbitmq", "host": "mq", "password_file": "secret"},
    }
    services = Services.model_validate(content).located(tmp_path)
    name, config = storage_of(services, tmp_path / "files")
    assert name == "core.psql_dos"
    assert (config["database_password"], config["database_port"]) == ("open sesame", 5432)
    assert config["repository_uri"] == f"file://{tmp_path}/files"
    name, config = broker_of(services)
    assert name == "core.rabbitmq"
    assert (config["broker_host"], config["broker_password"]) == ("mq", "open sesame")


def test_password_files_are_found_from_the_frozen_copy_too(tmp_path, write_campaign):
    file = write_campaign(tmp_path / "here", aiida={"storage": POSTGRES})
    campaign = load_campaign(file)
    assert campaign.aiida.storage.password_file == tmp_path / "here" / "secret"
    assert parse_campaign(dump_campaign(campaign)).aiida == campaign.aiida
    assert "open sesame" not in yaml.safe_dump(dump_campaign(campaign))


def test_a_missing_password_file_is_named(tmp_path):
    services = Services.model_validate({"storage": POSTGRES}).located(tmp_path)
    with pytest.raises(InputError, match="secret"):
        storage_of(services, tmp_path)


def test_a_queue_without_slurm_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch"):
        check_services(Services.model_validate({"jobs": {}}))


@pytest.mark.parametrize(
    ("section", "most"), [({}, 2), ({"jobs": {"in_flight": 17}}, 17), ({"jobs": {}}, 4)], ids=str
)
def test_jobs_in_flight_are_bounded_as_asked(section, most):
    campaign = parse_campaign({**REHEARSAL, "aiida": section})
    assert recipes.jobs_in_flight(campaign) == most


def test_unknown_keys_name_the_nearest(tmp_path, write_campaign):
    file = write_campaign(tmp_path, aiida={"jobs": {"partition": "long", "account": "x", "in_fligth": 3}})
    with pytest.raises(InputError, match="in_flight"):
        load_campaign(file)


def test_the_supervisors_helper_is_ended_with_the_daemon(tmp_path):
    script = "from circus import stats; import time; time.sleep(60)"
    environment = {**os.environ, "AIIDA_PATH": str(tmp_path / ".aiida")}
    other = {**os.environ, "AIIDA_PATH": str(tmp_path / "other" / ".aiida")}
    ours, theirs = (subprocess.Popen([sys.executable, "-c", script], env=one) for one in (environment, other))
    try:
        assert end_leftovers(tmp_path) == 1
        assert ours.poll() is not None or ours.wait(10) is not None
        assert theirs.poll() is None
    finally:
        for one in (ours, theirs):
            one.kill()
            one.wait()


def test_a_supervisor_ended_while_it_ended_leaves_nothing_that_stops_a_repair(tmp_path, monkeypatch):
    folder = tmp_path / ".aiida"
    left = [
        folder / "daemon" / "circus-one.pid",
        *(folder / "broker" / "one" / f"broker.{a}" for a in ("pid", "sockets")),
    ]
    kept = [folder / "daemon" / "log" / "circus-one.log", folder / "broker" / "one" / "queue.db"]
    for file in (*left, *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("4194305")
    found = []
    monkeypatch.setattr(daemon, "forget_lost_jobs", lambda: 0)
    monkeypatch.setattr(daemon, "queue_lost_processes", lambda: 0)
    monkeypatch.setattr(daemon, "verdi", lambda *words: found.append([file.exists() for file in left]))
    daemon.repair(tmp_path, "one")
    assert found == [[False, False, False]]
    assert all(file.exists() for file in kept)


@pytest.mark.aiida
def test_a_lost_process_gets_a_task_that_lasts_until_it_has_ended(tmp_path, monkeypatch):
    """A task that is done when a worker begins is gone with that worker."""
    control = pytest.importorskip("aiida.engine.processes.control", reason="needs aiida-core")
    manage = pytest.importorskip("aiida.manage", reason="needs aiida-core")
    monkeypatch.setattr(daemon, "has_own_broker", lambda: True)
    monkeypatch.setattr(daemon, "broker_folder", lambda: tmp_path)
    monkeypatch.setattr(manage, "get_manager", lambda: SimpleNamespace(get_broker=lambda: None))
    monkeypatch.setattr(control, "get_active_processes", lambda project: [7, 5, 32])
    monkeypatch.setattr(control, "get_process_tasks", lambda broker: [32])
    assert daemon.queue_lost_processes() == 2
    queued = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("storage/tasks/pending/*"))]
    told = [str(one) for one in queued]
    assert len(told) == 2
    for number, task in zip((5, 7), told, strict=True):
        assert f"'pid': {number}" in task
        assert "'nowait': False" in task


def test_a_daemon_without_any_task_is_started_again(tmp_path, monkeypatch):
    """The work chain has not ended, so a task is lost."""
    (tmp_path / "broker.status").write_text('{"pending_tasks": 0, "processing_tasks": 0}')
    monkeypatch.setattr(daemon, "has_own_broker", lambda: True)
    monkeypatch.setattr(daemon, "broker_folder", lambda: tmp_path)
    assert not daemon.has_tasks()
    (tmp_path / "broker.status").write_text('{"pending_tasks": 0, "processing_tasks": 1}')
    assert daemon.has_tasks()
    now, started, tasks = [0.0], [], [True]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(daemon, "daemon_runs", lambda: True)
    monkeypatch.setattr(daemon, "daemon_workers", lambda: 2)
    monkeypatch.setattr(daemon, "has_tasks", lambda: tasks[0])
    monkeypatch.setattr(daemon, "stop_daemon", lambda folder: None)
    monkeypatch.setattr(daemon, "repair", lambda folder, name: None)
    monkeypatch.setattr(daemon, "start_daemon", lambda: started.append(now[0]))
    care = DaemonCare(CampaignFolder.at(tmp_path), parse_campaign(REHEARSAL))
    for moment, held in ((10.0, True), (20.0, False), (35.0, False), (45.0, False)):
        now[0], tasks[0] = moment, held
        care.look_after()
    assert started == [45.0]


def test_a_daemon_that_does_not_answer_leaves_no_file_that_says_it_runs(tmp_path, monkeypatch):
    """On a busy machine it is killed in the end, and ``verdi process list`` refused to work for its file."""
    from aiida.engine.daemon import client

    def too_late(wait):
        raise client.DaemonTimeoutException("no answer")

    monkeypatch.setattr(
        client, "get_daemon_client", lambda: SimpleNamespace(is_daemon_running=True, stop_daemon=too_late)
    )
    files = [
        ".aiida/daemon/circus-tiny.pid",
        ".aiida/broker/tiny/broker.sockets",
        ".aiida/broker/tiny/broker.db",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("1")
    daemon.stop_daemon(tmp_path)
    assert [(tmp_path / file).exists() for file in files] == [False, False, True]


def test_a_folder_that_was_moved_or_copied_is_not_gone_on_with(tmp_path):
    """A copy would work on the original's data base and labels."""
    (old := tmp_path / "old").mkdir()
    (new := tmp_path / "new").mkdir()
    storage = {"filepath": str(old / ".aiida" / "repository" / "sqlite_dos_1")}
    refuse_other_place(storage, old)
    with pytest.raises(InputError, match=f"copy of the campaign in {old}: go on there"):
        refuse_other_place(storage, new)
    old.rmdir()
    with pytest.raises(InputError, match=f"begun as {old}, .*ln -s {new} {old}"):
        refuse_other_place(storage, new)
    old.symlink_to(new)
    refuse_other_place(storage, new)
    refuse_other_place({"repository_uri": f"file://{new}/.aiida/repository"}, new)
