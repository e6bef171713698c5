"""The AiiDA instance that lives inside a campaign's folder.

Profile, database (SQLite), broker (ZeroMQ), daemon and working folders are all below
``DIR/.aiida``; nothing of the user's own AiiDA is read or written. ``AIIDA_PATH`` has to be set
before AiiDA is first imported, so :func:`enter` comes before every other use of AiiDA here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import typing as t
import warnings
from collections.abc import Mapping
from pathlib import Path

from gace.errors import GaceError, InputError, missing

if t.TYPE_CHECKING:
    from aiida.manage.configuration.profile import Profile
    from aiida.orm import InstalledCode

    from gace_workflows.campaign.services import Services

AIIDA_FOLDER = ".aiida"
COMPUTER = "localhost"
USER = "campaign@localhost"
OPTIONS: dict[str, t.Any] = {
    # the default of 2 s is too short on a busy machine
    "daemon.timeout": 20,
    # a missed broadcast is noticed by polling; the default is a minute
    "runner.poll.interval": 5,
    "transport.task_retry_initial_interval": 5,
    "warnings.development_version": False,
    "logging.aiida_loglevel": "REPORT",
}


class ProfileError(GaceError, RuntimeError):
    """The campaign's AiiDA profile or daemon could not be started or stopped."""


def profile_name(campaign: str) -> str:
    """Name of the AiiDA profile of a campaign."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", campaign)


def enter(folder: Path) -> None:
    """Point this process (and all it starts) at the AiiDA instance in ``folder``.

    Raises:
        MissingDependencyError: AiiDA is not installed.
        ProfileError: AiiDA was imported before with another folder.
    """
    path = aiida_folder(folder)
    if "aiida" in sys.modules:
        from aiida.manage.configuration.settings import AiiDAConfigDir

        if Path(AiiDAConfigDir.get()).resolve() != path:
            raise ProfileError(f"AiiDA already serves {AiiDAConfigDir.get()} in this process, not {path}")
        return
    path.mkdir(parents=True, exist_ok=True)
    os.environ["AIIDA_PATH"] = str(path)
    # AiiDA looks for its own command, verdi, on the PATH when it is imported
    binaries = str(Path(sys.executable).parent)
    if binaries not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([binaries, os.environ.get("PATH", "")])
    # SQLAlchemy's advice to AiiDA's authors is of no use to ours
    warnings.filterwarnings("ignore", message=".*not in session.*")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import aiida  # noqa: F401
    except ImportError:
        raise missing("aiida-core", "aiida") from None


def aiida_folder(folder: Path) -> Path:
    """Where the AiiDA instance of the campaign in ``folder`` lives."""
    return folder.resolve() / AIIDA_FOLDER


def open_profile(folder: Path, campaign: str, services: Services | None = None) -> Profile:
    """Load the campaign's profile, making it (storage, user, computers) when it is not there yet.

    Harmless to repeat: what a killed start left half made is completed.

    Args:
        folder: of the campaign.
        campaign: its name.
        services: what a new profile stands on, and where its labelling jobs run; None: all in the folder.

    Raises:
        ProfileError: the database belongs to another profile.
        InputError: the folder was moved or copied, or a password file cannot be read.
    """
    enter(folder)
    from aiida.manage.configuration import create_profile, get_config, load_profile

    from gace_workflows.campaign.queue import ensure_queue
    from gace_workflows.campaign.services import Services, broker_of, storage_of

    name = profile_name(campaign)
    config = get_config(create=True)
    if name not in config.profile_names:
        storage, storage_config = storage_of(services or Services(), aiida_folder(folder) / "repository")
        broker, broker_config = broker_of(services or Services())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            create_profile(
                config,
                name=name,
                email=USER,
                storage_backend=storage,
                storage_config=storage_config,
                broker_backend=broker,
                broker_config=broker_config,
            )
    else:
        refuse_other_place(config.get_profile(name).storage_config, folder)
    options = {**OPTIONS, "daemon.default_workers": (services or Services()).workers}
    wanted = {key: value for key, value in options.items() if config.get_option(key, scope=name) != value}
    if wanted or config.default_profile_name != name:
        for key, value in wanted.items():
            config.set_option(key, value, scope=name)
        config.set_default_profile(name, overwrite=True)
        config.store()
    if (database := config.get_profile(name).storage_config.get("filepath")) is not None:
        let_readers_read(Path(database) / "database.sqlite")
    profile = load_profile(name, allow_switch=True)
    ensure_user()
    ensure_computer(aiida_folder(folder) / "work")
    if services is not None and services.jobs is not None:
        ensure_queue(services.jobs, aiida_folder(folder) / "work")
    return profile


def refuse_other_place(storage: Mapping[str, t.Any], folder: Path) -> None:
    """See that a profile's data lie in its campaign's folder: AiiDA, MLflow and the loop know full paths.

    A copy would go on with the database, the labels and the scratch folder of the original.

    Raises:
        InputError: the folder was moved or copied.
    """
    kept = storage.get("filepath") or str(storage.get("repository_uri", "")).removeprefix("file://")
    if not kept or Path(kept).resolve().is_relative_to(folder.resolve()):
        return
    home = next((one.parent for one in Path(kept).parents if one.name == AIIDA_FOLDER), Path(kept))
    if home.exists():
        raise InputError(f"{folder} is a copy of the campaign in {home}: go on there")
    raise InputError(
        f"{folder} was begun as {home}, and its data bases know it by that path: "
        f"move it back, or make a link there (ln -s {folder} {home})"
    )


def let_readers_read(database: Path) -> None:
    """Put an SQLite database into write-ahead mode, in which nobody who writes keeps others from reading.

    In the default mode a process that is stopped (or starved) in the middle of a write locks out all the
    others, who give up after five seconds. The mode is a property of the file and stays.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def ensure_user() -> None:
    """See that the loaded profile has its user."""
    from aiida import orm
    from aiida.manage import get_manager

    if orm.User.collection.get_default() is None:
        orm.User.collection.get_or_create(email=USER)[1].store()
        get_manager().set_default_user_email(get_manager().get_profile(), USER)


