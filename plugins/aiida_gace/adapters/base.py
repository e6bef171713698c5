"""What an adapter is: the contract between the labelling work chain and a DFT program's own plug-in."""

from __future__ import annotations

import re
import typing as t

from gace.errors import InputError

if t.TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import CalcJobNode, InstalledCode, ProcessNode
    from ase import Atoms

    from gace_platform.labelling.config import Reference
    from gace_platform.labelling.engines.base import Engine, Label


class Outcome(t.NamedTuple):
    """How one attempt ended: with a label, or with a failure class, a message and the end of the output."""

    label: Label | None
    failure_class: str | None
    message: str
    log: str
    core_seconds: float


class Adapter(t.Protocol):
    """Runs one program through its AiiDA plug-in."""

    @property
    def engine(self) -> Engine:
        """The engine behind it: settings, remedies, isolated atoms."""
        ...

    def prepare(self) -> None:
        """Make what all calculations share (code, pseudopotentials) in the loaded profile; safe to repeat."""
        ...

    def builder(self, atoms: Atoms, remedy: int, time_limit: float | None) -> ProcessBuilder:
        """The inputs of one attempt, ready to be submitted; ``time_limit`` in seconds."""
        ...

    def outcome(self, node: ProcessNode, atoms: Atoms) -> Outcome:
        """What became of a finished attempt."""
        ...


SHELL_OUTPUT = "_scheduler-stdout.txt"
"""Where the job script's own words are: with :data:`TIMES`, the processor time of all that it ran."""

TIMES = "times"
"""Last line of a job script: bash tells the price, whatever became of the program."""


def processor_seconds(text: str) -> float:
    """Processor time by bash's ``times``: that of the shell and of its children, s."""
    found = re.findall(r"(\d+)m([\d.]+)s", text)
    return round(sum(60 * int(minutes) + float(seconds) for minutes, seconds in found), 3)


def price_told(job: ProcessNode) -> float:
    """Processor time that a job's shell tells, s; 0 where it was ended before it could."""
    return processor_seconds(text_of(job, SHELL_OUTPUT))


def judged_by_the_clock(failure: str, job: CalcJobNode, core_seconds: float) -> str:
    """``timeout`` in the place of ``killed`` for a job that had as good as used its time up.

    Within a cycle, where the program does not look at its clock, the limit strikes from outside.

    Args:
        failure: class by what was printed.
        job: the calculation.
        core_seconds: processor time of all its processes.
    """
    limit = job.get_option("max_wallclock_seconds")
    if failure != "killed" or limit is None:
        return failure
    processes = (job.get_option("resources") or {}).get("num_mpiprocs_per_machine", 1)
    return "timeout" if core_seconds / processes >= 0.95 * limit else failure


def make_adapter(reference: Reference) -> Adapter:
    """The adapter of a reference section.

    Raises:
        InputError: AiiDA does not run this engine.
    """
    if reference.engine == "quantum-espresso":
        from aiida_gace.adapters.quantum_espresso import QuantumEspressoAdapter

        return QuantumEspressoAdapter(reference)
    if reference.engine == "cp2k":
        from aiida_gace.adapters.cp2k import CP2KAdapter

        return CP2KAdapter(reference)
    if reference.engine == "vasp":
        from aiida_gace.adapters.vasp import VaspAdapter

        return VaspAdapter(reference)
    raise InputError(f"the engine {reference.engine} is not run through a plug-in of AiiDA")


def local_code(executable: str, plugin: str, prepend_text: str) -> InstalledCode:
    """A program as an AiiDA code on the computer for labelling jobs; made at the first call.

    Args:
        executable: absolute path.
        plugin: entry point of the calculation it is for.
        prepend_text: shell lines before each run.
    """
    from aiida import orm

    from aiida_gace.computers import jobs_computer

    computer = jobs_computer()
    filters = {
        "attributes.filepath_executable": executable,
        "attributes.input_plugin": plugin,
        "attributes.prepend_text": prepend_text,
    }
    query = orm.QueryBuilder().append(orm.Computer, filters={"uuid": computer.uuid}, tag="computer")
    found = query.append(orm.InstalledCode, filters=filters, with_computer="computer").first(flat=True)
    if found is not None:
        return t.cast("InstalledCode", found)
    label = executable.rpartition("/")[2]
    count = orm.QueryBuilder().append(orm.InstalledCode, filters={"label": {"like": f"{label}%"}}).count()
    return orm.InstalledCode(
        label=label if not count else f"{label}-{count + 1}",
        computer=computer,
        filepath_executable=executable,
        default_calc_job_plugin=plugin,
        with_mpi=None,
        prepend_text=prepend_text,
    ).store()


def text_of(node: t.Any, name: str) -> str:
    """A retrieved text file of a calculation; empty when there is none."""
    try:
        return str(node.outputs.retrieved.base.repository.get_object_content(name, mode="r"))
    except Exception:  # nothing was retrieved, or not this file, or it is no text
        return ""


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a text that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


__all__ = ["Adapter", "Outcome", "local_code", "make_adapter", "tail", "text_of"]
