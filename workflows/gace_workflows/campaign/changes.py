"""What was changed in a campaign's file after its work chain had begun with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gace.errors import InputError

OF_THE_KEEPER = ("cluster", "description")
"""Sections that are read anew by every keeper."""


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the keys whose values differ; files count by name, for the folder may be linked."""
    found = []
    for key in sorted({*before, *now}):
        if not prefix and key in OF_THE_KEEPER:
            continue
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += changed_keys(one, other, f"{prefix}{key}.")
        elif _plain(one) != _plain(other):
            found.append(f"{prefix}{key}")
    return found


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    """See that the file still says what the campaign that is under way was begun with.

    Args:
        before: what the work chain was given.
        now: what the file says.
        file: where it says so.

    Raises:
        InputError: it says something else, which nobody would heed.
    """
    keys = changed_keys(before, now)
    if keys:
        raise InputError(
            f"{file} was changed while the campaign was under way ({', '.join(keys)}): put it back, "
            f"or begin another one with it (gace campaign run {file} --dir OTHER)"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, str) and "/" in value:
        return Path(value).name
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
