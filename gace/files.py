"""Files that a kill cannot leave half-written, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gace.errors import DiskFullError, GaceError, InputError

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a disk that is full, over its quota, or read-only."""


def full_disk(error: OSError, path: str | Path | None = None) -> DiskFullError:
    """The error of a full disk, in one line that says how to go on."""
    where = path or error.filename
    return DiskFullError(
        f"cannot write{f' {where}' if where else ''}: {error.strerror}; "
        "what was computed is stored: with space again, the same command goes on"
    )


def tells_of_full_disk(text: str) -> bool:
    """Whether the last words of a program say that the disk is full."""
    return any(os.strerror(number) in text for number in FULL_DISK)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on leaving without an error it becomes ``path``.

    The content is flushed to disk before the rename, so that after a crash ``path`` holds
    either its old content or the whole new one.

    Raises:
        InputError: the folder cannot be made or written.
        DiskFullError: the disk is full, over its quota, or read-only.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the temporary name keeps the suffix: writers choose their format by it
        suffix = "".join(path.suffixes[-2:])
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}.", suffix=suffix)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise full_disk(error, path) from None
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, GaceError) or error.errno not in FULL_DISK:
            raise
        raise full_disk(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write bytes or UTF-8 text so that ``path`` is either the old or the whole new content.

    Raises:
        InputError: the folder cannot be made or written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json_atomic(path: str | Path, content: Any) -> None:
    """Write JSON (indented, keys in the order given, no NaN) as :func:`write_atomic` does.

    Raises:
        ValueError: the content holds NaN or infinity, which JSON does not know.
    """
    write_atomic(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as :func:`write_json_atomic` writes it.

    Raises:
        ValueError: the content holds NaN or infinity, which JSON does not know.
    """
    return json.dumps(content, indent=2, allow_nan=False, default=float) + "\n"


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: the file is missing, unreadable, or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's list of names to disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """The process's file-creation mask (it can only be read by setting it)."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
