"""``gace doctor``: is everything here that a campaign needs, and if not, what to do about it.

Nothing is computed, started or left behind, and nothing heavier than torch is imported, so the
command also answers where an extra is absent or broken.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import click
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gace.cli import print_json
from gace.errors import InputError

Status = Literal["ok", "warning", "failed"]

SPARE_DISK_GB = 2.0
"""A campaign of 50 labels leaves some hundred MB (AiiDA repository, MLflow artifacts, checkpoints)."""

SPARE_MEMORY_GB = 4.0
"""Two committee members, one PySCF job and the AiiDA daemon together stay below this."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, what is needed, and the remedy if they differ."""

    group: str
    name: str
    status: Status
    found: str
    needed: str = ""
    remedy: str = ""


def check_python() -> Check:
    """The version of the running Python against ``requires-python``."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    needed = metadata.metadata("gace")["Requires-Python"] or ""
    fits = SpecifierSet(needed).contains(found, prereleases=True)
    remedy = "" if fits else "make the virtual environment with a newer Python"
    return Check("machine", "python", "ok" if fits else "failed", found, needed, remedy)


def extras() -> list[str]:
    """The extras that bring packages of their own, ``platform`` first since others include it.

    ``all`` only unites them, and ``dev`` is for those who change gace.
    """
    names = set(metadata.metadata("gace").get_all("Provides-Extra") or ()) - {"all", "dev"}
    return sorted(names, key=lambda name: (name != "platform", name))


def requirements(extra: str | None) -> list[Requirement]:
    """What an extra asks for beyond the core, or the core's own requirements for ``None``."""
    found = []
    for line in metadata.requires("gace") or ():
        requirement = Requirement(line)
        core = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        asked = core if extra is None else not core and _applies(requirement, extra)
        if asked and requirement.name != "gace":
            found.append(requirement)
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement's marker holds once ``extra`` is asked for."""
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def check_package(requirement: Requirement, extra: str | None) -> Check:
    """An installed version against the range needed.

    An absent package of the core is a failure; one of an extra only a warning, since that
    extra may not be wanted. A version outside the range is always a failure.
    """
    group = extra or "core"
    wanted = "gace" if extra is None else f"'gace[{extra}]'"
    needed = str(requirement.specifier)
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        status: Status = "failed" if extra is None else "warning"
        return Check(group, requirement.name, status, "absent", needed, f"pip install {wanted}")
    if not requirement.specifier.contains(found, prereleases=True):
        return Check(group, requirement.name, "failed", found, needed, f"pip install --upgrade {wanted}")
    return Check(group, requirement.name, "ok", found, needed)


def check_cores() -> Check:
    """Cores this process may use; one is enough, but training and labelling then take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = cores < 2
    remedy = "set cluster.workers to 1; a campaign takes about twice as long" if few else ""
    return Check("machine", "cores", "warning" if few else "ok", str(cores), ">=2", remedy)


def check_memory() -> Check:
    """Physical memory of the machine, GB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return Check("machine", "memory", "ok", "unknown")
    short = total < SPARE_MEMORY_GB
    remedy = "use fewer workers and a smaller preset" if short else ""
    found, needed = f"{total:.1f} GB", f">={SPARE_MEMORY_GB:g} GB"
    return Check("machine", "memory", "warning" if short else "ok", found, needed, remedy)


def check_gpu() -> Check:
    """CUDA devices that torch sees; none is fine unless the machine has one that torch cannot use."""
    try:
        import torch
    except ImportError as error:
        return Check("machine", "gpu", "warning", f"unknown: torch does not import ({error})")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if names:
        from gace.potential.kernels.triton.launch import installed

        if not installed():
            remedy = "pip install triton, in the version that torch wants"
            return Check("machine", "gpu", "warning", ", ".join(names), "Triton for the kernels", remedy)
        return Check("machine", "gpu", "ok", ", ".join(names))
    if shutil.which("nvidia-smi"):
        remedy = "install a CUDA build of torch, or look at the driver"
        return Check(
            "machine", "gpu", "warning", f"present, but torch {torch.__version__} sees none", "", remedy
        )
    return Check("machine", "gpu", "ok", "none; everything runs on the CPU")


