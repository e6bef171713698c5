"""Losses, weights per structure and label, stages, averages and batches."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from gace.errors import InputError
from gace.structures.io import Labels, set_labels, write_structures
from gace.training.batches import Packed, balanced_batches
from gace.training.config import TrainConfig, TrainingConfig
from gace.training.dataset import checked_labels, weights_of
from gace.training.losses import Weights, loss_terms, penalty
from gace.training.metrics import read_metrics
from gace.training.run import train
from gace.training.sampler import Sampler
from gace.training.schedule import averaging_decay, learning_rate, stage_weights

ELEMENTS = ["C", "H", "O"]


def packed(structures):
    rng = np.random.default_rng(0)
    labels = [Labels(float(rng.normal()), rng.normal(size=(len(one), 3)), None) for one in structures]
    return Packed(
        structures,
        labels,
        elements=ELEMENTS,
        cutoff=3.5,
        isolated_atoms=dict.fromkeys(ELEMENTS, 0.0),
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


def terms_of(model, data, kind=None):
    weights = Weights(1.0, 1.0, 0.0)
    return loss_terms(
        model, data.batch(torch.arange(len(data))), weights, kind or penalty("square", 1.0), data.complete
    )


def molecules(**info):
    found = [molecule("H2O"), molecule("CH4")]
    found[1].info.update(info)
    return found


def test_conditional_huber_is_huber_where_forces_are_small():
    x, force = torch.tensor([[0.003, 0.5, -2.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    wanted = penalty("huber", 0.01)(x)
    assert torch.allclose(penalty("conditional-huber", 0.01, 10.0)(x, force), wanted)


def test_conditional_huber_trusts_large_forces_less():
    x, kind = torch.full((3, 3), 0.5), penalty("conditional-huber", 0.01, 10.0)
    force = torch.tensor([[5.0, 0, 0], [20.0, 0, 0], [1e6, 0, 0]])
    small, large, largest = kind(x, force)[:, 0].tolist()
    # linear part: twice the residual times delta over the original delta; never below a tenth
    assert large == pytest.approx(0.5 * small, rel=0.02)
    assert largest == pytest.approx(0.1 * small, rel=0.02)


def test_conditional_huber_has_a_continuous_slope():
    x = torch.tensor([0.00499999, 0.00500001], dtype=torch.float64).requires_grad_()
    force = torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64)  # delta shrinks to 0.005 here
    penalty("conditional-huber", 0.01, 10.0)(
        x[None, :, None].expand(1, 2, 3)[:, :, 0], force
    ).sum().backward()
    assert x.grad[0].item() == pytest.approx(x.grad[1].item(), rel=1e-4)


def test_weight_of_a_structure_multiplies_its_terms(make_model):
    model = make_model()
    plain, tripled = (terms_of(model, packed(molecules(**info))) for info in ({}, {"weight": 3.0}))
    alone = terms_of(model, packed(molecules())).detach(), terms_of(model, packed(molecules(weight=0.0)))
    second = alone[0] - alone[1]  # what the second structure contributes to each mean
    assert torch.allclose(tripled, plain + 2 * second)


def test_weight_of_one_label_leaves_the_others(make_model):
    model = make_model()
    plain, changed = (terms_of(model, packed(molecules(**info))) for info in ({}, {"forces_weight": 0.0}))
    assert changed[1].item() == pytest.approx(plain[1].item())
    assert changed[2].item() < plain[2].item()


def test_weights_multiply():
    atoms = molecule("H2O")
    atoms.info.update(weight=2.0, stress_weight=0.5)
    assert weights_of(atoms) == (2.0, 2.0, 1.0)


@pytest.mark.parametrize("value", [-1.0, "heavy", np.nan])
def test_impossible_weights_name_the_structure(value):
    atoms = molecule("H2O")
    atoms.info.update(REF_energy=1.0, weight=value, structure_id="w7")
    with pytest.raises(InputError, match=r"'w7'.*weight must be a number"):
        checked_labels([atoms], "data.train")


def test_stages_follow_each_other():
    stages = [
        {"fraction": 0.5, "energy_weight": 0.0},
        {"fraction": 0.3, "forces_weight": 2.0, "learning_rate_factor": 0.1},
        {"fraction": 0.2},
    ]
    settings = TrainingConfig(stages=stages, learning_rate=0.1, schedule="constant", warmup_steps=0)
    assert stage_weights(settings, 0.49, True) == Weights(0.0, 10.0, 10.0)
    assert stage_weights(settings, 0.51, True) == Weights(1.0, 2.0, 10.0)
    assert stage_weights(settings, 1.0, False) == Weights(1.0, 10.0, 0.0)
    assert [learning_rate(settings, 9, p) for p in (0.1, 0.6)] == pytest.approx([0.1, 0.01])


def test_stages_must_fill_the_plan():
    with pytest.raises(ValueError, match=r"sum to 0\.7"):
        TrainingConfig(stages=[{"fraction": 0.7}])


def test_swa_is_the_plain_mean_of_the_last_steps():
    settings, mean = TrainingConfig(averaging="swa"), 5.0
    for averaged, value in enumerate([1.0, 2.0, 6.0]):
        decay = averaging_decay(settings, 100, averaged)
        mean = decay * mean + (1 - decay) * value
    assert mean == pytest.approx(3.0)


def test_balanced_batches_hold_equally_many_atoms():
    rng = np.random.default_rng(3)
    sizes = torch.from_numpy(rng.integers(1, 60, size=100))
    batches = balanced_batches(torch.from_numpy(rng.permutation(100)), sizes, 9)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(100))
    atoms = [int(sizes[one].sum()) for one in batches]
    assert max(atoms) - min(atoms) <= int(sizes.max())


def test_one_giant_leaves_no_batch_empty():
    sizes = torch.tensor([1000, 1, 1, 1])
    assert all(len(one) for one in balanced_batches(torch.arange(4), sizes, 4))


def sampler(sizes, n_new, **sections):
    config = TrainConfig.model_validate({"data": {"train": "x.xyz"}, **sections})
    return Sampler(torch.tensor(sizes), config, n_new)


def test_batch_atoms_decide_the_number_of_steps():
    own = sampler([10] * 30, 30, training={"batch_atoms": 50})
    assert own.steps_per_epoch == 6
    assert {int(own.sizes[one].sum()) for one in own.batches(0)} == {50}


def test_replay_visits_all_new_and_some_old_structures():
    replay = {"train": "x.xyz", "replay": {"data": "old.xyz", "fraction": 0.25}}
    own = sampler([5] * 40, 12, data=replay)
    epochs = [torch.cat(own.batches(epoch)) for epoch in (0, 1)]
    for visited in epochs:
        assert set(range(12)) <= set(visited.tolist())
        assert len(visited) == 16  # 4 of 16 are a quarter
    assert set(epochs[0].tolist()) != set(epochs[1].tolist())


def test_a_stage_may_ask_for_stresses_that_the_others_leave_out(tmp_path):
    structures = []
    for seed in range(3):
        atoms = bulk("Cu", cubic=True, a=3.7)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        structures.append(set_labels(atoms, *labels))
    write_structures(tmp_path / "train.xyz", structures)
    overrides = {"channels": 2, "l_max": [1], "order": 2, "densities": 2, "radial_hidden": [4]}
    stages = [{"fraction": 0.5}, {"fraction": 0.5, "stress_weight": 10}]
    config = {
        "data": {"train": str(tmp_path / "train.xyz")},
        "potential": {"preset": "1L-small", "cutoff": 3.5, "overrides": overrides},
        "training": {"max_epochs": 2, "stress_weight": 0, "stages": stages},
    }
    train(config, tmp_path / "run", progress=False)
    first, second = (one["terms"]["stress"] for one in read_metrics(tmp_path / "run/metrics.jsonl"))
    assert first == 0
    assert second > 0
