"""Where labelling jobs run: on this machine directly, or through a queue that the profile knows.

A profile that has a computer called ``jobs`` sends labelling jobs there, with the options (partition, memory,
…) that are kept with that computer; any other profile runs them on ``localhost``.
"""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.common.exceptions import NotExistent

HERE = "localhost"
QUEUE = "jobs"
OPTIONS = "gace_options"
"""Under this name a computer keeps the options of its jobs."""

CORES = "gace_cores"
"""And under this one the cores of a job of gace's own."""

MIN_SECONDS = 60


def jobs_computer() -> orm.Computer:
    """The computer for labelling jobs of the loaded profile."""
    try:
        return orm.Computer.collection.get(label=QUEUE)
    except NotExistent:
        return orm.load_computer(HERE)


def job_options(seconds: float | None = None) -> dict[str, t.Any]:
    """Options that every labelling job there is submitted with; none for this machine.

    Args:
        seconds: wall time that the job needs, if that is known; at most what is kept for the computer.
    """
    options = dict(jobs_computer().get_property(OPTIONS, {}))
    if options and seconds is not None:
        most = options.get("max_wallclock_seconds", int(seconds))
        options["max_wallclock_seconds"] = max(MIN_SECONDS, min(int(seconds), most))
    return options


def label_resources() -> dict[str, int]:
    """What one labelling job of gace's own occupies: one process with the cores kept for the computer."""
    cores = jobs_computer().get_property(CORES, None)
    resources = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
    return resources if cores is None else {**resources, "num_cores_per_mpiproc": int(cores)}


def label_code(code: orm.AbstractCode) -> orm.AbstractCode:
    """The gace command for labelling jobs: ``code`` itself, or the same command on the computer for jobs."""
    computer = jobs_computer()
    if code.computer is None or computer.uuid == code.computer.uuid:
        return code
    executable = code.base.attributes.get("filepath_executable")
    query = orm.QueryBuilder().append(orm.Computer, filters={"uuid": computer.uuid}, tag="computer")
    query.append(
        orm.InstalledCode,
        with_computer="computer",
        filters={"attributes.filepath_executable": executable},
    )
    if (found := query.first(flat=True)) is not None:
        return t.cast("orm.AbstractCode", found)
    return orm.InstalledCode(
        label=f"{code.label}-{computer.label}",
        description="the gace command, in the queue",
        computer=computer,
        filepath_executable=executable,
        default_calc_job_plugin="gace.label",
        with_mpi=False,
        use_double_quotes=False,
        prepend_text=code.prepend_text,
    ).store()


__all__ = [
    "CORES",
    "HERE",
    "OPTIONS",
    "QUEUE",
    "job_options",
    "jobs_computer",
    "label_code",
    "label_resources",
]
