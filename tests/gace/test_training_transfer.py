"""Going on from an earlier potential, the learning-rate sweep, the learning curve, and blame."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from click.testing import CliRunner

import gace
from gace.commands.train import command
from gace.errors import InputError, TrainingDivergedError
from gace.structures.io import set_labels, write_structures
from gace.structures.neighbours import build_graph
from gace.training import rate_finder
from gace.training.curve import Line, svg, table
from gace.training.rate_finder import find_learning_rate
from gace.training.run import train
from gace.training.transfer import extended, freeze

TINY = {
    "channels": 4,
    "l_max": [1, 1],
    "order": 2,
    "radial_hidden": [8],
    "densities": 2,
    "readout_hidden": 4,
}


def labelled(n, symbol="Au", seed=0):
    """Rattled copper cells with one other atom, labelled by EMT."""
    rng, found = np.random.default_rng(seed), []
    for index in range(n):
        atoms = bulk("Cu", cubic=True, a=3.7)
        atoms.symbols[index % 4] = symbol
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        one = set_labels(atoms, atoms.get_potential_energy(), atoms.get_forces())
        one.info["structure_id"] = f"{symbol}{index}"
        found.append(one)
    return found


@pytest.fixture
def config(tmp_path):
    """A function that writes data and returns a configuration."""

    def make(structures, name="train", **sections):
        write_structures(tmp_path / f"{name}.xyz", structures)
        made = {
            "data": {
                "train": str(tmp_path / f"{name}.xyz"),
                "isolated_atoms": {"Cu": 3.5, "Au": 3.8, "Ag": 2.9},
            },
            "potential": {"cutoff": 3.5, "overrides": TINY},
            "training": {"max_epochs": 3, "batch_size": 4, "compile": False},
        }
        for section, values in sections.items():
            made[section] = {**made[section], **values}
        return made

    return make


@pytest.fixture
def start(config, tmp_path):
    """The bundle of a first training."""
    return train(config(labelled(6), "first"), tmp_path / "first", progress=False).bundle


def test_extended_model_predicts_the_same_for_old_elements(make_model):
    model = make_model(elements=["Au", "Cu"])
    larger = extended(model, {"Ag": "Cu", "Pt": "mean"})
    structure = labelled(1)
    energies = [one(build_graph(structure, one.elements, one.cutoff)).energy for one in (model, larger)]
    assert larger.elements == ("Au", "Cu", "Ag", "Pt")
    assert torch.allclose(*energies, atol=1e-12)


def test_new_element_begins_as_the_one_it_copies(make_model):
    larger = extended(make_model(elements=["Au", "Cu"], core_repulsion=False), {"Ag": "Cu"})
    gold, silver = labelled(1), labelled(1)
    silver[0].symbols[:] = "Ag"
    gold[0].symbols[:] = "Cu"
    energies = [larger(build_graph(one, larger.elements, larger.cutoff)).energy for one in (gold, silver)]
    assert torch.allclose(*energies, atol=1e-12)


def test_unknown_source_of_a_new_element_is_refused(make_model):
    with pytest.raises(InputError, match="Ag cannot begin as 'Cv'"):
        extended(make_model(elements=["Au", "Cu"]), {"Ag": "Cv"})


def test_fine_tuning_learns_a_new_element(config, start, tmp_path):
    settings = {"start_from": str(start), "overrides": {}, "cutoff": None}
    with pytest.raises(InputError, match="Ag, which the start model does not know; give them"):
        train(config(labelled(6, "Ag"), potential=settings), tmp_path / "refused", progress=False)
    settings["new_elements"] = {"Ag": "Au"}
    result = train(config(labelled(6, "Ag"), potential=settings), tmp_path / "run", progress=False)
    assert gace.load(result.bundle).elements == ("Au", "Cu", "Ag")


def test_frozen_parts_keep_their_parameters(config, start, tmp_path):
    settings = {"start_from": str(start), "overrides": {}, "cutoff": None, "freeze": ["radial", "embedding"]}
    result = train(config(labelled(6, seed=1), potential=settings), tmp_path / "run", progress=False)
    before, after = (gace.load(path).members[0].state_dict() for path in (start, result.bundle))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("coefficients" in name for name in changed)
    assert not any("radial" in name or "indicator" in name for name in changed)


def test_unknown_part_to_freeze_names_the_nearest(make_model):
    with pytest.raises(InputError, match="no part 'radail'; did you mean 'radial'"):
        freeze(make_model(), ["radail"])


def test_freezing_everything_is_refused(make_model):
    with pytest.raises(InputError, match="nothing to train"):
        freeze(make_model(), ["layer.0", "layer.1", "readout", "shift"])


def test_replayed_labels_move_with_their_isolated_atoms(config, start, tmp_path):
    from gace.config import parse_config
    from gace.training.config import TrainConfig
    from gace.training.prepare import read_data

    old = labelled(4)
    write_structures(tmp_path / "old.xyz", old)
    replay = {"data": str(tmp_path / "old.xyz"), "isolated_atoms": {"Cu": 3.0, "Au": 3.0}}
    made = config(labelled(6, seed=1), data={})
    made["data"]["replay"] = replay
    data = read_data(parse_config(made, TrainConfig))
    assert (data.n_new, len(data.train)) == (6, 10)
    by_name = {one.info["structure_id"]: one.info["REF_energy"] for one in old}
    for atoms, label in zip(data.train[6:], data.train_labels[6:], strict=True):
        # three copper atoms by 0.5 eV, one gold atom by 0.8 eV
        assert label.energy == pytest.approx(by_name[atoms.info["structure_id"]] + 2.3)


def prepared(made):
    from gace.config import parse_config
    from gace.training.config import TrainConfig
    from gace.training.prepare import read_data

    return read_data(parse_config(made, TrainConfig))


def test_without_isolated_atoms_the_start_models_are_moved_by_its_errors(config, start):
    """An element that the new data lack keeps its energy; one that is off by a constant moves by that."""
    copper, potential = [bulk("Cu", cubic=True, a=a) for a in (3.6, 3.7, 3.8)], gace.load(start)
    copper = [
        set_labels(atoms, found.energy + 4 * 5.0, np.zeros((4, 3)))
        for atoms, found in zip(copper, potential.predict(copper), strict=True)
    ]
    before = potential.isolated_atom_energies
    made = config(copper, data={})
    del made["data"]["isolated_atoms"]
    made["potential"] = {"start_from": str(start)}
    data = prepared(made)
    assert data.isolated_atoms == pytest.approx({"Au": before["Au"], "Cu": before["Cu"] + 5.0}, abs=1e-3)
    assert data.isolated_atoms["Au"] == before["Au"]
    assert "the start model's" in data.warnings[0]


@pytest.mark.parametrize("given", [True, False])
def test_an_element_without_isolated_atom_energy_is_refused(config, tmp_path, given):
    write_structures(tmp_path / "silver.xyz", labelled(2, "Ag"))
    made = config(labelled(6), data={})
    made["data"]["validation"] = str(tmp_path / "silver.xyz")
    if given:
        made["data"]["isolated_atoms"] = {"Cu": 3.5, "Au": 3.8}
    else:
        del made["data"]["isolated_atoms"]
    with pytest.raises(InputError, match=r"data.validation holds Ag, for which there is no isolated-atom"):
        prepared(made)


def test_isolated_atoms_in_the_data_that_contradict_each_other_are_refused(config):
    atoms = [set_labels(Atoms("Au"), energy, None) for energy in (3.8, 3.8, 4.0)]
    made = config([*labelled(6), *atoms], data={})
    del made["data"]["isolated_atoms"]
    with pytest.raises(InputError, match=r"isolated atoms of Au with different energies"):
        prepared(made)


def test_labels_of_weight_zero_are_no_labels(config):
    structures = labelled(6)
    structures[0].info |= {"REF_energy": 1e6, "energy_weight": 0.0}
    structures[1].info["weight"] = 0.0
    data = prepared(config(structures, data={}))
    energies = [label.energy for label in data.train_labels]
    forces = [label.forces for label in data.train_labels]
    assert (energies.count(None), sum(one is None for one in forces)) == (2, 1)


def test_replay_runs_and_resumes_as_the_same_run(config, start, tmp_path):
    write_structures(tmp_path / "old.xyz", labelled(4))
    made = config(
        labelled(6, seed=1), data={}, potential={"start_from": str(start), "overrides": {}, "cutoff": None}
    )
    made["data"]["replay"] = {"data": str(tmp_path / "old.xyz"), "fraction": 0.4}
    first = train(made, tmp_path / "run", progress=False)
    assert train(made, tmp_path / "run", progress=False) == first
    made["data"]["replay"]["fraction"] = 0.2
    with pytest.raises(InputError, match=r"data\.replay\.fraction"):
        train(made, tmp_path / "run", progress=False)


def test_divergence_names_the_structure(monkeypatch, config, tmp_path):
    monkeypatch.setattr("gace.training.dataset.LARGEST_LABEL", np.inf)
    structures = labelled(6)
    structures[3].arrays["REF_forces"] = structures[3].arrays["REF_forces"] * 1e30  # overflows when squared
    with pytest.raises(TrainingDivergedError, match="not finite for structure 'Au3'"):
        train(config(structures, training={"batch_size": 6}), tmp_path / "run", progress=False)


def test_changed_weights_are_another_run(config, tmp_path):
    structures = labelled(4)
    train(config(structures), tmp_path / "run", progress=False)
    structures[0].info["weight"] = 2.0
    with pytest.raises(InputError, match=r"data\.weights"):
        train(config(structures), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "settings", [{"averaging": "swa"}, {"loss": "conditional-huber"}, {"batch_atoms": 8}]
)
def test_settings_train_to_the_end(config, tmp_path, settings):
    result = train(config(labelled(6), training=settings), tmp_path / "run", progress=False)
    assert result.ending == "completed"
    assert np.isfinite(result.metrics["train"]["forces"]["mae"])


def test_sweep_suggests_a_rate_below_the_lowest_loss(config, tmp_path):
    sweep = find_learning_rate(config(labelled(6)), tmp_path / "sweep")
    stored = json.loads((tmp_path / "sweep/learning_rates.json").read_text())
    assert stored["suggestion"] == sweep.suggestion
    assert sweep.rates[0] < sweep.suggestion < sweep.rates[int(np.argmin(sweep.losses))]
    ET.parse(tmp_path / "sweep/learning_rates.svg")


def test_command_prints_sweep_and_learning_curve(config, tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps(config(labelled(6))))
    arguments = [str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--quiet"]
    result = CliRunner().invoke(command, [*arguments, "--find-learning-rate"])
    assert "suggested: training.learning_rate" in result.output
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith("epoch  loss")
    ET.parse(tmp_path / "run/learning_curve.svg")


def test_table_ends_with_the_last_epoch():
    metrics = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in range(1, 101)]
    assert table(metrics).splitlines()[-1].split() == ["100", "0.01"]


def test_figure_survives_values_no_logarithm_has():
    figure = svg([Line("loss <&>", [1, 2, 3], [0.0, float("nan"), 2.0])], "epoch", "a curve")
    assert ET.fromstring(figure).tag.endswith("svg")


def test_training_from_disk_is_the_training_from_memory(config, tmp_path):
    made = config(labelled(6), data={})
    memory = train(made, tmp_path / "memory", progress=False)
    made["data"]["on_disk"] = True
    disk = train(made, tmp_path / "disk", progress=False)
    tensors = [gace.load(one.bundle).members[0].state_dict() for one in (memory, disk)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_no_graph_ace_goes_on_from_a_linear_one(config, tmp_path):
    linear = {"preset": "linear-small", "overrides": {"size": 20}}
    first = train(config(labelled(3), "first", potential=linear), tmp_path / "first", progress=False).bundle
    going_on = {"start_from": str(first), "overrides": {}}
    with pytest.raises(InputError, match=r"start_from: member 0 of .*first.* LinearACE"):
        train(config(labelled(3), potential=going_on), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        ({"new_elements": {"Ag": "Au"}}, "new_elements needs potential.start_from"),
        ({"preset": "linear-small", "overrides": {}, "freeze": ["radial"]}, "no use for potential.freeze"),
        (
            {"preset": "linear-small", "overrides": {}, "new_elements": {"Ag": "Au"}},
            "no use for potential.new_elements",
        ),
    ],
)
def test_keys_that_would_have_no_effect_are_refused(config, tmp_path, potential, message):
    with pytest.raises(InputError, match=message):
        train(config(labelled(3), potential=potential), tmp_path / "run", progress=False)


def test_frozen_bonding_energies_are_the_start_models(config, start, tmp_path):
    """They move to the new labels otherwise, which is no step of the optimiser."""
    found = {}
    for name, frozen in (("moved", ["radial"]), ("kept", ["shift"])):
        going_on = config(labelled(6, seed=3), potential={"start_from": str(start), "freeze": frozen})
        bundle = train(going_on, tmp_path / name, progress=False).bundle
        found[name] = gace.load(bundle).members[0].shift.detach()
    before = gace.load(start).members[0].shift.detach()
    assert torch.equal(found["kept"], before)
    assert not torch.equal(found["moved"], before)


def test_the_sweep_keeps_to_its_threads(config, tmp_path, monkeypatch):
    """As training does: a busy machine's other cores are not its own, and sums depend on their number."""
    seen, sweep = [], rate_finder._sweep
    monkeypatch.setattr(
        rate_finder, "_sweep", lambda *given: seen.append(torch.get_num_threads()) or sweep(*given)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        find_learning_rate(config(labelled(2)), tmp_path / "sweep")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]
