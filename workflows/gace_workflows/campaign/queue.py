"""The computer of a campaign's profile that sends labelling jobs to a queue."""

from __future__ import annotations

import typing as t
from pathlib import Path

from gace_workflows.campaign.services import Jobs


def ensure_queue(jobs: Jobs, work: Path) -> None:
    """See that the loaded profile has the computer for labelling jobs, with the options of today."""
    from aiida import orm
    from aiida.common.exceptions import NotExistent

    from aiida_gace.computers import CORES, OPTIONS, QUEUE

    try:
        computer = orm.Computer.collection.get(label=QUEUE)
    except NotExistent:
        computer = orm.Computer(
            label=QUEUE,
            hostname="localhost",
            description=f"labelling jobs, through {jobs.scheduler}",
            transport_type="core.local",
            scheduler_type=f"core.{jobs.scheduler}",
            workdir=str(jobs.workdir or work),
        )
        computer.set_default_mpiprocs_per_machine(1)
    options: dict[str, t.Any] = {"max_wallclock_seconds": round(60 * jobs.minutes)}
    options |= {"queue_name": jobs.queue} if jobs.queue else {}
    options |= {"account": jobs.account} if jobs.account else {}
    options |= {"qos": jobs.qos} if jobs.qos else {}
    options |= {"max_memory_kb": 1000 * jobs.memory} if jobs.memory else {}
    options |= {"custom_scheduler_commands": "\n".join(jobs.directives)} if jobs.directives else {}
    computer.set_minimum_job_poll_interval(jobs.poll_seconds)
    computer.set_prepend_text("\n".join(jobs.prologue))
    computer.set_property(OPTIONS, options)
    computer.set_property(CORES, jobs.cores)
    computer.store()
    if not computer.is_configured:
        computer.configure(safe_interval=0.0, use_login_shell=False)


__all__ = ["ensure_queue"]
