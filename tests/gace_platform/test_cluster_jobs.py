import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gace.errors import ClusterError, InputError
from gace_platform.cluster import Address, Job, Local, LocalGpu, connect, run_jobs, start_local
from gace_platform.cluster.jobs import _outcome, refuse_losses

pytestmark = pytest.mark.dask


def job(folder, name, program, **options):
    options.setdefault("retries", 0)
    return Job(
        name, [sys.executable, "-c", program], str(folder / name), str(folder / f"{name}.log"), **options
    )


def by_file(cluster, **options):
    return Address(provider="address", scheduler_file=cluster.scheduler_file, **options)


def wait_for(condition, seconds=180.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLEEP = (
    "import os, pathlib, time\n"
    "pathlib.Path('tmp').write_text(str(os.getpid())); os.replace('tmp', 'pid')\n"
    "time.sleep(600)"
)
SLEEP_ONCE = (
    "import os, pathlib, time\n"
    "if pathlib.Path('pid').exists(): raise SystemExit\n"
    "pathlib.Path('tmp').write_text(str(os.getpid())); os.replace('tmp', 'pid')\n"
    "time.sleep(600)"
)


def test_outcomes_come_in_the_order_given(tmp_path, campaign_cluster):
    jobs = [
        job(tmp_path, "slow", "import time; time.sleep(0.5)"),
        job(tmp_path, "bad", "raise SystemExit(3)"),
        job(tmp_path, "fast", ""),
    ]
    arrived = []
    outcomes = run_jobs(by_file(campaign_cluster), jobs, lambda j, _: arrived.append(j.name))
    assert list(outcomes) == ["slow", "bad", "fast"]
    assert [o.status for o in outcomes.values()] == ["completed", "failed", "completed"]
    assert arrived[-1] != "bad"
    assert sorted(arrived) == ["bad", "fast", "slow"]


def test_a_local_cluster_needs_no_preparation(tmp_path):
    outcomes = run_jobs(Local(workers=2), [job(tmp_path, "a", ""), job(tmp_path, "b", "")])
    assert {o.status for o in outcomes.values()} == {"completed"}


def listening(pid):
    """Local addresses, in the kernel's hexadecimal, that a process and its children listen at."""
    sockets, found = set(), []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in [pid, *children]:
        for link in Path(f"/proc/{process}/fd").iterdir():
            try:
                sockets.add(link.readlink().name.removeprefix("socket:[").removesuffix("]"))
            except OSError:  # closed meanwhile
                continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(fields[1].split(":")[0])
    return found


LOOPBACK = "0100007F"


def test_the_campaign_cluster_listens_on_loopback_only(campaign_cluster):
    # scheduler, its dashboard, and of each worker the nanny, the worker and its health page
    addresses = listening(campaign_cluster.process.pid)
    assert len(addresses) >= 4
    assert set(addresses) == {LOOPBACK}


def test_a_local_cluster_listens_on_loopback_only():
    with connect(Local(workers=1)):
        assert set(listening(os.getpid())) == {LOOPBACK}


def test_the_dashboard_answers_on_loopback(campaign_cluster):
    from urllib.request import urlopen

    assert campaign_cluster.dashboard.startswith("http://127.0.0.1:")
    with urlopen(campaign_cluster.dashboard, timeout=10) as answer:
        assert answer.status == 200


def test_a_port_in_use_is_wrong_input(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            start_local(tmp_path, dashboard=port)
        with pytest.raises(InputError, match=f"port {port}"), connect(Local(dashboard=port)):
            pass


def test_no_scheduler_at_the_address_is_a_cluster_error(tmp_path):
    missing = Address(provider="address", scheduler_file=tmp_path / "none.json", timeout=0.5)
    with pytest.raises(ClusterError, match=r"none\.json does not exist"), connect(missing):
        pass


def test_a_lost_client_ends_its_subprocesses(tmp_path, campaign_cluster):
    pid = tmp_path / "work" / "pid"
    program = (
        "import sys\n"
        "from gace_platform.cluster import Address, Job, run_jobs\n"
        f"config = Address(provider='address', scheduler_file={str(campaign_cluster.scheduler_file)!r})\n"
        f"command = [sys.executable, '-c', {SLEEP!r}]\n"
        f"run_jobs(config, [Job('orphan', command, {str(pid.parent)!r}, {str(tmp_path / 'log')!r})])\n"
    )
    client = subprocess.Popen([sys.executable, "-c", program])
    assert wait_for(pid.exists)
    client.kill()
    client.wait()
    assert wait_for(lambda: not running(int(pid.read_text())))


def test_a_killed_worker_does_not_lose_its_job(tmp_path, campaign_cluster):
    def kill_worker():
        wait_for((tmp_path / "survivor" / "pid").exists)
        subprocess_pid = int((tmp_path / "survivor" / "pid").read_text())
        stat = Path(f"/proc/{subprocess_pid}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    outcomes = run_jobs(by_file(campaign_cluster), [job(tmp_path, "survivor", SLEEP_ONCE)])
    killer.join()
    assert outcomes["survivor"].status == "completed"


def test_a_job_whose_workers_all_died_is_lost_and_one_that_broke_is_not():
    from distributed import KilledWorker

    def ended_by(error):
        return _outcome(SimpleNamespace(status="error", exception=lambda: error))

    worker = SimpleNamespace(address="tcp://127.0.0.1:1")
    killed, broken = ended_by(KilledWorker("task", worker, 3)), ended_by(OSError("disk full"))
    assert (killed.status, killed.lost) == ("failed", True)
    assert (broken.status, broken.lost) == ("failed", False)
    with pytest.raises(ClusterError, match="walk w0"):
        refuse_losses({"walk w0": killed, "walk w1": broken})
    refuse_losses({"walk w1": broken})


def test_a_second_run_of_a_killed_command_gets_its_own_task(tmp_path, campaign_cluster):
    program = (
        "import sys\n"
        "from gace_platform.cluster import Address, Job, run_jobs\n"
        f"config = Address(provider='address', scheduler_file={str(campaign_cluster.scheduler_file)!r})\n"
        f"command = [sys.executable, '-c', {SLEEP_ONCE!r}]\n"
        f"job = Job('again', command, {str(tmp_path / 'again')!r}, {str(tmp_path / 'again.log')!r})\n"
        "run_jobs(config, [job])\n"
    )
    client = subprocess.Popen([sys.executable, "-c", program])
    assert wait_for((tmp_path / "again" / "pid").exists)
    client.kill()
    client.wait()
    outcomes = run_jobs(by_file(campaign_cluster), [job(tmp_path, "again", SLEEP_ONCE)])
    assert outcomes["again"].status == "completed"


def test_a_restarted_cluster_takes_over(tmp_path):
    first = start_local(tmp_path / "cluster")
    config = by_file(first, timeout=60)
    second = []

    def replace_cluster():
        wait_for((tmp_path / "job" / "pid").exists)
        first.process.kill()
        first.process.wait()
        second.append(start_local(tmp_path / "cluster"))

    replacing = threading.Thread(target=replace_cluster)
    replacing.start()
    try:
        outcomes = run_jobs(config, [job(tmp_path, "job", SLEEP_ONCE)])
    finally:
        replacing.join()
        second[0].close()
    assert outcomes["job"].status == "completed"


def test_a_cluster_that_stays_away_is_an_error_and_leaves_nothing_running(tmp_path):
    cluster = start_local(tmp_path / "cluster")
    pid = tmp_path / "job" / "pid"

    def kill_cluster():
        wait_for(pid.exists)
        cluster.process.kill()
        cluster.process.wait()

    killer = threading.Thread(target=kill_cluster)
    killer.start()
    with pytest.raises(ClusterError, match="no Dask scheduler answers"):
        run_jobs(by_file(cluster, timeout=1), [job(tmp_path, "job", SLEEP)])
    killer.join()
    assert wait_for(lambda: not running(int(pid.read_text())))


def test_the_cluster_dies_with_the_process_that_started_it(tmp_path):
    program = (
        "import sys, time\n"
        "from gace_platform.cluster import start_local\n"
        "cluster = start_local(sys.argv[1])\n"
        "print(cluster.process.pid, flush=True)\n"
        "time.sleep(600)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    cluster = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert wait_for(lambda: not running(cluster))


def test_closing_the_cluster_ends_its_subprocesses(tmp_path):
    pid = tmp_path / "job" / "pid"
    with start_local(tmp_path / "cluster") as cluster:
        config = by_file(cluster, timeout=1)

        def run():
            with pytest.raises(ClusterError):
                run_jobs(config, [job(tmp_path, "job", SLEEP)])

        running_job = threading.Thread(target=run)
        running_job.start()
        assert wait_for(pid.exists)
    running_job.join()
    assert wait_for(lambda: not running(int(pid.read_text())))
    assert not cluster.scheduler_file.exists()


def test_a_worker_that_retires_does_not_lose_its_job(tmp_path):
    from distributed import Client

    pid = tmp_path / "job" / "pid"
    with start_local(tmp_path / "cluster", workers=2) as cluster:

        def retire():
            wait_for(pid.exists)
            with Client(cluster.address) as client:
                (busy,) = [name for name, tasks in client.processing().items() if tasks]
                client.retire_workers([busy])

        retiring = threading.Thread(target=retire)
        retiring.start()
        outcomes = run_jobs(by_file(cluster), [job(tmp_path, "job", SLEEP_ONCE)])
        retiring.join()
    assert outcomes["job"].status == "completed"


def test_each_gpu_worker_gives_its_job_one_device(tmp_path):
    # the devices need not exist: what is tested is who sees which
    program = "import os; print(os.environ['CUDA_VISIBLE_DEVICES']); import time; time.sleep(1)"
    jobs = [job(tmp_path, f"gpu job {number}", program, gpu=True) for number in range(2)]
    outcomes = run_jobs(LocalGpu(provider="local-gpu", gpus=(2, 5)), jobs)
    assert sorted(outcome.error_tail for outcome in outcomes.values()) == ["2", "5"]


def test_a_job_that_needs_a_gpu_waits_for_one(tmp_path, campaign_cluster):
    config = by_file(campaign_cluster, workers_timeout=1)
    with pytest.raises(ClusterError, match="no worker with a GPU"):
        run_jobs(config, [job(tmp_path, "gpu", "", gpu=True)])


def test_a_scheduler_behind_tls_is_reached_with_its_keys(tmp_path):
    from distributed import LocalCluster, Security

    keys = Security.temporary()
    for name in ("tls_ca", "tls_cert", "tls_key"):
        (tmp_path / name).write_text(
            {"tls_ca": keys.tls_ca_file, "tls_cert": keys.tls_client_cert, "tls_key": keys.tls_client_key}[
                name
            ]
        )
    options = {"host": "127.0.0.1", "processes": False, "protocol": "tls://", "security": keys}
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", **options
    ) as cluster:
        address = cluster.scheduler_address
        config = Address(
            provider="address",
            address=address,
            tls_ca=tmp_path / "tls_ca",
            tls_cert=tmp_path / "tls_cert",
            tls_key=tmp_path / "tls_key",
        )
        outcomes = run_jobs(config, [job(tmp_path, "secret", "")])
        with pytest.raises(InputError, match="tls_ca"), connect(Address(provider="address", address=address)):
            pass
    assert outcomes["secret"].status == "completed"
