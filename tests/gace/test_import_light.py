"""Importing gace is quick, and its floor knows nothing of the floors above."""

import subprocess
import sys
from pathlib import Path

import pytest

import gace

HEAVY = ("aiida", "dask", "distributed", "mlflow", "torch", "pymatgen", "ase", "numpy")
ROOT = Path(__file__).parents[2]


def run(code, *options):
    found = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def loaded_by(statement):
    return run(f"{statement}\nimport sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))").split()


def test_import_gace_loads_nothing_heavy():
    assert loaded_by("import gace; dir(gace); gace.__version__") == []


@pytest.mark.parametrize("arguments", [[], ["evaluate"], ["info"], ["md"], ["relax"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    code = "import contextlib, io\nfrom gace.cli import main\n"
    code += "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
    assert loaded_by(code + f"    main({[*arguments, '--help']!r})") == []


def test_reading_structures_loads_no_torch():
    assert "torch" not in loaded_by("from gace.structures import read_structures, dataset_hash")


def test_using_the_potential_loads_no_upper_floor():
    code = "import gace; gace.load, gace.Potential, gace.GraphACE, gace.evaluate, gace.train"
    assert not {"aiida", "dask", "distributed", "mlflow", "pymatgen"} & set(loaded_by(code))


def test_platform_is_the_standard_librarys_in_the_root():
    assert run("import platform; print(platform.python_version())").count(".") == 2


def test_platform_is_the_standard_librarys_under_pytest():
    import platform

    assert platform.python_version().count(".") == 2
    assert not Path(platform.__file__).is_relative_to(ROOT / "platform")


def test_public_surface():
    assert set(gace.__all__) == {"load", "train", "evaluate", "Potential", "GraphACE", "__version__"}
    assert dir(gace) == sorted(gace.__all__)


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gace.nonsense


def test_predicting_loads_no_scipy(bundle):
    """Twenty megabytes, which a small molecule's evaluation would otherwise double."""
    code = "import sys\nfrom gace.potential.bundle import load\n"
    code += f"load({str(bundle)!r}).calculator(uncertainty=False)\n"
    code += "print(*[one for one in ('scipy.linalg', 'scipy.cluster') if one in sys.modules])"
    assert run(code) == ""
