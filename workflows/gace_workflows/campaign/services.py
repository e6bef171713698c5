"""The ``aiida:`` section of a campaign file: where AiiDA keeps its data, and where labelling jobs run."""

from __future__ import annotations

import typing as t
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from gace.config import Closed
from gace.errors import InputError
from gace_platform.cluster.config import Port


class SQLite(Closed):
    """A database file in the campaign's folder."""

    backend: t.Literal["sqlite"] = "sqlite"


class PostgreSQL(Closed):
    """A database of its own on a PostgreSQL server, empty at the start of the campaign."""

    backend: t.Literal["postgresql"]
    host: str = "127.0.0.1"
    port: Port = 5432
    database: str
    user: str
    password_file: Path | None = None
    """File with the user's password, relative to the campaign file; None: the server asks for none."""


class ZeroMQ(Closed):
    """A broker in the campaign's folder, a process of AiiDA's daemon."""

    backend: t.Literal["zeromq"] = "zeromq"


class RabbitMQ(Closed):
    """A RabbitMQ server; campaigns may share it."""

    backend: t.Literal["rabbitmq"]
    protocol: t.Literal["amqp", "amqps"] = "amqp"
    host: str = "127.0.0.1"
    port: Port = 5672
    user: str = "guest"
    password_file: Path | None = None
    """File with the user's password, relative to the campaign file; None: ``guest``."""
    virtual_host: str = ""


class Jobs(Closed):
    """Labelling jobs (gace's own, or a DFT program's) go to a queue instead of running here directly.

    The campaign runs where jobs are submitted; its folder has to be seen by the machines that run them.
    """

    scheduler: t.Literal["slurm"] = "slurm"
    workdir: Path | None = None
    """Folder for the jobs, seen by all machines; None: in the campaign's folder."""
    queue: str | None = None
    """Partition."""
    account: str | None = None
    qos: str | None = None
    cores: PositiveInt = 1
    """Cores that are asked for one job of gace's own; a DFT program's are its ``processes``."""
    memory: PositiveInt | None = None
    """Memory of one job, MB."""
    minutes: PositiveFloat = 24 * 60
    """Wall time asked for, min; a label's ``time_limit`` should be shorter."""
    in_flight: PositiveInt = 4
    """Jobs in the queue or running at a time."""
    directives: tuple[str, ...] = ()
    """Further lines, such as ``#SBATCH --constraint=milan``."""
    prologue: tuple[str, ...] = ()
    """Shell lines before each job, such as ``module load intel``."""
    poll_seconds: PositiveFloat = 10.0
    """How often the queue is asked, s."""


class Services(Closed):
    """What AiiDA stands on."""

    storage: SQLite | PostgreSQL = Field(default=SQLite(), discriminator="backend")
    broker: ZeroMQ | RabbitMQ = Field(default=ZeroMQ(), discriminator="backend")
    workers: PositiveInt = 2
    """Workers of AiiDA's daemon."""
    jobs: Jobs | None = None
    """None: labelling jobs run on this machine directly."""

    def located(self, folder: Path) -> Services:
        """The same with password files counted from ``folder``."""
        found: dict[str, t.Any] = {}
        for name in ("storage", "broker"):
            section = getattr(self, name)
            if (file := getattr(section, "password_file", None)) is not None:
                path = (folder / file.expanduser()).resolve()
                found[name] = section.model_copy(update={"password_file": path})
        return self.model_copy(update=found)


def storage_of(services: Services, repository: Path) -> tuple[str, dict[str, t.Any]]:
    """AiiDA's name of the storage and its configuration; files of nodes go below ``repository``.

    Raises:
        InputError: the password file cannot be read.
    """
    storage = services.storage
    if isinstance(storage, SQLite):
        return "core.sqlite_dos", {}
    return "core.psql_dos", {
        "database_hostname": storage.host,
        "database_port": storage.port,
        "database_name": storage.database,
        "database_username": storage.user,
        "database_password": password(storage.password_file, ""),
        "repository_uri": repository.as_uri(),
    }


def broker_of(services: Services) -> tuple[str, dict[str, t.Any]]:
    """AiiDA's name of the broker and its configuration.

    Raises:
        InputError: the password file cannot be read.
    """
    broker = services.broker
    if isinstance(broker, ZeroMQ):
        return "core.zeromq", {}
    return "core.rabbitmq", {
        "broker_protocol": broker.protocol,
        "broker_username": broker.user,
        "broker_password": password(broker.password_file, "guest"),
        "broker_host": broker.host,
        "broker_port": broker.port,
        "broker_virtual_host": broker.virtual_host,
    }


def password(file: Path | None, default: str) -> str:
    """First line of a password file.

    Raises:
        InputError: it cannot be read.
    """
    if file is None:
        return default
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the password file {file}: {error}") from None


def check_services(services: Services) -> None:
    """See that servers answer and that there is a queue.

    Raises:
        InputError: a server cannot be reached, refuses the user, or a command is missing.
    """
    import shutil

    if isinstance(services.storage, PostgreSQL):
        _check_database(services.storage)
    if isinstance(services.broker, RabbitMQ):
        _check_broker(services.broker)
    if services.jobs is not None and shutil.which("sbatch") is None:
        raise InputError("aiida.jobs needs Slurm's command sbatch: run gace where jobs are submitted")


def _check_broker(broker: RabbitMQ) -> None:
    """Connect once; without AiiDA, which may not be imported before it knows its folder.

    Raises:
        InputError: that failed.
    """
    import asyncio
    import logging

    import aio_pika

    logging.getLogger("aiormq").setLevel(logging.CRITICAL)

    async def knock() -> None:
        connection = await aio_pika.connect(
            host=broker.host,
            port=broker.port,
            login=broker.user,
            password=password(broker.password_file, "guest"),
            virtualhost=broker.virtual_host or "/",
            ssl=broker.protocol == "amqps",
            timeout=10,
        )
        await connection.close()

    try:
        asyncio.run(knock())
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        reason = " ".join(str(error).split())
        place = f"{broker.host}:{broker.port}"
        raise InputError(f"no RabbitMQ server lets {broker.user} in at {place}: {reason}") from None


def _check_database(storage: PostgreSQL) -> None:
    """Connect once.

    Raises:
        InputError: that failed.
    """
    import psycopg

    try:
        psycopg.connect(
            host=storage.host,
            port=storage.port,
            dbname=storage.database,
            user=storage.user,
            password=password(storage.password_file, "") or None,
            connect_timeout=10,
        ).close()
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise InputError(f"PostgreSQL: {reason}") from None


__all__ = ["Jobs", "PostgreSQL", "RabbitMQ", "SQLite", "Services", "ZeroMQ", "check_services"]
