"""Real servers for tests: PostgreSQL, RabbitMQ and a Slurm of one node, on loopback, from Debian's packages.

Each is a context manager that starts its server in a folder of its own under free ports, and ends it. Where a
program is missing it skips the test with the reason.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

LOOPBACK = "127.0.0.1"
START_SECONDS = 90


def program(name, package, *folders):
    """Path of a server's program, or skip."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *map(str, folders)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's package {package})")
    return found


def free_ports(count):
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((LOOPBACK, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.contextmanager
def running(command, log, **options):
    """A server process with all it starts; ended at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()


def wait_until(ready, process, log):
    """Wait until ``ready()`` is true."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def answers(port):
    """Whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextlib.contextmanager
def short_folder(name):
    """A folder with a short path that any user may enter: sockets and other users' servers live there."""
    folder = Path(tempfile.mkdtemp(prefix=f"gace-{name}-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgresql(database="gace", user="gace"):
    """A PostgreSQL server with an empty database; yields host, port, database, user and password."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    server, initdb = (program(name, "postgresql", *folders) for name in ("postgres", "initdb"))
    # the server refuses to run as root
    other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with short_folder("pg") as folder:
        password, secret, data = secrets.token_hex(8), folder / "secret", folder / "data"
        secret.write_text(password)
        if other:
            shutil.chown(folder, "postgres")
            shutil.chown(secret, "postgres")
        letters = ["-E", "UTF8", "--locale=C"]
        subprocess.run(
            [*other, initdb, "-D", data, "-U", user, "-A", "scram-sha-256", f"--pwfile={secret}", *letters],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        (port,) = free_ports(1)
        settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": folder, "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = folder / "log"
        with running([*other, server, "-D", data, "-p", str(port), *options], log, cwd=folder) as process:
            wait_until(lambda: answers(port), process, log)
            place = {"host": LOOPBACK, "port": port, "database": database, "user": user, "password": password}
            make_database(place)
            yield place


def make_database(place):
    """Create the empty database, as AiiDA wants it."""
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            connection = psycopg.connect(
                host=place["host"],
                port=place["port"],
                user=place["user"],
                password=place["password"],
                dbname="postgres",
                autocommit=True,
            )
            break
        except psycopg.OperationalError:  # it is starting up
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with connection:
        connection.execute(
            f"CREATE DATABASE {place['database']} TEMPLATE template0 ENCODING 'UTF8' "
            "LC_COLLATE 'C' LC_CTYPE 'C'"
        )


@contextlib.contextmanager
def rabbitmq():
    """A RabbitMQ server; yields host, port, user and password."""
    server = program("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin")
    inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    server = str(inner) if inner.exists() else server  # Debian's wrapper changes the user
    epmd = program("epmd", "erlang-base")
    with short_folder("mq") as folder:
        port, names, distribution = free_ports(3)
        # a consumer that holds a message for long is a work chain that waits
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {LOOPBACK}:{port}\nconsumer_timeout = 36000000000\n"
        )
        (folder / "enabled_plugins").write_text("[].\n")
        environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(names),
            "RABBITMQ_NODENAME": "gace@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        log = folder / "log"
        with (
            running([epmd, "-address", LOOPBACK, "-port", str(names)], log, env=environment),
            running([server], log, env=environment, cwd=folder) as process,
        ):
            wait_until(lambda: answers(port), process, log)
            yield {"host": LOOPBACK, "port": port, "user": "guest", "password": "guest"}


SLURM_CONF = """\
ClusterName=gace
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=86400
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm():
    """A Slurm of this one machine with the partition ``main``; sets ``SLURM_CONF`` while it runs."""
    munged = program("munged", "munge")
    controller, node = (program(name, "slurm-wlm") for name in ("slurmctld", "slurmd"))
    program("sbatch", "slurm-wlm")
    if os.getuid() != 0:
        pytest.skip("slurmd wants root")
    with short_folder("slurm") as folder:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        ports = free_ports(2)
        host = socket.gethostname().partition(".")[0]
        conf = folder / "slurm.conf"
        conf.write_text(
            SLURM_CONF.format(host=host, folder=folder, user="root", controller=ports[0], node=ports[1])
        )
        files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        files |= {"seed-file": "munge.seed", "key-file": "munge.key"}
        munge = [f"--{name}={folder / file}" for name, file in files.items()]
        log = folder / "log"
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(conf)
        try:
            with (
                running([munged, "--foreground", "--force", *munge], log) as authority,
                _after(lambda: (folder / "munge.socket").exists(), authority, log),
                running([controller, "-D", "-f", str(conf)], log) as master,
                _after(lambda: answers(ports[0]), master, log),
                running([node, "-D", "-f", str(conf), "-N", host], log) as worker,
            ):
                wait_until(_idle, worker, log)
                yield {"partition": "main", "conf": str(conf)}
                subprocess.run(["scancel", "--full", "--user=root"], capture_output=True, check=False)
                time.sleep(1)
        finally:
            if before is None:
                del os.environ["SLURM_CONF"]
            else:
                os.environ["SLURM_CONF"] = before


@contextlib.contextmanager
def _after(ready, process, log):
    wait_until(ready, process, log)
    yield


def _idle():
    done = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False)
    return done.stdout.strip() in ("idle", "mix")
