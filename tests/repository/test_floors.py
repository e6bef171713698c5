"""Imports run down only, and the lowest floor is light."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_contracts_of_import_linter_hold() -> None:
    beside = Path(sys.executable).parent / "lint-imports"
    program = str(beside) if beside.exists() else shutil.which("lint-imports")
    if program is None:
        pytest.skip("import-linter is not installed")
    ended = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys, json; print(json.dumps(list(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(ended.stdout.splitlines()[-1])}


def test_importing_gace_is_light() -> None:
    assert (
        modules_after("import gace") & {"torch", "aiida", "dask", "distributed", "mlflow", "pymatgen"}
        == set()
    )


def test_using_gace_loads_nothing_from_the_upper_floors() -> None:
    loaded = modules_after("import gace; gace.load; gace.train; gace.evaluate; gace.GraphACE")
    assert "torch" in loaded
    assert loaded & {"aiida", "dask", "distributed", "mlflow", "pymatgen", "gace_platform"} == set()


def test_the_list_of_commands_loads_no_heavy_package() -> None:
    loaded = modules_after(
        "from gace.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    )
    assert loaded & {"torch", "aiida", "dask", "distributed", "mlflow", "pymatgen"} == set()


OPTIONAL = ("aiida", "dask", "distributed", "mlflow", "pymatgen", "sklearn", "plotly", "jinja2", "pyscf")


def run_without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The ``gace`` command in an interpreter where no package of an extra can be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
        "from gace.cli import main; main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [point.name for point in entry_points(group="gace.commands")])
def test_help_of_a_command_needs_no_extra(command: str) -> None:
    ended = run_without_extras(command, "--help")
    assert ended.returncode == 0, ended.stderr


def test_an_absent_extra_is_one_line_with_the_command_that_installs_it(tmp_path: Path) -> None:
    file = ROOT / "examples" / "ethanol" / "campaign.yaml"
    ended = run_without_extras("campaign", "run", str(file), "--dir", str(tmp_path / "campaign"))
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["error: aiida-core is needed here: pip install 'gace[aiida]'"]
