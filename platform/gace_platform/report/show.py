"""Numbers as readers want them: an error with its interval, a time, a price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gace_platform.report.record import CampaignRecord, Condition, Estimate, GenerationRecord, SetErrors

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, without exponents where they do not help."""
    if value is None:
        return NOTHING
    if math.isinf(value):
        return "∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        decimals = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(decimals, 6)}f}".replace(",", " ")
    return f"{value:.{digits - 1}e}"


def estimate(found: Estimate | None, digits: int = 3) -> str:
    """``41.2 [38.0, 44.9]``."""
    if found is None:
        return NOTHING
    if found.low is None or found.high is None:
        return number(found.value, digits)
    return f"{number(found.value, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def interval(found: Estimate | None, digits: int = 3) -> str:
    """``38.0 to 44.9``; empty without an interval."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(found.low, digits)} to {number(found.high, digits)}"


def theory(settings: Mapping[str, Any]) -> str:
    """A level of theory in one line: what is set, without what is not."""
    told = {key: value for key, value in settings.items() if value not in (None, "", {}, [])}
    return ", ".join(
        f"{key} {theory(value) if isinstance(value, Mapping) else value}" for key, value in told.items()
    )


def duration(seconds: float | None) -> str:
    """``3 h 05 min``, ``12 min 30 s``, ``4.2 s``."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def threshold(condition: Condition) -> str:
    """What was found and asked for, with the unit."""
    if condition.value is None and condition.threshold is None:
        return NOTHING
    unit = f" {condition.unit}" if condition.unit else ""
    return f"{number(condition.value)} of {number(condition.threshold)}{unit}"


def headline_generation(record: CampaignRecord) -> GenerationRecord | None:
    """The generation whose errors head the page: the champion's, else the last one with errors."""
    if record.champion is not None:
        for one in record.generations:
            if one.version == record.champion.version or one.generation == record.champion.generation:
                return one
    having = [one for one in record.generations if one.errors]
    return having[-1] if having else None


def headline_errors(generation: GenerationRecord | None) -> tuple[str, SetErrors] | None:
    """Name and errors of the set that draws the headline."""
    if generation is None or not generation.errors:
        return None
    return next(iter(generation.errors.items()))


__all__ = [
    "duration",
    "estimate",
    "headline_errors",
    "headline_generation",
    "interval",
    "number",
    "theory",
    "threshold",
]
