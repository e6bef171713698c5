"""Campaign files small enough for tests, and one rehearsal that several tests look at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gace_workflows.drill.rehearsal import REHEARSAL

TINY = {**REHEARSAL, "campaign": "tiny", "seed": 3}
"""A crystal of four copper atoms, labelled by effective medium theory in milliseconds, stress included."""


@pytest.fixture(scope="session")
def write_campaign():
    """Write a tiny campaign with its geometry: ``write_campaign(folder, **sections)`` gives the file."""

    def write(folder: Path, **sections) -> Path:
        from ase.build import bulk

        from gace.structures.io import write_structures

        folder.mkdir(parents=True, exist_ok=True)
        write_structures(folder / "copper.xyz", [bulk("Cu", "fcc", a=3.6, cubic=True)])
        file = folder / "campaign.yaml"
        file.write_text(yaml.safe_dump({**TINY, **sections}))
        return file

    return write


@pytest.fixture(scope="session")
def gace_campaign():
    """Run ``gace campaign …`` as users do, in its own process: AiiDA allows one profile folder in each."""

    def run(*arguments, timeout=1700):
        return subprocess.run(
            [sys.executable, "-m", "gace.cli", "campaign", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory, write_campaign, gace_campaign):
    """A tiny campaign carried out from beginning to end: its folder and its summary."""
    from gace_workflows.campaign.daemon import end_jobs, end_leftovers

    folder = tmp_path_factory.mktemp("rehearsal")
    try:
        done = gace_campaign("run", write_campaign(folder), "--dir", folder / "tiny", "--json")
        assert done.returncode == 0, done.stderr
        yield folder / "tiny", json.loads(done.stdout.splitlines()[-1]), done.stderr
    finally:
        # a keeper that was ended by a time limit leaves its daemon behind
        end_leftovers(folder / "tiny")
        end_jobs(folder / "tiny")
