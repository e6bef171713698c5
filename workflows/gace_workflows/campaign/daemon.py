"""The AiiDA daemon of a campaign: start, stop, health, and what a crash leaves behind.

All functions but :func:`end_leftovers` and :func:`end_jobs` act on the profile loaded in this process.
"""

from __future__ import annotations

import contextlib
import json
import time
import typing as t
import uuid
from collections.abc import Callable
from pathlib import Path

from gace_workflows.campaign.profile import ProfileError, aiida_folder, verdi

if t.TYPE_CHECKING:
    import psutil

START_SECONDS = 300.0
"""How long daemon and broker may take to start on a busy machine, s."""

NOBODY = "4194305"
"""A process number beyond Linux's largest: a job that is known to be gone."""


def start_daemon() -> None:
    """Start the daemon of the loaded profile, unless it runs, and wait until its broker can be reached.

    Raises:
        ProfileError: it did not come up.
    """
    from aiida.engine.daemon.client import DaemonException, DaemonTimeoutException, get_daemon_client
    from aiida.manage.configuration import get_config_option

    if daemon_runs():
        return
    number = int(get_config_option("daemon.default_workers"))
    deadline = time.monotonic() + START_SECONDS
    try:
        get_daemon_client().start_daemon(number_workers=number, timeout=int(START_SECONDS))
    except DaemonTimeoutException:
        pass  # by the machine's clock, which may have jumped: waited for below
    except DaemonException as error:
        raise ProfileError(f"the AiiDA daemon did not start: {' '.join(str(error).split())}") from None
    # AiiDA itself waits ten seconds for the broker, too little on a machine that is busy
    for what, runs in (("the AiiDA daemon", daemon_runs), ("AiiDA's message broker", broker_runs)):
        while not runs():
            if time.monotonic() > deadline:
                raise ProfileError(f"{what} did not start within {START_SECONDS:g} s")
            time.sleep(0.2)


def stop_daemon(folder: Path) -> None:
    """Stop the daemon of the loaded profile and whatever is left of it; harmless when it does not run."""
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    client = get_daemon_client()
    if client.is_daemon_running:
        with contextlib.suppress(DaemonException):
            client.stop_daemon(wait=True)
    end_leftovers(folder)
    # on a busy machine it may have answered too late, and been killed: ``verdi`` would take it for running
    drop_process_files(folder)


def daemon_runs() -> bool:
    """Whether the daemon of the loaded profile lives; AiiDA itself only looks for its process file."""
    from aiida.engine.daemon.client import get_daemon_client

    number = get_daemon_client().get_daemon_pid()
    return number is not None and lives(int(number), "daemon")


def has_own_broker() -> bool:
    """Whether the loaded profile's broker is a process of its daemon, not a server that others use too."""
    from aiida.manage.configuration import get_profile

    return bool(get_profile().process_control_backend == "core.zeromq")


def broker_runs() -> bool:
    """Whether the loaded profile's broker can be reached; a server's is not for us to start."""
    return not has_own_broker() or (broker_folder() / "broker.sockets").is_file()


def daemon_workers() -> int:
    """How many workers the broker hands tasks to: what its status file says while it lives, else none.

    A server's workers find it again by themselves: all that live count.
    """
    if not has_own_broker():
        return len(worker_processes())
    try:
        status = json.loads((broker_folder() / "broker.status").read_text(encoding="utf-8"))
        return int(status["task_subscribers"]) if lives(int(status["pid"]), "broker") else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def has_tasks() -> bool:
    """Whether the broker holds a task, waiting or with a worker: a work chain that has not ended has one.

    True where a server's broker does not tell.
    """
    if not has_own_broker():
        return True
    try:
        status = json.loads((broker_folder() / "broker.status").read_text(encoding="utf-8"))
        return int(status["pending_tasks"]) + int(status["processing_tasks"]) > 0
    except (OSError, ValueError, KeyError, TypeError):
        return False


def lives(number: int, word: str) -> bool:
    """Whether a process exists, is no zombie, and has ``word`` in its command line."""
    import psutil

    try:
        process = psutil.Process(number)
        return process.status() != psutil.STATUS_ZOMBIE and word in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def worker_processes() -> list[psutil.Process]:
    """The workers of the loaded profile's daemon."""
    import psutil
    from aiida.engine.daemon.client import get_daemon_client

    try:
        supervisor = psutil.Process(int(get_daemon_client().get_daemon_pid() or 0))
        return [one for one in supervisor.children() if lives(one.pid, "worker")]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def broker_folder() -> Path:
    """Where the broker of the loaded profile keeps its process number, sockets and queue."""
    from aiida.manage.configuration import get_config, get_profile

    return Path(get_config().filepaths(get_profile())["broker_service"]["dir"])


