"""Options and small services that several commands share."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gace.cli import print_json
from gace.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

    from gace.potential.potential import Potential

Command = TypeVar("Command", bound=Callable[..., Any])

potential_argument = click.argument("potential", metavar="POTENTIAL")
"""A bundle folder or a ``models:/`` URI."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")

PATHS = ("tabulated", "eager", "compiled", "auto")
"""As :data:`gace.potential.compiled.PATHS`, which is not imported for the sake of a quick ``--help``."""

path_option = click.option(
    "--path",
    "evaluation",
    type=click.Choice(PATHS),
    default="tabulated",
    show_default=True,
    help="Radial functions read off tables; by their networks; by compiled code, made first; or going over "
    "to compiled code when it is made, which is not reproducible to the last digit.",
)
"""How the potential is evaluated."""


def model_options(command: Command) -> Command:
    """``--device`` and ``--dtype``."""

    @click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
    @click.option(
        "--dtype",
        default="float64",
        show_default=True,
        help="float32 (faster, above all on a GPU) or float64.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def load_potential(source: str, device: str, dtype: str) -> Potential:
    """The potential named on the command line; see :func:`gace.load`."""
    from gace.potential.bundle import load

    return load(source, device=device, dtype=dtype)


def read_one(path: str | Path, index: str = "-1") -> Atoms:
    """One structure of a file, the last unless ``index`` says otherwise.

    Raises:
        InputError: no such file, or it holds no structure.
    """
    from gace.structures.io import read_structures

    return read_structures(path, index)[0]


def check_writable(out: Path | None) -> None:
    """Refuse an output file that cannot be written, before anything is computed.

    Raises:
        InputError: ``out`` is a folder, or its folder cannot be made or written.
    """
    if out is None:
        return
    if out.is_dir():
        raise InputError(f"cannot write {out}: it is a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"cannot write {out}: no permission in {out.parent}")


def report(summary: dict[str, Any], as_json: bool) -> None:
    """Print a flat summary: one JSON line, or one line per entry."""
    if as_json:
        print_json(summary)
        return
    for name, value in summary.items():
        click.echo(f"{name.replace('_', ' ')}: {'–' if value is None else value}")


def finite(value: float) -> float | None:
    """The value, or None where JSON could not hold it."""
    return value if math.isfinite(value) else None


@contextmanager
def progress_bar(title: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error (silent where that is no terminal).

    Yields:
        ``advance(done, note="")``.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            progress.update(task, completed=done, note=note)

        yield advance
