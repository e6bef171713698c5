"""Faults other than kills: each must be refused or survived, never believed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from gace.structures.identity import dataset_hash
from gace.structures.io import read_structures, write_structures
from gace_workflows.drill.clock import clock_jump

FILE_LIMIT = 200_000
"""Largest file that a process may write while the disk is "full", bytes: room for a record."""

JOURNAL_LEFT = 2500
"""What the journal may still grow by then, bytes."""


def corrupted_bundle(campaign: Path, scratch: Path) -> bool:
    """Whether a bundle with one flipped bit is refused."""
    import gace
    from gace.errors import BundleError

    bundle = scratch / "bundle"
    shutil.copytree(campaign / "potential", bundle)
    weights = bundle / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    try:
        gace.load(str(bundle))
    except BundleError:
        return True
    return False


def duplicate_submission(campaign: Path, scratch: Path) -> bool:
    """Whether a second campaign in the same folder is refused."""
    done = _gace("campaign", "run", campaign / "campaign.yaml", "--dir", campaign)
    return done.returncode == 2 and "resume" in done.stderr


def torn_journal(campaign: Path, scratch: Path) -> bool:
    """Whether a journal cut off in the middle of a line still accounts for every label."""
    from gace_platform.ledger.store import LabelStore

    shutil.copytree(campaign / "labels", scratch / "torn")
    journal = scratch / "torn" / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:-7])
    store = LabelStore(scratch / "torn")
    before = len(list(store.journal))
    store.journal.append("reused", "key")
    return len(list(store.journal)) == before + 1 and store.paid_twice() == 0


def disk_full(campaign: Path, scratch: Path) -> bool:
    """Whether labelling on a full disk fails, and labelling again ends with the same labels."""
    frames = read_structures(campaign / "data" / "dataset.xyz")
    write_structures(scratch / "pool.xyz", frames)
    content = {"reference": {"engine": "teacher", "calculator": "emt"}, "structures": "pool.xyz"}
    hashes = []
    for store in ("full", "roomy"):
        file = scratch / f"{store}.yaml"
        file.write_text(yaml.safe_dump({**content, "store": store}), encoding="utf-8")
        if store == "full":
            (scratch / store).mkdir()
            (scratch / store / "journal.jsonl").write_bytes(b"\n" * (FILE_LIMIT - JOURNAL_LEFT))
        if store == "full" and _labels(file, scratch / "first", limited=True) == 0:
            return False
        if _labels(file, scratch / store, limited=False):
            return False
        hashes.append(dataset_hash(read_structures(scratch / store / "labelled.xyz")))
    listed = _gace("labels", "list", scratch / "full", "--json")
    paid_twice = json.loads(listed.stdout.splitlines()[-1])["paid_twice"] if listed.stdout else 1
    return hashes[0] == hashes[1] and paid_twice == 0


def unreadable_scratch(campaign: Path, scratch: Path) -> bool:
    """Whether an exploration whose scratch folder cannot be read says so, and finds the same once it can.

    A folder is put where a finished walk's result should be read, then a file where the whole scratch folder
    should be: neither can be read by anybody, root included.
    """
    from ase.build import bulk

    write_structures(scratch / "copper.xyz", [bulk("Cu", "fcc", a=3.6, cubic=True)])
    content = {
        "teacher": {"calculator": "emt"},
        "start": "copper.xyz",
        "walkers": 2,
        "steps": 20,
        "sample_every": 5,
        "rattle": 0.05,
        "seed": 5,
        "scratch": "walks",
    }
    file = scratch / "explore.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")

    def explored(name: str) -> tuple[int, str]:
        done = _gace("explore", file, "--out", scratch / name)
        return done.returncode, done.stderr

    def found(name: str) -> str:
        return dataset_hash(read_structures(scratch / name / "candidates.xyz"))

    if explored("first")[0]:
        return False
    result = next((scratch / "walks").glob("walk-*/result.json"))
    result.unlink()
    result.mkdir()
    if not _refused(*explored("second"), result.name):
        return False
    (scratch / "walks").rename(scratch / "walks-aside")
    (scratch / "walks").write_text("not a folder", encoding="utf-8")
    if not _refused(*explored("third"), "walks"):
        return False
    (scratch / "walks").unlink()
    return explored("fourth")[0] == 0 and found("fourth") == found("first")


def _refused(code: int, output: str, name: str) -> bool:
    """Whether a command ended with an error, without a traceback, that names the file."""
    return code in (1, 2) and "Traceback" not in output and name in output


def _gace(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a ``gace`` command."""
    return subprocess.run(
        [sys.executable, "-m", "gace.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _labels(file: Path, out: Path, limited: bool) -> int:
    """Exit code of ``gace labels run``, if wanted with a limit on the size of files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))

    done = subprocess.run(
        [sys.executable, "-m", "gace.cli", "labels", "run", str(file), "--out", str(out)],
        capture_output=True,
        check=False,
        preexec_fn=limit if limited else None,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode


FAULTS: dict[str, Callable[[Path, Path], bool]] = {
    "corrupted bundle": corrupted_bundle,
    "duplicate submission": duplicate_submission,
    "torn journal": torn_journal,
    "disk full": disk_full,
    "unreadable scratch": unreadable_scratch,
    "clock jump": clock_jump,
}
"""Each takes a finished campaign's folder and an empty one; whether the fault was met as it should be."""
