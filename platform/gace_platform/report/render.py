"""From a campaign's record to one self-contained page."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from gace.errors import InputError, missing
from gace.files import read_json, write_atomic
from gace_platform.report import show
from gace_platform.report.figures import figures, set_names
from gace_platform.report.record import CampaignRecord

FOLDER = Path(__file__).parent


def render(record: CampaignRecord, out_html: str | Path) -> Path:
    """Write the report of a campaign: one HTML file that needs nothing but a browser.

    All text of the record is escaped, and the page's own policy lets it load nothing and run no
    script but its own. Equal records give equal pages.

    Args:
        record: What is shown.
        out_html: File to write, whole or not at all.

    Returns:
        The file written.

    Raises:
        InputError: the file cannot be written.
        MissingDependencyError: jinja2 or plotly is not installed.
    """
    write_atomic(out_html, page(record))
    return Path(out_html)


def page(record: CampaignRecord) -> str:
    """The HTML text of the report."""
    generation = show.headline_generation(record)
    drawn = figures(record)
    context: dict[str, Any] = {
        "record": record,
        "generation": generation,
        "headline": show.headline_errors(generation),
        "sets": set_names(record.generations),
        "figures": drawn,
        "show": show,
        "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        "script": (FOLDER / "page.js").read_text(encoding="utf-8"),
        "plotly": plotly_source() if drawn else "",
        # scripts carry a word that nobody who wrote the record's texts could know
        "nonce": hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:32],
    }
    return str(_template().render(context))


def load_record(path: str | Path) -> CampaignRecord:
    """Read a record from its JSON form.

    Raises:
        InputError: the file is missing or is no record of this format version.
    """
    from gace.config import parse_config

    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no campaign record")
    return parse_config(content, CampaignRecord, source=str(path))


@cache
def plotly_source() -> str:
    """The one copy of plotly.js that a page carries."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise missing("plotly", "platform") from None
    return str(get_plotlyjs())


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing("jinja2", "platform") from None
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


__all__ = ["load_record", "page", "render"]
