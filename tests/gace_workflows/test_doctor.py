"""``gace doctor`` says what is there, what is missing, and what to do."""

import json
import os
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from gace_workflows import doctor


def test_extras_are_those_with_packages_of_their_own() -> None:
    separate = {"cp2k", "dispersion", "vasp", "lammps", "torchsim", "triton"}
    assert set(doctor.extras()) == {"platform", "aiida", "dft", "test"} | separate


def test_core_requirements_name_torch_but_no_package_of_an_extra() -> None:
    names = {requirement.name for requirement in doctor.requirements(None)}
    assert "torch" in names
    assert names & {"aiida-core", "mlflow", "pyscf", "gace"} == set()


def test_requirements_of_an_extra_leave_out_the_core() -> None:
    names = {requirement.name for requirement in doctor.requirements("dft")}
    assert "pyscf" in names
    assert "torch" not in names


def test_installed_package_is_ok() -> None:
    check = doctor.check_package(Requirement("numpy>=1.0"), None)
    assert (check.status, check.found) == ("ok", metadata.version("numpy"))


def test_version_out_of_range_fails_and_names_the_remedy() -> None:
    check = doctor.check_package(Requirement("numpy>=999"), "platform")
    assert check.status == "failed"
    assert check.remedy == "pip install --upgrade 'gace[platform]'"


@pytest.mark.parametrize(("extra", "status"), [(None, "failed"), ("dft", "warning")])
def test_absent_package_is_worse_in_the_core(extra: str | None, status: str) -> None:
    assert doctor.check_package(Requirement("no-such-package>=1"), extra).status == status


def test_writable_folder_is_ok_and_left_as_it_was(tmp_path: Path) -> None:
    assert doctor.check_folder(tmp_path).status in {"ok", "warning"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody may write to")
def test_unwritable_folder_fails() -> None:
    assert doctor.check_folder(Path("/proc/self")).status == "failed"


def test_kernels_and_their_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    import gace.potential.kernels.build as build
    from gace.errors import InputError
    from gace.native import library as native

    def refused() -> None:
        raise InputError("cannot build what evaluates *.gace: no such option\nand more")

    monkeypatch.setattr(build, "library", lambda: object())
    assert doctor.check_kernels().status == "ok"
    with monkeypatch.context() as patch:
        patch.setattr(native, "library", refused)
        assert doctor.check_kernels().status == "warning"
        assert doctor.check_kernels().found == "cannot build what evaluates *.gace: no such option"
    monkeypatch.setattr(build, "library", lambda: None)
    check = doctor.check_kernels()
    assert check.status == "warning"
    assert "g++" in check.remedy


def test_loopback_is_reached() -> None:
    assert doctor.check_loopback().status == "ok"


def test_no_loopback_is_a_failure_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError("sandboxed")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    check = doctor.check_loopback()
    assert (check.status, check.found) == ("failed", "sandboxed")


def test_cores_are_those_this_process_may_use() -> None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert doctor.check_cores().found == str(allowed)


def test_worst_status_wins() -> None:
    checks = [doctor.Check("g", "n", status, "") for status in ("ok", "failed", "warning")]
    assert doctor.worst(checks) == "failed"
    assert doctor.worst(checks[:1]) == "ok"


def test_json_is_the_last_line_and_holds_every_check(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor.command, ["--json", "--dir", str(tmp_path)])
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["gace"] == metadata.version("gace")
    assert {"torch", "aiida-core", "mlflow", "pyscf", "python"} <= {
        check["name"] for check in summary["checks"]
    }


def test_table_ends_with_a_verdict(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor.command, ["--dir", str(tmp_path)])
    assert result.output.splitlines()[-1] in {"ready", "1 failed", "2 failed"}


def test_failure_gives_exit_code_1() -> None:
    code = "from gace.cli import main; main(['doctor', '--dir', '/proc/self'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1


def test_doctor_imports_no_optional_package() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom gace_workflows.doctor import command\n"
        "CliRunner().invoke(command, ['--json'])\n"
        "print(sorted({'aiida', 'mlflow', 'dask', 'pymatgen', 'pyscf'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
