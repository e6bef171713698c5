"""The report: one self-contained HTML page made from a :class:`CampaignRecord`."""
