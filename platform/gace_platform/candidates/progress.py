"""Progress of a selection on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gace_platform.candidates.judgement import Progress as Tell


@contextmanager
def watching() -> Iterator[Tell]:
    """A progress bar per stage, silent where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield tell