def drop_process_files(folder: Path) -> None:
    """Remove the files by which a daemon and a broker that no longer run are taken for running.

    The number in a stale file may belong to somebody else by now, and a worker that finds the sockets of a
    broker that was killed would wait for it forever; a supervisor that was ended while it ended leaves the
    file by which AiiDA takes the daemon for running.
    """
    for stale in (
        *aiida_folder(folder).glob("broker/*/broker.*"),
        *aiida_folder(folder).glob("daemon/*.pid"),
    ):
        if stale.suffix in (".pid", ".sockets", ".status"):
            stale.unlink(missing_ok=True)


def repair(folder: Path, campaign: str) -> None:
    """After a crash: end orphans, drop stale process files, and queue every process that lost its task.

    The daemon must not be running; it is started afterwards.
    """
    end_leftovers(folder)
    drop_process_files(folder)
    forget_lost_jobs()
    queue_lost_processes()
    verdi(folder, campaign, "process", "repair", "--force")


def queue_lost_processes() -> int:
    """Queue a task for every active process that has none in the stopped broker's queue; returns how many.

    ``verdi process repair`` would do it, but with tasks that count as done as soon as a worker has begun
    (aiida-core 2.9.4, ``nowait``): when that worker dies, nobody goes on with the process.
    """
    if not has_own_broker():
        return 0
    from aiida.brokers.zeromq.queue import PersistentQueue
    from aiida.brokers.zeromq.service import ZeromqBrokerService
    from aiida.engine.processes.control import get_active_processes, get_process_tasks
    from aiida.manage import get_manager
    from plumpy.process_comms import create_continue_body

    known = get_process_tasks(get_manager().get_broker())
    lost = sorted(set(get_active_processes(project="id")) - set(known))
    storage = ZeromqBrokerService.FilepathLayout(broker_folder()).storage_path
    queue = PersistentQueue(storage / "tasks")
    for number in lost:
        queue.push(
            uuid.uuid4().hex, {"body": create_continue_body(pid=number, nowait=False), "no_reply": True}
        )
    return len(lost)


def forget_lost_jobs() -> int:
    """Mark jobs as gone whose process number belongs to another process by now; returns how many.

    The direct scheduler knows a job by its process number alone, and after a crash (or a reboot) that
    number may be in use again: the job would seem to run forever. Jobs in a queue have numbers of their own.
    """
    from aiida import orm

    filters = {"attributes.process_state": {"in": ["created", "running", "waiting"]}}
    lost = 0
    for node in orm.QueryBuilder().append(orm.CalcJobNode, filters=filters).all(flat=True):
        job, folder = node.get_job_id(), node.get_remote_workdir()
        queued = node.computer is not None and node.computer.scheduler_type != "core.direct"
        if job and job != NOBODY and folder and not queued and not works_in(int(job), folder):
            node.set_job_id(NOBODY)
            lost += 1
    return lost


def works_in(number: int, folder: str) -> bool:
    """Whether a process exists and works in ``folder``."""
    import psutil

    try:
        return Path(psutil.Process(number).cwd()).resolve() == Path(folder).resolve()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return False


def end_leftovers(folder: Path) -> int:
    """End daemon processes of this campaign that outlived their supervisor; returns how many.

    They are recognised by their command line and by the ``AIIDA_PATH`` in their environment, which
    is this campaign's folder and nobody else's.
    """

    def is_ours(process: psutil.Process) -> bool:
        words = process.cmdline()
        verdi_daemon = "daemon" in words and any("verdi" in word for word in words)
        # the supervisor's own helper outlives it when it is killed
        helper = any("from circus import" in word for word in words)
        ours = verdi_daemon or helper
        return ours and process.environ().get("AIIDA_PATH") == str(aiida_folder(folder))

    return end_processes(is_ours)


def end_jobs(folder: Path) -> int:
    """End calculation jobs of this campaign that still run here; returns how many processes ended.

    A job is recognised by its working folder, which lies in this campaign's, and by its submit script
    or what that exports; so a shell that a user opened there is left alone.
    """
    work = str(aiida_folder(folder) / "work")

    def is_ours(process: psutil.Process) -> bool:
        return process.cwd().startswith(work) and (
            "_aiidasubmit.sh" in process.cmdline()
            or not {"GACE_ERROR_FILE", "GACE_JOB"}.isdisjoint(process.environ())
        )

    return end_processes(is_ours)


def end_processes(is_ours: Callable[[psutil.Process], bool]) -> int:
    """Kill every process that ``is_ours`` says yes to; returns how many."""
    import psutil

    ended = []
    for process in psutil.process_iter():
        # it may end, or belong to somebody else, while it is looked at
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if is_ours(process):
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=5)
    return len(ended)


__all__ = [
    "daemon_runs",
    "daemon_workers",
    "end_jobs",
    "end_leftovers",
    "repair",
    "start_daemon",
    "stop_daemon",
]
