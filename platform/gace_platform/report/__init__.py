"""The report: one self-contained HTML page made from a :class:`CampaignRecord`."""

from __future__ import annotations

from gace_platform.report.record import CampaignRecord
from gace_platform.report.render import load_record, render

__all__ = ["CampaignRecord", "load_record", "render"]