def ensure_computer(work: Path) -> None:
    """See that the loaded profile has this machine as a computer, configured for jobs of a few seconds."""
    from aiida import orm
    from aiida.common.exceptions import NotExistent

    try:
        computer = orm.Computer.collection.get(label=COMPUTER)
    except NotExistent:
        computer = orm.Computer(
            label=COMPUTER,
            hostname="localhost",
            description="this machine; jobs run directly",
            transport_type="core.local",
            scheduler_type="core.direct",
            workdir=str(work),
        )
        computer.set_minimum_job_poll_interval(1.0)
        computer.set_default_mpiprocs_per_machine(1)
        computer.store()
    if not computer.is_configured:
        computer.configure(safe_interval=0.0, use_login_shell=False)


def gace_code() -> InstalledCode:
    """The ``gace`` command of this environment as an AiiDA code; a new one if the environment moved."""
    from aiida import orm

    executable = gace_executable()
    for node in orm.QueryBuilder().append(orm.InstalledCode).all(flat=True):
        if node.base.attributes.get("filepath_executable") == executable:
            return node
    count = orm.QueryBuilder().append(orm.InstalledCode).count()
    return orm.InstalledCode(
        label="gace" if not count else f"gace-{count + 1}",
        description="the gace command that runs each step",
        computer=orm.load_computer(COMPUTER),
        filepath_executable=executable,
        default_calc_job_plugin="gace.label",
        with_mpi=False,
        use_double_quotes=False,
        prepend_text="export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1\nunset MLFLOW_RUN_ID",
    ).store()


def gace_executable() -> str:
    """Path of the ``gace`` command beside the running interpreter.

    Raises:
        InputError: there is none.
    """
    beside = Path(sys.executable).parent / "gace"
    found = str(beside) if beside.is_file() else shutil.which("gace")
    if found is None:
        raise InputError("the command gace is not installed beside this Python: pip install 'gace[all]'")
    return found


def verdi(folder: Path, campaign: str, *arguments: str) -> str:
    """Run ``verdi`` on the campaign's profile; returns what it printed.

    Raises:
        ProfileError: it failed.
    """
    command = [str(Path(sys.executable).parent / "verdi"), "-p", profile_name(campaign), *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, "AIIDA_PATH": str(aiida_folder(folder))},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ProfileError(f"verdi {' '.join(arguments)} failed: {' '.join(reason)}")
    return done.stdout


def verdi_hint(folder: Path, campaign: str) -> str:
    """The line by which a user looks at the campaign with AiiDA's own command."""
    return f"AIIDA_PATH={aiida_folder(folder)} verdi -p {profile_name(campaign)} process list -a"


__all__ = [
    "ProfileError",
    "aiida_folder",
    "enter",
    "gace_code",
    "open_profile",
    "profile_name",
    "verdi",
    "verdi_hint",
]
