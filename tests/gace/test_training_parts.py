"""The organs of training one by one: batches, splits, statistics, losses, schedule."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st

from gace.errors import InputError
from gace.potential.graph_ace import GraphACE
from gace.structures.io import Labels, write_structures
from gace.structures.neighbours import build_graph
from gace.training.batches import Packed, epoch_order
from gace.training.checkpoint import load_checkpoint, save_checkpoint
from gace.training.config import FinalStage, TrainingConfig
from gace.training.dataset import split
from gace.training.losses import Weights, loss_terms, penalty
from gace.training.metrics import MetricsFile, read_metrics
from gace.training.schedule import Plateau, learning_rate, stage_weights
from gace.training.statistics import fit_isolated_atoms, label_scale, read_isolated_atoms

ELEMENTS, CUTOFF = ["C", "H", "O"], 3.0
CPU = torch.device("cpu")


def random_labels(atoms: Atoms, seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    return Labels(float(rng.normal()), rng.normal(size=(len(atoms), 3)), None)


def packed(structures: list[Atoms], labels: list[Labels]) -> Packed:
    return Packed(
        structures,
        labels,
        elements=ELEMENTS,
        cutoff=CUTOFF,
        isolated_atoms={"C": -3.0, "H": -1.0, "O": -2.0},
        dtype=torch.float64,
        device=CPU,
    )


@pytest.fixture
def mixture():
    """Molecules and a cell of different sizes and numbers of neighbours."""
    structures = [molecule("H2O"), molecule("CH3CH2OH"), bulk("C", "diamond", 3.6), molecule("CH4")]
    return structures, [random_labels(atoms, index) for index, atoms in enumerate(structures)]


@pytest.fixture
def tiny_model():
    return GraphACE(elements=ELEMENTS, cutoff=CUTOFF, l_max=[1, 1], order=2, channels=2, densities=2, seed=3)


def test_batch_is_the_graph_of_its_structures(mixture):
    structures, labels = mixture
    batch = packed(structures, labels).batch(torch.tensor([3, 0, 1]))
    wanted = build_graph([structures[i] for i in (3, 0, 1)], ELEMENTS, CUTOFF)
    for got, want in zip(batch.graph, wanted, strict=True):
        assert torch.equal(got.nan_to_num(-1.0), want.nan_to_num(-1.0))


def test_batch_carries_labels_less_isolated_atoms(mixture):
    structures, labels = mixture
    batch = packed(structures, labels).batch(torch.tensor([1, 0]))
    assert batch.energy[1].item() == pytest.approx(labels[0].energy - (-2.0 - 2 * 1.0))
    assert np.array_equal(batch.forces.numpy(), np.concatenate([labels[1].forces, labels[0].forces]))


def test_batches_in_order_cover_every_structure_once(mixture):
    batches = list(packed(*mixture).in_order(max_atoms=10))
    assert torch.equal(torch.cat([chosen for chosen, _ in batches]), torch.arange(4))
    assert all(batch.graph.n_atoms <= 10 for _, batch in batches)


def test_epoch_order_is_a_permutation_of_its_own():
    orders = [epoch_order(20, seed=1, epoch=epoch) for epoch in (0, 1, 0)]
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0].sort().values, torch.arange(20))


def test_missing_labels_leave_the_loss(mixture, tiny_model):
    structures, labels = mixture
    holes = [
        labels[0],
        labels[1]._replace(forces=None),
        labels[2]._replace(energy=None),
        labels[3]._replace(energy=None),
    ]
    weights, square = Weights(1.0, 1.0, 0.0), penalty("square", 1.0)

    def terms(chosen, found):
        data = packed([structures[i] for i in chosen], [found[i] for i in chosen])
        return loss_terms(tiny_model, data.batch(torch.arange(len(chosen))), weights, square, data.complete)

    some = terms([0, 1, 2, 3], holes)
    assert some[1].item() == pytest.approx(terms([0, 1], labels)[1].item())
    assert some[2].item() == pytest.approx(terms([0, 2, 3], labels)[2].item())


def test_missing_labels_leave_finite_gradients(mixture, tiny_model):
    structures, labels = mixture
    data = packed(structures, [one._replace(forces=None) for one in labels])
    loss = loss_terms(
        tiny_model, data.batch(torch.arange(4)), Weights(1, 1, 1), penalty("huber", 0.01), False
    )
    loss[0].backward()
    gradients = [one.grad for one in tiny_model.parameters() if one.grad is not None]
    assert gradients
    assert all(torch.isfinite(one).all() for one in gradients)


def test_gradient_of_the_loss_agrees_with_finite_differences(mixture, tiny_model):
    data = packed(*mixture)
    batch, weights, square = data.batch(torch.arange(4)), Weights(1.0, 10.0, 0.0), penalty("square", 1.0)
    parameter = tiny_model.projections[0]

    def loss() -> torch.Tensor:
        return loss_terms(tiny_model, batch, weights, square, True)[0]

    loss().backward()
    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[0, 0] += sign * step
        values.append(loss().item())
        with torch.no_grad():
            parameter[0, 0] -= sign * step
    # central differences in float64: truncation of order step² relative to the curvature
    assert parameter.grad[0, 0].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(("kind", "value"), [("square", 0.25), ("mae", 0.5), ("huber", 0.9)])
def test_penalties(kind, value):
    # huber with delta 0.1 at 0.5: 2/0.1 · 0.1 · (0.5 - 0.05)
    assert penalty(kind, 0.1)(torch.tensor([0.5, -0.5])).tolist() == pytest.approx([value, value])


def ancestors(sizes: dict[str, int]) -> list[Atoms]:
    structures = []
    for name, size in sizes.items():
        for index in range(size):
            atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * len(structures)]])
            atoms.info.update(ancestor=name, number=index)
            structures.append(atoms)
    return structures


def test_split_takes_whole_ancestors():
    found = split(ancestors({"a": 3, "b": 3, "c": 3, "d": 3}), 6, seed=0)
    names = [{atoms.info["ancestor"] for atoms in part} for part in (found.train, found.validation)]
    assert names[0].isdisjoint(names[1])
    assert len(found.validation) == 6


def test_split_of_one_ancestor_is_by_frame_and_says_so():
    found = split(ancestors({"a": 10}), 0.2, seed=0)
    assert (len(found.train), len(found.validation)) == (8, 2)
    assert "by frame" in found.warnings[0]


def test_split_depends_on_content_not_on_order():
    structures = ancestors({"a": 10})
    ends = [
        [atoms.positions[1, 2] for atoms in split(order, 3, seed=4).validation]
        for order in (structures, structures[::-1])
    ]
    assert ends[0] == ends[1]


def test_isolated_atoms_are_recovered_by_least_squares():
    true = {"C": -1000.0, "H": -13.0, "O": -2000.0}
    structures = [molecule("H2O"), molecule("CH4"), molecule("CO2"), molecule("CH3CH2OH")]
    labels = [Labels(sum(true[s] for s in atoms.symbols), None, None) for atoms in structures]
    energies, warning = fit_isolated_atoms(structures, labels, ELEMENTS)
    assert energies == pytest.approx(true)
    assert "underdetermined" not in warning


def test_underdetermined_isolated_atoms_say_so_and_keep_the_total():
    water = molecule("H2O")
    energies, warning = fit_isolated_atoms([water] * 3, [Labels(-10.0, None, None)] * 3, ["H", "O"])
    assert 2 * energies["H"] + energies["O"] == pytest.approx(-10.0)
    assert "underdetermined, rank 1 of 2" in warning


def test_a_share_of_few_structures_is_one_of_them():
    assert len(split(ancestors({"a": 5}), 0.05, seed=1).validation) == 1
    assert len(split(ancestors({"a": 1}), 0.05, seed=1).validation) == 0


def test_the_only_structures_of_an_element_are_learnt_not_validated_on():
    structures = [*ancestors({"a": 9}), molecule("CO2")]
    for seed in range(10):
        found = split(structures, 5, seed)
        assert "O" in {symbol for atoms in found.train for symbol in atoms.symbols}
        assert len(found.train) + len(found.validation) == 10


def test_isolated_atoms_with_two_energies_are_refused(tmp_path):
    atoms = [Atoms("H", info={"REF_energy": value}) for value in (-1.0, -2.0)]
    write_structures(tmp_path / "atoms.xyz", atoms)
    with pytest.raises(InputError, match="two different energies for H"):
        read_isolated_atoms(tmp_path / "atoms.xyz")


def test_scale_is_the_force_rms_else_the_spread_of_energies():
    atoms = [molecule("H2")] * 2
    forces = np.full((2, 3), 2.0)
    isolated = {"H": 0.0}
    assert label_scale(atoms, [Labels(0.0, forces, None)] * 2, isolated) == pytest.approx(2.0)
    energies = [Labels(0.0, None, None), Labels(4.0, None, None)]
    assert label_scale(atoms, energies, isolated) == pytest.approx(1.0)


def test_cosine_rises_then_falls_to_its_floor():
    config = TrainingConfig(learning_rate=0.1, warmup_steps=9, final_learning_rate=0.01)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.01)
    assert learning_rate(config, 500, 0.5) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert learning_rate(config, 1000, 1.0) == pytest.approx(0.001)


def test_final_stage_changes_the_weights():
    config = TrainingConfig(final_stage=FinalStage(fraction=0.25, energy_weight=5, forces_weight=2))
    assert stage_weights(config, 0.74, False) == (config.energy_weight, config.forces_weight, 0.0)
    assert stage_weights(config, 0.75, True) == (5, 2, config.stress_weight)


@given(energy=st.floats(0, 1e3), forces=st.floats(0, 1e3))
def test_final_stage_left_open_keeps_the_terms_that_are_off(energy, forces):
    config = TrainingConfig(energy_weight=energy, forces_weight=forces)
    assert stage_weights(config, 1.0, False) == pytest.approx((10 * energy, forces / 10, 0.0))


def test_final_stage_of_the_default_weights():
    assert stage_weights(TrainingConfig(), 1.0, False) == (10.0, 1.0, 0.0)


def test_epochs_that_were_not_validated_end_no_training():
    config, plateau = TrainingConfig(patience=5), Plateau()
    assert not plateau.exhausted(config)
    plateau.see(1.0, 8, config)
    assert not plateau.exhausted(config)  # though five epochs have passed since the first
    plateau.see(2.0, 12, config)
    assert not plateau.exhausted(config)
    plateau.see(2.0, 13, config)
    assert plateau.exhausted(config)


def test_plateau_lowers_the_rate_once_per_patience():
    config = TrainingConfig(schedule="plateau", plateau_patience=3, plateau_factor=0.5)
    plateau = Plateau()
    for epoch in range(1, 9):
        plateau.see(1.0, epoch, config)
    assert plateau.factor == 0.25


def test_metrics_forget_epochs_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    metrics = MetricsFile(path, epochs_done=2)
    metrics.append({"epoch": 3, "loss": 0.5})
    metrics.close()
    assert read_metrics(path) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "loss": 0.5}]


def test_checkpoint_keeps_every_bit(tmp_path):
    tensors = {"a": torch.tensor([0.1, -0.0, math.pi, 1e-42]), "step": torch.tensor(3.0)}
    save_checkpoint(tmp_path / "state", tensors, {"best": 0.1 + 0.2})
    found, state = load_checkpoint(tmp_path / "state", CPU)
    assert all(
        torch.equal(found[name].view(torch.int32), one.view(torch.int32)) for name, one in tensors.items()
    )
    assert state == {"best": 0.1 + 0.2}
