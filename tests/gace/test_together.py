"""A committee trained as one job gives what separate trainings give."""

from __future__ import annotations

import contextlib

import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from recorders import again

import gace
from gace.config import parse_config
from gace.errors import TrainingDivergedError
from gace.structures.io import set_labels, write_structures
from gace.training import together
from gace.training.config import TrainConfig
from gace.training.run import train
from gace.training.together import train_together

SMALL = {
    "channels": 4,
    "l_max": [1, 1],
    "order": 3,
    "radial_hidden": [8],
    "densities": 2,
    "readout_hidden": 4,
}


def labelled(n: int, seed: int):
    """Copper-gold cells of one to four atoms; labels are missing here and there."""
    found = []
    for index in range(n):
        atoms = bulk("Cu", cubic=index % 3 == 0, a=3.7) * (1 + index % 2, 1, 1)
        atoms.symbols[0] = "Au"
        atoms.rattle(0.08, seed=100 * seed + index)
        atoms.calc = EMT()
        energy = None if index == 2 else atoms.get_potential_energy()
        stress = None if index == 3 else atoms.get_stress(voigt=False)
        found.append(set_labels(atoms, energy, atoms.get_forces(), stress))
    return found


@pytest.fixture
def configs(tmp_path):
    """Three members with data, order, scale and length of training of their own."""
    found = []
    for member, n in enumerate((8, 7, 9)):
        data = tmp_path / f"train{member}.xyz"
        write_structures(data, labelled(n, member))
        config = {
            "data": {"train": str(data), "isolated_atoms": {"Cu": 3.5, "Au": 3.8}, "validation": None},
            "potential": {"preset": "2L-small", "cutoff": 3.0, "overrides": SMALL},
            "training": {
                "max_epochs": 4 + member,
                "batch_size": 3,
                "loss": ["square", "huber", "conditional-huber"][member],
                "stress_weight": [10.0, 0.0, 1.0][member],
            },
            "dtype": "float64",
            "seed": member,
        }
        found.append(parse_config(config, TrainConfig))
    return found


def parameters(result) -> dict[str, torch.Tensor]:
    """Of the bundle's model."""
    return gace.load(result.bundle).members[0].state_dict()


@pytest.mark.parametrize("refuses", [False, True])
def test_recorded(configs, tmp_path, monkeypatch, refuses):
    """The joint step as a GPU would replay it, or as it goes on where nothing can be recorded."""

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    plain = train_together(configs, [tmp_path / f"plain{one}" for one in range(3)])
    made = []
    recorder = refuse if refuses else lambda function: made.append(1) or again(function)
    monkeypatch.setattr(together, "wanted", lambda device: True)
    monkeypatch.setattr(together, "CudaGraphs", lambda: recorder)
    with pytest.warns(UserWarning, match="going on without") if refuses else contextlib.nullcontext():
        found = train_together(configs, [tmp_path / f"recorded{one}" for one in range(3)])
    assert refuses != bool(made)
    for one, other in zip(found, plain, strict=True):
        ours, theirs = parameters(one), parameters(other)
        for name in theirs:
            assert torch.allclose(ours[name], theirs[name], rtol=1e-10, atol=1e-12)


def test_as_trained_alone(configs, tmp_path):
    """Parameters, learning curves, and files of each member."""
    joined = train_together(configs, [tmp_path / f"together{one}" for one in range(3)])
    for member, (config, found) in enumerate(zip(configs, joined, strict=True)):
        alone = train(config, tmp_path / f"alone{member}", progress=False)
        one, other = parameters(alone), parameters(found)
        # rounding of sums in another order, grown over up to 18 steps
        assert all(torch.allclose(one[name], other[name], rtol=1e-7, atol=1e-9) for name in one)
        assert found.metrics["train"]["forces"] == pytest.approx(alone.metrics["train"]["forces"], rel=1e-6)
        folders = tmp_path / f"together{member}", tmp_path / f"alone{member}"
        names = [sorted(one.name for one in folder.iterdir()) for folder in folders]
        assert names[0] == names[1]
    # finished members are not trained again
    repeated = train_together(configs, [tmp_path / f"together{one}" for one in range(3)])
    assert [one.bundle for one in repeated] == [one.bundle for one in joined]


def test_a_member_that_diverges(configs, tmp_path):
    """The others finish."""
    spoiled = configs[0].model_copy(
        update={"training": configs[0].training.model_copy(update={"learning_rate": 1e9, "clip_norm": None})}
    )
    results = train_together([spoiled, configs[1]], [tmp_path / "a", tmp_path / "b"])
    assert isinstance(results[0], TrainingDivergedError)
    assert results[1].bundle.exists()
