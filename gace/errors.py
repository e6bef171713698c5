"""Errors a user can meet.

Every error raised on purpose derives from :class:`GaceError` and also from the built-in
exception it specialises, so that library users can catch either. The message names the
cause and, where there is one, the remedy. The command line turns :class:`GaceError` into
one line on standard error and the exit code given by :attr:`GaceError.exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 12
"""Known names shown at most when none is close."""


class GaceError(Exception):
    """Root of all errors raised on purpose; exit code 1 (the work failed)."""

    exit_code = 1


class InputError(GaceError, ValueError):
    """Wrong usage or input, found before anything was computed; exit code 2."""

    exit_code = 2


class BundleError(InputError):
    """A potential bundle is damaged, foreign, or of an unknown format version."""


class MissingDependencyError(GaceError, ImportError):
    """An optional package is absent; the message is the command that installs it."""

    exit_code = 2


class TrainingDivergedError(GaceError, ArithmeticError):
    """The loss became NaN or infinite; the message names the structures of that batch."""


class OutOfMemoryError(GaceError, MemoryError):
    """Memory was refused; the message says who, how much, and the key to change. The same command goes on."""


class DiskFullError(GaceError, OSError):
    """What was computed could not be written; with space again, the same command goes on."""


class ExplorationError(GaceError, RuntimeError):
    """No walker produced a usable structure."""


class ClusterError(GaceError, RuntimeError):
    """The Dask cluster could not be reached, lost its workers, or its jobs were killed again and again."""


class LabelError(GaceError, RuntimeError):
    """A reference calculation failed for a stated reason; never a label."""


class RegistryError(GaceError, RuntimeError):
    """The model registry refused, or lost what it had been given."""


def missing(package: str, extra: str) -> MissingDependencyError:
    """Error for an absent optional package, worded as the command that installs it."""
    return MissingDependencyError(f"{package} is needed here: pip install 'gace[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, else a list of (the first of) the known ones."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(options) > LISTED:
        return f"; {len(options)} are known, such as {', '.join(options[:: len(options) // LISTED][:LISTED])}"
    return f"; known: {', '.join(options)}" if options else ""
