"""Training by several processes: the same potential as by one, whatever the batches hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT

import gace
from gace.errors import InputError, TrainingDivergedError
from gace.structures.io import set_labels, write_structures
from gace.training.run import train

SMALL = {
    "channels": 4,
    "l_max": [1, 1],
    "order": 2,
    "radial_hidden": [8],
    "densities": 2,
    "readout_hidden": 4,
}


def labelled(n: int):
    """Copper-gold cells of one, two and four atoms; one has no energy, another no stress."""
    found = []
    for index in range(n):
        atoms = bulk("Cu", cubic=index % 3 == 0, a=3.7) * (1 + index % 2, 1, 1)
        atoms.symbols[0] = "Au"
        atoms.rattle(0.08, seed=index)
        atoms.calc = EMT()
        energy = None if index == 2 else atoms.get_potential_energy()
        stress = None if index == 3 else atoms.get_stress(voigt=False)
        found.append(set_labels(atoms, energy, atoms.get_forces(), stress))
    return found


@pytest.fixture
def config(tmp_path):
    """Batches of three for two processes, a last one of one."""
    write_structures(tmp_path / "train.xyz", labelled(9))
    return {
        "data": {
            "train": str(tmp_path / "train.xyz"),
            "isolated_atoms": {"Cu": 3.5, "Au": 3.8},
            "validation": 2,
        },
        "potential": {"preset": "2L-small", "cutoff": 3.0, "overrides": SMALL},
        "training": {"max_epochs": 6, "batch_size": 3, "compile": False},
        "dtype": "float64",
    }


def parameters(result) -> dict[str, torch.Tensor]:
    """Of the bundle's model."""
    return gace.load(result.bundle).members[0].state_dict()


def same(one, other) -> bool:
    """Rounding of sums in another order, grown over 18 steps."""
    return all(torch.allclose(one[name], other[name], rtol=1e-8, atol=1e-10) for name in one)


def test_two_processes_give_what_one_gives(config, tmp_path):
    """Bundle, learning curve and errors."""
    alone = train(config, tmp_path / "alone", progress=False)
    config["training"]["processes"] = 2
    together = train(config, tmp_path / "together", progress=False)
    assert same(parameters(alone), parameters(together))
    assert together.metrics["train"]["forces"]["mae"] == pytest.approx(
        alone.metrics["train"]["forces"]["mae"]
    )
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("alone", "together")]
    for one, other in zip(*(map(yaml.safe_load, each) for each in lines), strict=True):
        for name in ("loss", "gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-7)
        assert other["terms"] == pytest.approx(one["terms"], rel=1e-7)
    left = {one.name for one in (tmp_path / "together").iterdir()} - {
        one.name for one in (tmp_path / "alone").iterdir()
    }
    assert not left  # the meeting point and the others' files are gone


def test_diverged_together(config, tmp_path):
    """All processes see it at the same step, and the first says what it would say alone."""
    config["training"] |= {"processes": 2, "learning_rate": 1e9, "clip_norm": None}
    with pytest.raises(TrainingDivergedError, match="training diverged"):
        train(config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_killed_and_resumed_by_another_number(config, tmp_path):
    """SIGKILL of the first process ends the other, and one process goes on where two were."""
    # at this rate rounding has not grown after 180 steps; near a minimum Adam makes large what was nothing
    config["training"] |= {"max_epochs": 60, "learning_rate": 0.001}
    alone = train(config, tmp_path / "alone", progress=False)
    config["training"] |= {"processes": 2, "checkpoint_seconds": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "gace.cli", "train", "config.yaml", "--out", "run", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "run" / "checkpoint").exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it was struck"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not _alive(process.pid)
    config["training"] |= {"processes": 1, "checkpoint_seconds": 10}
    assert same(parameters(train(config, tmp_path / "run", progress=False)), parameters(alone))
    assert not list((tmp_path / "run").glob("team-*"))


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_interrupted_together(config, tmp_path):
    """SIGTERM to the group, as the Dask supervisor sends it: state saved, nobody left."""
    config["training"] |= {"max_epochs": 100000, "processes": 2, "checkpoint_seconds": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "gace.cli", "train", "config.yaml", "--out", "run", "--quiet"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "checkpoint").exists() and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not _alive(process.pid)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are two GPUs")
def test_more_processes_than_gpus(config, tmp_path, monkeypatch):
    """One line that says so."""
    from gace.training import team

    with pytest.raises(InputError, match="is 2, but torch sees"):
        team._own(torch.device("cuda", 0), 1, 2)


@pytest.mark.slow
def test_pretrained_together(config, tmp_path):
    """The first process pretrains (with all of them), the others start from what came of it."""
    config["pretraining"] = {
        "teacher": {"calculator": "emt"},
        "structures": 20,
        "samples_per_walk": 10,
        "training": {"max_epochs": 2, "batch_size": 5},
    }
    alone = train(config, tmp_path / "alone", progress=False)
    config["training"]["processes"] = 2
    together = train(config, tmp_path / "together", progress=False)
    assert same(parameters(alone), parameters(together))