def check_kernels() -> Check:
    """The C++ kernels of the potential; plain PyTorch does the same work slower."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from gace.native import library as native
            from gace.potential.kernels.build import library

            built = library() is not None
            if built:
                native.library()
    except ImportError as error:
        return Check("machine", "kernels", "warning", f"unknown: {error}")
    except InputError as error:  # the compiler's words may be many
        return Check(
            "machine", "kernels", "warning", str(error).splitlines()[0], "calculators at their fastest"
        )
    if built:
        return Check("machine", "kernels", "ok", "built")
    found = str(caught[0].message) if caught else "absent: potentials are two to four times slower on the CPU"
    return Check(
        "machine", "kernels", "warning", found, "a C++ compiler", "install g++ (Debian: apt-get install g++)"
    )


def check_folder(folder: Path) -> Check:
    """Whether files and SQLite databases can be written below ``folder``, and the space left there."""
    name = f"write to {folder}"
    try:
        with tempfile.TemporaryDirectory(prefix=".gace-doctor-", dir=folder) as scratch:
            connection = sqlite3.connect(Path(scratch) / "trial.db")
            try:
                connection.execute("CREATE TABLE trial (number INTEGER)")
                connection.commit()
            finally:
                connection.close()
    except (OSError, sqlite3.Error) as error:
        return Check("machine", name, "failed", str(error), "", "choose a folder you may write to with --dir")
    free = shutil.disk_usage(folder).free / 1e9
    short = free < SPARE_DISK_GB
    found, needed = f"{free:.1f} GB free", f">={SPARE_DISK_GB:g} GB"
    return Check(
        "machine", name, "warning" if short else "ok", found, needed, "free some space" if short else ""
    )


def check_loopback() -> Check:
    """Whether a port can be bound on 127.0.0.1 and reached, as Dask, ZeroMQ and MLflow do."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass
    except OSError as error:
        remedy = "allow local connections (firewall, container or sandbox settings)"
        return Check("machine", "ports on 127.0.0.1", "failed", str(error), "", remedy)
    return Check("machine", "ports on 127.0.0.1", "ok", f"bound and reached one ({port})")


def check_program(name: str, extra: str) -> Check:
    """Whether a program is on the PATH or beside the running Python."""
    beside = Path(sys.executable).parent / name
    path = shutil.which(name) or (str(beside) if beside.exists() else None)
    if path is None:
        return Check(extra, f"command {name}", "warning", "absent", "", f"pip install 'gace[{extra}]'")
    return Check(extra, f"command {name}", "ok", path)


def examine(folder: Path) -> Iterator[Check]:
    """All checks, in the order of the table."""
    machine: list[Callable[[], Check]] = [
        check_python,
        check_cores,
        check_memory,
        check_gpu,
        check_kernels,
        check_loopback,
    ]
    yield from (check() for check in machine)
    yield check_folder(folder)
    seen: set[str] = set()
    for extra in (None, *extras()):
        asked = [requirement for requirement in requirements(extra) if requirement.name not in seen]
        seen |= {requirement.name for requirement in asked}
        yield from (check_package(requirement, extra) for requirement in asked)
    yield check_program("verdi", "aiida")


def worst(checks: list[Check]) -> Status:
    """The most severe status among ``checks``."""
    order: tuple[Status, ...] = ("failed", "warning")
    return next((status for status in order if any(check.status == status for check in checks)), "ok")


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Folder in which campaigns will be run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.pass_context
def command(context: click.Context, folder: Path, as_json: bool) -> None:
    """Check Python, packages, cores, GPU, write access and local ports.

    Exit code 1 if something is missing without which nothing runs; an absent extra is a warning.
    """
    checks = list(examine(folder))
    verdict = worst(checks)
    if as_json:
        gace = metadata.version("gace")
        print_json({"status": verdict, "gace": gace, "checks": [asdict(check) for check in checks]})
    else:
        show(checks)
    context.exit(1 if verdict == "failed" else 0)


def show(checks: list[Check]) -> None:
    """Print the checks as a table, and the remedies below it."""
    from rich.console import Console
    from rich.table import Table

    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    table = Table(box=None, header_style="bold")
    for heading in ("", "what", "found", "needed", ""):
        table.add_column(heading, overflow="fold")
    group = ""
    for check in checks:
        status = f"[{colours[check.status]}]{check.status}[/]"
        table.add_row(
            check.group if check.group != group else "", check.name, check.found, check.needed, status
        )
        group = check.group
    console = Console()
    console.print(table)
    remedies = {f"{check.name}: {check.remedy}": None for check in checks if check.remedy}
    for remedy in remedies:
        console.print(f"  {remedy}", markup=False, highlight=False)
    failures = sum(check.status == "failed" for check in checks)
    console.print(f"{failures} failed" if failures else "ready", style="red" if failures else "green")
