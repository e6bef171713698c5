"""Links, commands and files that the documents name exist."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANUAL = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *MANUAL]
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_index_names_every_page_of_the_manual() -> None:
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert {page.name for page in MANUAL} - {"index.md"} - linked == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_named_exist(document: Path) -> None:
    known = {point.name for point in entry_points(group="gace.commands")}
    text = document.read_text(encoding="utf-8")
    # at the start of a line of a console block, or alone in backticks
    named = re.findall(r"(?:^\$? ?(?:\.venv/bin/)?|`)gace ([a-z]+)\b", text, flags=re.MULTILINE)
    assert set(named) - known == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_examples_named_exist(document: Path) -> None:
    named = re.findall(r"\b(examples/[\w./-]*\w)", document.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
