"""Entries of CP2K's data files: one element's basis set or pseudopotential, found by name."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gace.errors import InputError, nearest

HEADER = re.compile(r"^\s*([A-Z][a-z]?)\s+([A-Za-z]\S.*)$")
"""First line of an entry: the element and the names it goes by. The lines below it begin with numbers."""


class Entry(NamedTuple):
    """One element's basis set or pseudopotential."""

    symbol: str
    names: tuple[str, ...]
    lines: tuple[str, ...]
    """What follows the names, without comments."""

    @property
    def digest(self) -> str:
        """Hash of the content; spaces, comments and names do not count."""
        text = "\n".join(" ".join(line.split()) for line in self.lines)
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    @property
    def valence(self) -> int:
        """Valence electrons of a pseudopotential: its first line has their number by angular momentum."""
        return sum(int(word) for word in self.lines[0].split())


@lru_cache(maxsize=16)
def entries(file: Path) -> tuple[Entry, ...]:
    """All entries of a data file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot read CP2K's data file {file}: {error.strerror or error}") from None
    found: list[Entry] = []
    head: tuple[str, tuple[str, ...]] | None = None
    body: list[str] = []
    for raw in [*text.splitlines(), "X END"]:
        line = raw.partition("#")[0].rstrip()
        match = HEADER.match(line)
        if match is None:
            if line.strip():
                body.append(line)
            continue
        if head is not None and body:
            found.append(Entry(head[0], head[1], tuple(body)))
        head, body = (match[1], tuple(match[2].split())), []
    return tuple(found)


def entry(file: Path, symbol: str, name: str) -> Entry:
    """The entry of an element by one of its names.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    known = [one for one in entries(file) if one.symbol == symbol]
    for one in known:
        if name in one.names:
            return one
    names = [alias for one in known for alias in one.names]
    if not names:
        raise InputError(f"{file.name} has nothing for {symbol}")
    raise InputError(f"{file.name} has no '{name}' for {symbol}{nearest(name, names)}")


__all__ = ["Entry", "entries", "entry"]
