"""`gace labels review`: what a campaign asks of each batch of fresh labels."""

import json

import numpy as np
import pytest
import yaml
from ase.build import molecule
from click.testing import CliRunner

from gace.structures.io import set_labels, write_structures
from gace_platform.labelling.command import command


@pytest.fixture
def batch(tmp_path):
    """Twelve water molecules with labels and a teacher's opinion: ``batch(spoil)`` runs the review."""
    random = np.random.default_rng(0)
    frames = []
    for number in range(12):
        atoms = molecule("H2O")
        atoms.positions += random.normal(scale=0.05, size=(3, 3))
        forces = random.normal(size=(3, 3))
        atoms.info.update(label_key=f"{number:016x}-{0:016x}", teacher_energy=-137.0 + 0.1 * number)
        atoms.arrays["teacher_forces"] = forces * 1.1
        frames.append(set_labels(atoms, -2079.0 + 0.11 * number, forces))

    def run(spoil=lambda frames: None, **config):
        spoil(frames)
        write_structures(tmp_path / "labelled.xyz", frames)
        file = tmp_path / "review.yaml"
        file.write_text(yaml.safe_dump({"structures": "labelled.xyz", **config}))
        return CliRunner().invoke(
            command, ["review", str(file), "--out", str(tmp_path / "out"), "--json"], catch_exceptions=True
        )

    return run


def flip(frames):
    frames[4].arrays["REF_forces"] *= -1


def forget(frames):
    flip(frames)
    for atoms in frames:
        del atoms.info["teacher_energy"]


def test_the_teacher_finds_a_wrong_sign(batch, tmp_path):
    found = json.loads(batch(flip).stdout.splitlines()[-1])
    assert found["expected_by"] == "teacher"
    assert list(found["suspects"]) == [f"{4:016x}-{0:016x}"]
    assert json.loads((tmp_path / "out" / "review.json").read_text()) == found


def test_honest_labels_pass(batch):
    assert json.loads(batch().stdout.splitlines()[-1])["suspects"] == {}


def test_nothing_is_suspected_where_nothing_is_expected(batch):
    found = json.loads(batch(forget).stdout.splitlines()[-1])
    assert (found["expected_by"], found["suspects"]) == (None, {})


def test_a_structure_without_a_key_is_refused(batch):
    result = batch(lambda frames: frames[0].info.pop("label_key"))
    assert "has no label_key" in str(result.exception)
