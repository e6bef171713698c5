"""A rehearsal campaign on PostgreSQL and RabbitMQ whose labels go through Slurm: real servers on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import servers

from gace.errors import InputError
from gace_workflows.campaign.daemon import end_jobs, end_leftovers
from gace_workflows.campaign.services import PostgreSQL, RabbitMQ, Services, check_services

pytestmark = [pytest.mark.slow, pytest.mark.aiida, pytest.mark.daemon, pytest.mark.dask, pytest.mark.mlflow]


@pytest.fixture(scope="module")
def database():
    with servers.postgresql() as place:
        yield place


@pytest.fixture(scope="module")
def broker():
    with servers.rabbitmq() as place:
        yield place


@pytest.fixture(scope="module")
def queue():
    with servers.slurm() as place:
        yield place


@pytest.fixture(scope="module")
def campaign(database, broker, queue, tmp_path_factory, write_campaign, gace_campaign):
    """The rehearsal of the other tests with everything but the science elsewhere: its folder and summary."""
    folder = tmp_path_factory.mktemp("past")
    (folder / "password").write_text(database["password"] + "\n")
    storage = {name: database[name] for name in ("host", "port", "database", "user")}
    section = {
        "storage": {"backend": "postgresql", **storage, "password_file": "password"},
        "broker": {"backend": "rabbitmq", "host": broker["host"], "port": broker["port"]},
        "jobs": {
            "queue": queue["partition"],
            "minutes": 10,
            "memory": 500,
            "in_flight": 3,
            "poll_seconds": 1,
        },
    }
    file = write_campaign(folder, aiida=section, batch_size=2)
    try:
        done = gace_campaign("run", file, "--dir", folder / "tiny", "--json")
        assert done.returncode == 0, done.stderr
        yield folder / "tiny", json.loads(done.stdout.splitlines()[-1])
    finally:
        end_leftovers(folder / "tiny")
        end_jobs(folder / "tiny")


ASK = """
import json
from aiida import load_profile, orm
from aiida.manage import get_manager
profile = load_profile("tiny")
nodes = [
    (node, node.computer.label, node.computer.scheduler_type)
    for node in orm.QueryBuilder().append(orm.CalcJobNode).all(flat=True)
]
print(json.dumps({
    "storage": profile.storage_backend,
    "broker": profile.process_control_backend,
    "jobs": [
        [node.process_label, label, scheduler, node.get_job_id(), node.exit_status]
        + [node.get_option("queue_name")]
        for node, label, scheduler in nodes
    ],
}))
"""


@pytest.fixture(scope="module")
def profile(campaign):
    """What AiiDA says of the campaign."""
    folder, _ = campaign
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AIIDA_PATH": str(folder / ".aiida")},
        cwd=folder,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(3000)
def test_the_data_are_those_of_a_campaign_on_one_machine(campaign, rehearsal):
    _, summary = campaign
    _, embedded, _ = rehearsal
    assert summary["dataset_hash"] == embedded["dataset_hash"]
    assert summary["labels_paid_twice"] == 0
    assert summary["labels_failed"] == 0


@pytest.mark.timeout(3000)
def test_profile_stands_on_the_servers(profile):
    assert (profile["storage"], profile["broker"]) == ("core.psql_dos", "core.rabbitmq")


@pytest.mark.timeout(3000)
def test_labels_went_through_slurm_and_nothing_else_did(profile, queue):
    labelled = [job[1:] for job in profile["jobs"] if job[0] == "LabelCalculation"]
    assert len(labelled) >= 6  # 12 structures, two in a job
    for _, scheduler, number, exit_status, partition in labelled:
        assert (scheduler, exit_status, partition) == ("core.slurm", 0, queue["partition"])
        shown = subprocess.run(
            ["scontrol", "show", "job", str(number)], capture_output=True, text=True, check=True
        )
        assert "JobState=COMPLETED" in shown.stdout
    others = {job[2] for job in profile["jobs"] if job[0] != "LabelCalculation"}
    assert others == {"core.direct"}


@pytest.mark.timeout(3000)
def test_no_more_jobs_than_allowed_ran_at_a_time(profile, queue):
    spans = []
    for name, _, _, number, *_ in profile["jobs"]:
        if name != "LabelCalculation":
            continue
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", str(number)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
        ).stdout
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        spans.append((int(fields["SubmitTime"]), int(fields["EndTime"])))
    assert max(sum(a <= moment < b for a, b in spans) for moment, _ in spans) <= 3


@pytest.mark.timeout(600)
def test_a_wrong_password_is_one_line(database, tmp_path):
    file = tmp_path / "password"
    file.write_text("wrong")
    storage = {name: database[name] for name in ("host", "port", "database", "user")}
    services = Services(storage=PostgreSQL(backend="postgresql", **storage, password_file=file))
    with pytest.raises(InputError, match="password authentication failed") as caught:
        check_services(services)
    assert "\n" not in str(caught.value)


def test_an_absent_broker_is_one_line():
    (port,) = servers.free_ports(1)
    with pytest.raises(InputError, match="no RabbitMQ server") as caught:
        check_services(Services(broker=RabbitMQ(backend="rabbitmq", port=port)))
    assert "\n" not in str(caught.value)


def test_the_check_does_not_import_aiida(database, broker, tmp_path):
    # AiiDA looks for its folder when it is imported, and the campaign's is not known to it before
    (tmp_path / "password").write_text(database["password"])
    storage = {name: database[name] for name in ("host", "port", "database", "user")}
    content = {
        "storage": {"backend": "postgresql", **storage, "password_file": str(tmp_path / "password")},
        "broker": {"backend": "rabbitmq", "port": broker["port"]},
    }
    script = (
        "import sys; from gace_workflows.campaign.services import Services, check_services; "
        f"check_services(Services.model_validate({content!r})); assert 'aiida' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


WHERE = "import os; print(os.environ['SLURM_JOB_ID'], os.environ['OMP_NUM_THREADS'])"


@pytest.mark.timeout(900)
def test_dask_workers_are_slurm_jobs(queue, tmp_path):
    from gace_platform.cluster.config import Slurm
    from gace_platform.cluster.jobs import Job, run_jobs

    config = Slurm(
        provider="slurm",
        queue=queue["partition"],
        workers=2,
        cores=1,
        memory="500MB",
        walltime="00:10:00",
        interface="lo",
        log_folder=tmp_path / "logs",
    )
    command = [sys.executable, "-c", WHERE]
    names = [f"task {n}" for n in range(4)]
    jobs = [Job(name, command, str(tmp_path / name), str(tmp_path / name / "log")) for name in names]
    outcomes = run_jobs(config, jobs)
    assert [outcomes[name].status for name in names] == ["completed"] * 4
    words = [Path(job.log).read_text().split() for job in jobs]
    assert all(number.isdigit() and threads == "1" for number, threads in words)
    left = subprocess.run(["squeue", "-h", "-t", "RUNNING,PENDING"], capture_output=True, text=True)
    assert left.stdout.strip() == ""
