"""The ``gace`` command: sub-commands are entry points of the group ``gace.commands``.

Each floor of the house brings its own commands; none is imported before it is used, so
``gace --help`` and ``gace evaluate`` load neither AiiDA nor Dask nor MLflow.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from gace.errors import GaceError, OutOfMemoryError, nearest
from gace.files import FULL_DISK, full_disk
from gace.memory import amount, is_lack

GROUP = "gace.commands"


def commands() -> dict[str, EntryPoint]:
    """Installed sub-commands by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def purpose_of(point: EntryPoint) -> str:
    """What a command is for: the first line of its module, which is read and not imported; else its name."""
    module = point.value.partition(":")[0]
    top, *inner = module.split(".")
    found = importlib.util.find_spec(top)
    for folder in (found.submodule_search_locations if found else None) or ():
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            source = Path(folder, *inner).with_suffix(".py").read_text(encoding="utf-8")
            first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            if purpose := first.partition(": ")[2]:
                return purpose.replace("`", "")
    return module


class EntryPointGroup(click.Group):
    """A click group whose commands are loaded from entry points at use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all installed sub-commands."""
        return sorted(commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one sub-command, or fail with the nearest known name."""
        known = commands()
        if cmd_name not in known:
            raise click.UsageError(f"no command '{cmd_name}'{nearest(cmd_name, known)}")
        loaded = known[cmd_name].load()
        if not isinstance(loaded, click.Command):
            raise click.ClickException(f"entry point '{cmd_name}' is not a click command")
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names and what they do without importing the commands."""
        rows = [(name, purpose_of(point)) for name, point in sorted(commands().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=EntryPointGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gace", prog_name="gace")
def gace() -> None:
    """Graph atomic cluster expansion potentials, and the campaigns that make them."""


def print_json(summary: dict[str, Any]) -> None:
    """Print a JSON summary as one last line on standard output."""
    click.echo(json.dumps(summary, sort_keys=False, allow_nan=False, default=float))


def leave_note(error: GaceError) -> None:
    """Write the kind and the message of an error into the file ``GACE_ERROR_FILE`` names, if it names one.

    Three exit codes cannot tell a lost cluster, which is worth another try, from a diverged
    training, which is not; whoever runs this command as a job can ask for this note.
    """
    path = os.environ.get("GACE_ERROR_FILE")
    if path:
        note = json.dumps({"error": type(error).__name__, "message": str(error)})
        with contextlib.suppress(OSError):  # what it tells of may be that very disk
            Path(path).write_text(note + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 wrong usage or input."""
    try:
        # outside standalone mode click returns the code of context.exit(code) instead of raising it
        code = gace.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2 if isinstance(error, click.UsageError) else 1)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(1)
    except GaceError as error:
        click.echo(f"error: {error}", err=True)
        leave_note(error)
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError, OSError) as error:
        lack: GaceError
        if is_lack(error):
            lack = OutOfMemoryError(f"out of memory: {amount(error)}")
        elif isinstance(error, OSError) and error.errno in FULL_DISK:
            lack = full_disk(error)
        else:
            raise
        click.echo(f"error: {lack}", err=True)
        leave_note(lack)
        sys.exit(lack.exit_code)
    if isinstance(code, int) and code:
        sys.exit(code)


if __name__ == "__main__":
    main()
