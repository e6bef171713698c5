"""The frozen exam: what a potential must show before it may become champion."""

from __future__ import annotations

from gace_platform.exam.config import Criteria
from gace_platform.exam.examine import examine
from gace_platform.exam.result import ExamResult

__all__ = ["Criteria", "ExamResult", "examine"]
