"""What the tree must look like, and must not hold."""

import ast
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("platform", "plugins", "workflows")
PACKAGES = ("gace", "platform/gace_platform", "plugins/aiida_gace", "workflows/gace_workflows")
TEXT = {
    ".py",
    ".toml",
    ".md",
    ".yaml",
    ".yml",
    ".txt",
    ".cfg",
    ".cff",
    ".sh",
    ".json",
    ".ipynb",
    ".html",
    ".xyz",
    "",
}
LONGEST_FILE = 400


def tracked_files() -> list[Path]:
    """Files under version control; every file of the source folders where there is no git (an sdist)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    folders = ("gace", *SOURCE_ROOTS, "tests", "examples", "docs", "benchmarks")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


FILES = tracked_files()
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
PACKAGE_FILES = [path for path in PYTHON_FILES if path.relative_to(ROOT).as_posix().startswith(PACKAGES)]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_look_at() -> None:
    assert len(PACKAGE_FILES) > 20


@pytest.mark.parametrize("folder", SOURCE_ROOTS)
def test_source_roots_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_platform_is_the_standard_librarys_in_this_process() -> None:
    assert Path(platform.__file__).parent == Path(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize(
    "arguments", [["-c", "{code}"], ["-m", "pytest", "--version"]], ids=["python", "pytest"]
)
def test_platform_is_the_standard_librarys_when_started_in_the_root(arguments: list[str]) -> None:
    code = "import platform, uuid; print(platform.__file__, platform.system())"
    command = [sys.executable, *(part.format(code=code) for part in arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    if "-c" in arguments:
        assert ended.stdout.startswith(sysconfig.get_paths()["stdlib"])


def test_packages_have_an_init_in_every_folder() -> None:
    folders = {path.parent for path in PACKAGE_FILES}
    assert [shown(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_test_lies_in_a_source_root() -> None:
    assert [shown(path) for path in PACKAGE_FILES if path.name.startswith("test_")] == []


def test_files_are_short() -> None:
    lengths = {shown(path): path.read_text(encoding="utf-8").count("\n") for path in PYTHON_FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:opt|work|root|farm)/\w")
    found = [
        f"{shown(path)}:{number}"
        for path in FILES
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def imports_of(tree: ast.Module) -> set[str]:
    """Top-level names of all modules a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_nothing_imports_pickle() -> None:
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    found = {
        shown(path): imports_of(ast.parse(path.read_text(encoding="utf-8"))) & forbidden
        for path in PACKAGE_FILES
    }
    assert {name: modules for name, modules in found.items() if modules} == {}


def unsafe_calls(tree: ast.Module) -> list[str]:
    """Calls that read or write pickles by another name: ``torch.load``, ``np.load(allow_pickle=True)``."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        allows = any(
            keyword.arg == "allow_pickle"
            and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            for keyword in node.keywords
        )
        if name in {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"} or allows:
            found.append(f"{name} in line {node.lineno}")
    return found


def test_nothing_reads_or_writes_pickles_under_another_name() -> None:
    found = {shown(path): unsafe_calls(ast.parse(path.read_text(encoding="utf-8"))) for path in PACKAGE_FILES}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("torch.load", "path"), ("yaml.load", "text"), ("np.load", "path, allow_pickle=True")],
)
def test_the_search_for_unsafe_calls_finds_them(function: str, arguments: str) -> None:
    assert unsafe_calls(ast.parse(f"{function}({arguments})")) != []


def test_constraints_hold_neither_paths_nor_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)] == []


def test_torch_is_pinned_without_a_local_version() -> None:
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
