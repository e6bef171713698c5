"""The wheel holds the four packages and works without the source tree."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"gace", "gace_platform", "aiida_gace", "gace_workflows"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this tree with the installed hatchling, so without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(folder),
        ".",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return next(folder.glob("gace-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel alone, that borrows the dependencies installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    paths = {"base": str(folder), "platbase": str(folder)}
    site_packages = Path(sysconfig.get_path("purelib", vars=paths))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(interpreter),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    # .pth files inside a folder named by a .pth file are not read: the editable install stays out of sight
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def run(python: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [str(python), *arguments],
        cwd=python.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_every_module(wheel: Path) -> None:
    """Python's, and C++ and CUDA that are compiled where it is installed."""
    kinds = (".py", ".cpp", ".h", ".cu")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(kinds)}
    roots = ("gace", "platform/gace_platform", "plugins/aiida_gace", "workflows/gace_workflows")
    expected = {
        path.relative_to((ROOT / root).parent).as_posix()
        for root in roots
        for path in (ROOT / root).rglob("*")
        if path.suffix in kinds
    }
    assert packed == expected


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_package_is_imported_from_the_wheel(python: Path, package: str) -> None:
    printed = run(python, "-c", f"import {package}; print({package}.__file__)")
    assert python.parent.parent in Path(printed.strip()).parents


def test_command_of_the_wheel_runs(python: Path) -> None:
    printed = run(python.with_name("gace"), "doctor", "--json")
    assert '"status"' in printed


def test_version_is_that_of_the_wheel(python: Path, wheel: Path) -> None:
    printed = run(python, "-c", "import gace; print(gace.__version__)")
    assert wheel.name.startswith(f"gace-{printed.strip()}-")
