"""Options and settings for all tests."""

import atexit
import os
import shutil
import tempfile
import time

import pytest

# Read when torch or NumPy is imported, which is later than this: processes must not each take all cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# An operator that returns one tensor twice: PyTorch warns of it, and refuses it only where CI is set.
os.environ["TORCHINDUCTOR_ERROR_ON_CUSTOM_OP_ALIASING"] = "1"

# AiiDA makes a profile folder in the user's home when it is imported, unless it is told of another.
os.environ["AIIDA_PATH"] = tempfile.mkdtemp(prefix="gace-tests-aiida-")
atexit.register(shutil.rmtree, os.environ["AIIDA_PATH"], ignore_errors=True)

# Set in a developer's shell, they would send the tests' runs to a real store.
for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
    os.environ.pop(variable, None)

STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget",
        type=float,
        default=None,
        metavar="MINUTES",
        help="skip the tests that have not begun after so many minutes",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--time-budget")
    if budget is not None and time.monotonic() - item.config.stash[STARTED] > budget * 60:
        pytest.skip(f"the budget of {budget:g} minutes is spent")
