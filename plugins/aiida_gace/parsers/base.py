"""How every parser of gace decides whether a command ended well, and if not, why."""

from __future__ import annotations

import json
import re
import typing as t
from abc import abstractmethod
from pathlib import Path

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_gace.calculations.base import ERROR_FILE, EXIT_CODE_FILE, STDERR_FILE, STDOUT_FILE, TIMES_FILE

LOCKED = ("database is locked", "is locked by", "store is locked")


class Unreadable(Exception):
    """An output file is there but does not hold what it should."""


class Absent(Exception):
    """An output file is not there although the command ended well."""


class GaceParser(Parser):
    """Read the exit status the job script left, then the summary, then what the subclass collects.

    A subclass implements :meth:`collect`, and may map errors of the command (by class name) to its own
    exit codes in :attr:`error_codes`.
    """

    error_codes: t.ClassVar[dict[str, str]] = {}
    """Label of an exit code by the class name of the error raised by the command."""

    def parse(self, **kwargs: t.Any) -> ExitCode | None:
        """Attach the outputs of a job that ended well; else the exit code that says what happened."""
        ending = self.ending()
        if ending is not None:
            return ending
        folder = kwargs.get("retrieved_temporary_folder")
        try:
            summary = self.read_summary()
            summary.setdefault("core_seconds", self.processor_time())
            self.out("summary", orm.Dict(summary))
            return self.collect(summary, Path(folder) if folder else Path())
        except Absent as error:
            return self.exit_codes.ERROR_OUTPUT_MISSING.format(detail=str(error))
        except Unreadable as error:
            return self.exit_codes.ERROR_OUTPUT_UNREADABLE.format(detail=str(error))

    @abstractmethod
    def collect(self, summary: dict[str, t.Any], folder: Path) -> ExitCode | None:
        """Turn the files in ``folder`` (and in ``self.retrieved``) into output nodes.

        Raises:
            Absent: a file is missing.
            Unreadable: a file does not hold what it should.
        """

    def ending(self) -> ExitCode | None:
        """None when the command ended well, else why it did not."""
        status = self.status()
        if status is None or status >= 128:
            detail = "no exit status was left" if status is None else f"by signal {status - 128}"
            return self.exit_codes.ERROR_KILLED.format(detail=detail)
        if status == 0:
            return None
        kind, message = self.error()
        if kind == "ClusterError":
            return self.exit_codes.ERROR_CLUSTER_LOST.format(detail=message)
        if kind == "OutOfMemoryError":
            return self.exit_codes.ERROR_OUT_OF_MEMORY.format(detail=message)
        if any(words in self.tail(20) or words in message for words in LOCKED):
            return self.exit_codes.ERROR_STORE_LOCKED.format(detail=message)
        if kind in self.error_codes:
            return getattr(self.exit_codes, self.error_codes[kind]).format(detail=message)
        if status == 2:
            return self.exit_codes.ERROR_WRONG_INPUT.format(detail=message)
        return self.exit_codes.ERROR_COMMAND_FAILED.format(detail=message)

    def status(self) -> int | None:
        """Exit status of the command; None when the job script did not live to write it."""
        try:
            return int(self.text(EXIT_CODE_FILE).strip())
        except ValueError:
            return None

    def error(self) -> tuple[str, str]:
        """Class name and message of the error that ended the command."""
        try:
            note = json.loads(self.text(ERROR_FILE))
            return str(note["error"]), str(note["message"])
        except (ValueError, KeyError, TypeError):
            return "", self.tail(1).removeprefix("error: ") or "it printed no reason"

    def read_summary(self) -> dict[str, t.Any]:
        """The JSON object on the last line of standard output."""
        lines = self.text(STDOUT_FILE).strip().splitlines()
        if not lines:
            raise Absent("JSON summary on standard output")
        try:
            summary = json.loads(lines[-1])
        except ValueError:
            raise Unreadable("the last line of standard output is not JSON") from None
        if not isinstance(summary, dict):
            raise Unreadable("the summary is not a JSON object")
        return summary

    def processor_time(self) -> float:
        """Processor time of the job, s, for commands that count none of their own."""
        total = 0.0
        for minutes, seconds in re.findall(r"(\d+)m([\d.]+)s", self.text(TIMES_FILE)):
            total += 60 * int(minutes) + float(seconds)
        return round(total, 3)

    def text(self, name: str) -> str:
        """Content of a retrieved file; empty when it is absent."""
        try:
            return self.retrieved.base.repository.get_object_content(name)
        except (FileNotFoundError, OSError):
            return ""

    def tail(self, lines: int) -> str:
        """The last lines of standard error."""
        return "\n".join(line for line in self.text(STDERR_FILE).strip().splitlines()[-lines:])

    def read_json(self, name: str) -> dict[str, t.Any]:
        """A retrieved JSON file that holds an object."""
        text = self.text(name)
        if not text:
            raise Absent(name)
        try:
            content = json.loads(text)
        except ValueError:
            raise Unreadable(f"{name} is not JSON") from None
        if not isinstance(content, dict):
            raise Unreadable(f"{name} is not a JSON object")
        return content

    @staticmethod
    def dataset(path: Path) -> t.Any:
        """A data set node from an extended XYZ file."""
        from aiida_gace.data.dataset import DatasetData
        from gace.errors import InputError

        if not path.is_file():
            raise Absent(path.name)
        try:
            return DatasetData(file=str(path.absolute()))
        except (InputError, ValueError, OSError) as error:
            raise Unreadable(f"{path.name}: {error}") from None


__all__ = ["Absent", "GaceParser", "Unreadable"]
