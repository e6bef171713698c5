"""Which processes belong to a campaign, what they are, and how one of them dies."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("command", ("gace.cli", "campaign")),
    ("daemon", ("daemon", "start-circus")),
    ("worker", ("daemon", "worker")),
    ("broker", ("daemon", "broker")),
    ("scheduler", ("gace_platform.cluster.service",)),
    ("program", ("gace_platform.labelling.worker",)),
    ("walker", ("gace_platform.exploration.walker",)),
    ("training", ("train", "--out")),
    ("job", ("_aiidasubmit.sh",)),
    ("DFT program", ("pw.x",)),
    ("step", ("--out", "--json")),
    ("Dask worker", ("multiprocessing.spawn",)),
)
"""Kinds of processes by words of their command line; the first that fits names a process."""


def kind_of(words: list[str]) -> str | None:
    """What a process is by its command line, or None: nothing we know."""
    line = " ".join(words)
    for kind, marks in KINDS:
        if all(mark in line for mark in marks):
            return kind
    return None


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process of the campaign in ``folder``, and what they started.

    They are recognised by the folder in their command line, working folder or ``AIIDA_PATH``, so another
    campaign on the machine is never touched.
    """
    import psutil

    everyone: dict[int, tuple[psutil.Process, int]] = {}
    ours: set[int] = set()
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            everyone[process.pid] = (process, process.ppid())
            words = [*process.cmdline(), process.cwd(), process.environ().get("AIIDA_PATH", "")]
            if any(_below(word, folder) for word in words):
                ours.add(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            continue
    grew = True
    while grew:
        children = {pid for pid, (_, parent) in everyone.items() if parent in ours} - ours
        ours |= children
        grew = bool(children)
    return [everyone[pid][0] for pid in sorted(ours)]


def victims(folder: Path) -> dict[str, list[psutil.Process]]:
    """Processes that may be killed, by kind."""
    import psutil

    found: dict[str, list[psutil.Process]] = defaultdict(list)
    for process in processes_of(folder):
        try:
            kind = kind_of(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if kind is not None:
            found[kind].append(process)
    return dict(found)


def kill(process: psutil.Process) -> dict[str, Any] | None:
    """SIGKILL to one process.

    Returns:
        Its number and the end of its command line once it is seen to be dead; None: it was gone before.
    """
    import psutil

    try:
        words = process.cmdline()
        process.kill()
        process.wait(10)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    except psutil.TimeoutExpired:
        # dead, but its parent has not fetched it yet
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return None
    return {"pid": process.pid, "command": " ".join(words)[-160:]}


def end_all(folder: Path) -> int:
    """SIGKILL to everything of a campaign, and again to what a supervisor still managed to start.

    Returns:
        How many processes that were.
    """
    import psutil

    count = 0
    for _ in range(5):
        ours = processes_of(folder)
        if not ours:
            break
        for process in ours:
            try:
                process.kill()
                count += 1
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(ours, timeout=5)
    return count


def _below(word: str, folder: Path) -> bool:
    """Whether a word of a command line names the folder or something in it."""
    return word == str(folder) or f"{folder}/" in word
