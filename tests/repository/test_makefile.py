"""The commands of the README, tried with a stand-in for the installed ``gace``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# `run` stops half-way, as after a kill; `resume` finishes.
STAND_IN = """#!/bin/sh
echo "$*" >> calls
mkdir -p demo && touch demo/campaign.yaml
[ "$2" = resume ] || exit 1
echo '{"report": "demo/report.html"}' > demo/summary.json
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder whose path has a space, with the Makefile and an environment that looks installed."""
    folder = tmp_path / "a clone"
    write_program(folder / ".venv" / "bin" / "gace", STAND_IN)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / ".installed").touch()
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # without the settings of a make that runs these tests
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_demo_runs_the_campaign(clone: Path) -> None:
    make(clone, "demo")
    assert (clone / "calls").read_text() == "campaign run examples/ethanol/campaign.yaml --dir demo\n"


def test_demo_fails_when_the_campaign_fails(clone: Path) -> None:
    assert make(clone, "demo").returncode != 0


def test_demo_resumes_an_unfinished_campaign_and_ends_with_the_reports_path(clone: Path) -> None:
    make(clone, "demo")
    second = make(clone, "demo")
    assert (clone / "calls").read_text().splitlines()[1] == "campaign resume --dir demo"
    assert second.stdout.splitlines()[-1] == "demo/report.html"


def test_demo_leaves_a_finished_campaign_alone(clone: Path) -> None:
    for _ in range(3):
        last = make(clone, "demo")
    assert len((clone / "calls").read_text().splitlines()) == 2
    assert last.stdout.splitlines()[-1] == "demo/report.html"


def test_an_old_python_is_refused_with_the_remedy(clone: Path) -> None:
    (clone / ".venv" / ".installed").unlink()
    write_program(clone / "old", '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    ended = make(clone, "install", "PYTHON=./old")
    assert ended.returncode == 2
    assert "needs Python 3.11 or newer, and './old' is Python 3.9.2" in ended.stderr


def test_install_does_nothing_when_up_to_date(clone: Path) -> None:
    assert make(clone, "--question", "install").returncode == 0


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_install_is_due_when_a_dependency_may_have_changed(clone: Path, name: str) -> None:
    later = (clone / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(clone / name, (later, later))
    assert make(clone, "--question", "install").returncode == 1


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test\n" in script.read_text()
    assert "make test" in (ROOT / "README.md").read_text()
