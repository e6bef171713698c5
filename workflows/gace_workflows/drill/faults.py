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

FILE_LIMIT = 3000
"""Largest file that a process may write while the disk is "full", bytes."""


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
    command = [sys.executable, "-m", "gace.cli", "campaign", "run", str(campaign / "campaign.yaml")]
    done = subprocess.run([*command, "--dir", str(campaign)], capture_output=True, text=True, check=False)
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
        if store == "full" and _labels(file, scratch / "first", limited=True) == 0:
            return False
        if _labels(file, scratch / store, limited=False):
            return False
        hashes.append(dataset_hash(read_structures(scratch / store / "labelled.xyz")))
    listed = subprocess.run(
        [sys.executable, "-m", "gace.cli", "labels", "list", str(scratch / "full"), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    paid_twice = json.loads(listed.stdout.splitlines()[-1])["paid_twice"] if listed.stdout else 1
    return hashes[0] == hashes[1] and paid_twice == 0


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
}
"""Each takes a finished campaign's folder and an empty one; whether the fault was met as it should be."""
