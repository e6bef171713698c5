"""The examples that label with a plane-wave program, made smaller: real labels through a campaign."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.aiida,
    pytest.mark.daemon,
    pytest.mark.dask,
    pytest.mark.mlflow,
    pytest.mark.dft,
    # some five minutes on two free cores; the limit is for machines that are busy
    pytest.mark.timeout(2400),
]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALLER = (
    "budget.labels=7",
    "initial.labels=3",
    "generations=[{labels: 1}, {labels: 1}]",
    "exam.structures=2",
    "training.max_epochs=20",
    "initial.exploration={walkers: 2, steps: 20, sample_every: 2, temperature: {start: 600, end: 900}}",
    "exploration.steps=40",
)
ABSENT = {
    "silicon-qe": shutil.which("pw.x") is None
    and "Quantum ESPRESSO is not installed: apt-get install quantum-espresso quantum-espresso-data",
    "silicon-carbide-cp2k": (
        shutil.which("cp2k") is None and "CP2K is not installed: apt-get install cp2k cp2k-data"
    )
    or (
        importlib.util.find_spec("aiida_cp2k") is None
        and "aiida-cp2k is not installed: pip install 'gace[cp2k]'"
    ),
}


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_two_batches_of_real_labels(name, gace_campaign, tmp_path):
    if ABSENT[name]:
        pytest.skip(ABSENT[name])
    from gace.structures.io import labels_of, read_structures
    from gace_platform.ledger.store import LabelStore
    from gace_workflows.campaign.daemon import end_jobs, end_leftovers

    folder = tmp_path / name
    settings = [word for one in SMALLER for word in ("--set", one)]
    try:
        done = gace_campaign(
            "run", EXAMPLES / name / "campaign.yaml", "--dir", folder, "--json", *settings, timeout=2300
        )
        assert done.returncode == 0, done.stderr
    finally:
        end_leftovers(folder)
        end_jobs(folder)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["labels"] == 7
    assert summary["labels_paid_twice"] == 0
    assert summary["generations"] == 3
    frames = read_structures(folder / "data" / "dataset.xyz")
    assert len(frames) >= 4
    for atoms in frames:
        label = labels_of(atoms)
        assert label.stress.shape == (3, 3)
        # a crystal near its rest: bound by some eV per atom and pushed by a few eV/Å at most
        assert abs(label.forces).max() < 10
    assert all(record.evidence["converged"] for record in LabelStore(folder / "labels").records())
