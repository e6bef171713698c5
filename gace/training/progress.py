"""What a person sees while training runs, on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

LINE_EVERY_SECONDS = 30.0


class ProgressBar:
    """A bar where standard error is a terminal, else a line now and then; silent if switched off."""

    def __init__(self, total_epochs: int, start_epoch: int, enabled: bool = True) -> None:
        self._total, self._enabled, self._last = total_epochs, enabled, time.monotonic()
        self._bar = None
        if enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("epochs"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=total_epochs, completed=start_epoch, note="")

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, epoch: int, note: str) -> None:
        """Say that ``epoch`` epochs are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=epoch, note=note)
        elif self._enabled and time.monotonic() - self._last >= LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            print(f"epoch {epoch}/{self._total}  {note}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """One line that is worth reading, bar or not."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(f"warning: {text}", style="yellow", highlight=False)
        else:
            print(f"warning: {text}", file=sys.stderr, flush=True)
