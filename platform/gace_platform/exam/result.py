"""What an exam found."""

from __future__ import annotations

from typing import Literal

from gace.config import Closed
from gace_platform.exam.config import Criteria
from gace_platform.report.record import Condition, ExamRecord, SetErrors


class ExamResult(Closed):
    """Verdict of the frozen exam on one bundle; ``exam.json`` is its JSON form."""

    format_version: Literal[1] = 1
    verdict: Literal["passed", "failed"]
    conditions: list[Condition]
    """Each condition, with what was found and what was asked for."""
    errors: SetErrors
    """Errors on the exam's structures."""
    champion_errors: SetErrors | None = None
    """Those of the champion it was compared with."""
    content_hash: str
    """Checksum of the bundle examined."""
    champion_hash: str | None = None
    """Checksum of the champion's bundle."""
    exam_hash: str
    """Hash of the exam's labelled structures."""
    criteria: Criteria
    """What was asked for."""
    core_seconds: float = 0.0
    """Processor time spent."""

    @property
    def passed(self) -> bool:
        """Whether every condition is met."""
        return self.verdict == "passed"

    @property
    def reason(self) -> str:
        """The conditions that are not met, as one line; empty when passed."""
        return "; ".join(condition.detail for condition in self.conditions if not condition.met)

    def record(self) -> ExamRecord:
        """The part of it that the report shows."""
        return ExamRecord(verdict=self.verdict, conditions=self.conditions)


__all__ = ["ExamResult"]
