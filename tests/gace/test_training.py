"""One training run from file to bundle: what it leaves, what it refuses, how it resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import gace
from gace.errors import InputError, TrainingDivergedError
from gace.structures.io import read_structures, set_labels, write_structures
from gace.training.run import train

SMALL = {
    "channels": 4,
    "l_max": [1, 1],
    "order": 2,
    "radial_hidden": [8],
    "densities": 2,
    "readout_hidden": 4,
}


def labelled(n: int, seed: int = 0, periodic: bool = True) -> list[Atoms]:
    """Rattled copper-gold cells, or clusters, labelled by EMT."""
    rng = np.random.default_rng(seed)
    structures = []
    for index in range(n):
        atoms = bulk("Cu", cubic=True, a=3.7)
        atoms.symbols[index % 4] = "Au"
        atoms.set_cell(atoms.cell.array * (1 + 0.03 * rng.normal()), scale_atoms=True)
        atoms.rattle(0.08, rng=rng)
        if not periodic:
            atoms.pbc, atoms.cell = False, None
        atoms.calc = EMT()
        stress = atoms.get_stress(voigt=False) if periodic else None
        one = set_labels(atoms, atoms.get_potential_energy(), atoms.get_forces(), stress)
        one.info["structure_id"] = f"s{index}"
        structures.append(one)
    return structures


@pytest.fixture
def configure(tmp_path):
    """A function that writes data and returns a configuration, its sections updated by keyword."""

    def make(structures=None, **sections):
        write_structures(tmp_path / "train.xyz", labelled(8) if structures is None else structures)
        config = {
            "data": {"train": str(tmp_path / "train.xyz"), "isolated_atoms": {"Cu": 3.5, "Au": 3.8}},
            "potential": {"preset": "2L-small", "cutoff": 3.5, "overrides": SMALL},
            "training": {"max_epochs": 4, "batch_size": 3, "checkpoint_seconds": 0},
            "seed": 7,
        }
        for section, values in sections.items():
            config[section] = {**config[section], **values} if isinstance(values, dict) else values
        return config

    return make


def contents(out: Path) -> dict[str, bytes]:
    """The files that decide whether two runs are the same, bit for bit."""
    files = [out / "metrics.jsonl", *(out / "potential").iterdir()]
    return {file.name: file.read_bytes() for file in files}


def test_leaves_bundle_metrics_config_and_summary(configure, tmp_path):
    result = train(configure(data={"validation": 2}), tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert (result.n_train, result.n_validation, result.ending) == (6, 2, "completed")
    used = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert used["potential"]["elements"] == ["Au", "Cu"]
    assert gace.load(result.bundle).metadata["dataset_hash"] == result.dataset_hash


def test_summary_reports_the_errors_of_the_bundle(configure, tmp_path):
    structures = labelled(6)
    result = train(configure(structures), tmp_path / "run", progress=False)
    predictions = gace.load(result.bundle).predict(structures)
    forces = np.concatenate(
        [p.forces - s.arrays["REF_forces"] for p, s in zip(predictions, structures, strict=True)]
    )
    stress = [p.stress - s.info["REF_stress"] for p, s in zip(predictions, structures, strict=True)]
    # float32 in training, float64 in prediction
    assert result.metrics["train"]["forces"]["mae"] == pytest.approx(1e3 * np.abs(forces).mean(), rel=1e-4)
    assert result.metrics["train"]["stress"]["mae"] == pytest.approx(1e3 * np.abs(stress).mean(), rel=1e-3)


def test_training_lowers_all_three_errors(configure, tmp_path):
    few = train(configure(training={"max_epochs": 1}), tmp_path / "few", progress=False).metrics["train"]
    many = train(configure(training={"max_epochs": 60}), tmp_path / "many", progress=False).metrics["train"]
    for quantity in ("energy_per_atom", "forces", "stress"):
        assert many[quantity]["rmse"] < 0.5 * few[quantity]["rmse"]


def test_order_of_the_file_does_not_matter(configure, tmp_path):
    structures = labelled(7)
    train(configure(structures, data={"validation": 2}), tmp_path / "a", progress=False)
    train(configure(structures[::-1], data={"validation": 2}), tmp_path / "b", progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_finished_run_is_not_repeated(configure, tmp_path):
    config = configure()
    first = train(config, tmp_path / "run", progress=False)
    before = (tmp_path / "run/potential/model.safetensors").stat().st_mtime_ns
    assert train(config, tmp_path / "run", progress=False) == first
    assert (tmp_path / "run/potential/model.safetensors").stat().st_mtime_ns == before


def test_another_configuration_in_the_same_folder_is_refused(configure, tmp_path):
    train(configure(), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match=r"training\.learning_rate = 0\.1, now 0\.01"):
        train(configure(training={"learning_rate": 0.01}), tmp_path / "run", progress=False)


def test_runs_begun_before_matmul_could_be_chosen_go_on(configure, tmp_path):
    """Their identity does not name it; another precision is another run."""
    train(configure(), tmp_path / "run", progress=False)
    assert "matmul" not in json.loads((tmp_path / "run/summary.json").read_text())["fingerprint"]["training"]
    with pytest.raises(InputError, match=r"training\.matmul = None, now tf32"):
        train(configure(training={"matmul": "tf32"}), tmp_path / "run", progress=False)


def test_other_data_in_the_same_folder_are_refused(configure, tmp_path):
    train(configure(), tmp_path / "run", progress=False)
    with pytest.raises(InputError, match=r"other data \(data\.train\)"):
        train(configure(labelled(8, seed=1)), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "settings",
    [{}, {"schedule": "plateau", "plateau_patience": 1, "amsgrad": False}, {"optimizer": "muon"}],
    ids=["as it is", "plateau", "muon"],
)
def test_killed_runs_end_like_an_uninterrupted_one(configure, tmp_path, settings):
    config = configure(data={"validation": 2}, training={"max_epochs": 40, **settings})
    train(config, tmp_path / "whole", progress=False)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "gace.cli", "train", tmp_path / "config.yaml", "--out", out, "--quiet"]
    # the moments are random, the outcome must not be
    for epochs in np.sort(np.random.default_rng().integers(1, 38, size=2)):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wait_for_epochs(out / "metrics.jsonl", int(epochs), process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    train(config, out, progress=False)
    assert contents(out) == contents(tmp_path / "whole")


def wait_for_epochs(path: Path, epochs: int, process: subprocess.Popen) -> None:
    """Wait until a metrics file has so many lines."""
    for _ in range(6000):
        if path.exists() and len(path.read_bytes().splitlines()) >= epochs:
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError("the run recorded no epochs")


def test_sigterm_saves_and_the_run_goes_on(configure, tmp_path):
    config = configure(training={"max_epochs": 100000, "checkpoint_seconds": 1000, "compile": False})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "gace.cli", "train", "config.yaml", "--out", "run", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for_epochs(tmp_path / "run/metrics.jsonl", 0, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1
    assert (tmp_path / "run/checkpoint/state.safetensors").exists()
    assert not (tmp_path / "run/summary.json").exists()


def test_damaged_checkpoint_is_refused(configure, tmp_path):
    config = configure()
    (tmp_path / "run/checkpoint").mkdir(parents=True)
    (tmp_path / "run/checkpoint/state.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match="is damaged"):
        train(config, tmp_path / "run", progress=False)


def test_minutes_end_a_run(configure, tmp_path):
    config = configure(training={"max_epochs": 10**6, "max_minutes": 0.02})
    assert train(config, tmp_path / "run", progress=False).ending == "max_minutes"


def test_early_stopping_ends_a_run(configure, tmp_path):
    # a learning rate this small makes no progress that float32 could show
    settings = {"max_epochs": 500, "patience": 3, "learning_rate": 1e-12, "schedule": "constant"}
    config = configure(data={"validation": 2}, training=settings)
    result = train(config, tmp_path / "run", progress=False)
    assert (result.ending, result.epochs < 100) == ("early_stopping", True)


def test_divergence_names_the_structures(configure, tmp_path):
    settings = {"batch_size": 1, "learning_rate": 1e30, "warmup_steps": 0, "clip_norm": None}
    with pytest.raises(TrainingDivergedError, match=r"structure 's\d'"):
        train(configure(labelled(4), training=settings), tmp_path / "run", progress=False)


def test_start_from_keeps_the_parameters(configure, tmp_path):
    first = train(configure(), tmp_path / "first", progress=False)
    config = configure(
        potential={"start_from": str(first.bundle), "preset": None, "cutoff": None, "overrides": {}},
        training={"max_epochs": 1, "learning_rate": 1e-9},
    )
    second = train(config, tmp_path / "second", progress=False)
    structure = labelled(1, seed=5)
    a, b = (gace.load(one.bundle).predict(structure)[0].forces for one in (first, second))
    # one step of 1e-9 from parameters rounded to float32
    assert np.allclose(a, b, atol=1e-4)


def test_start_from_moves_to_another_level_of_theory(configure, tmp_path):
    first = train(configure(training={"max_epochs": 20}), tmp_path / "first", progress=False)
    structures = labelled(8)
    for atoms in structures:
        atoms.info["REF_energy"] += 2.5 * atoms.symbols.count("Au") - 1.5 * atoms.symbols.count("Cu")
    config = configure(
        structures,
        potential={"start_from": str(first.bundle), "preset": None, "cutoff": None, "overrides": {}},
        training={"max_epochs": 1, "learning_rate": 1e-9},
    )
    second = train(config, tmp_path / "second", progress=False)
    # the shift is fitted: as good as before without a step worth the name
    before, after = (one.metrics["train"]["energy_per_atom"]["rmse"] for one in (first, second))
    assert after <= 1.1 * before


def test_learning_rate_is_lower_for_a_model_that_goes_on(configure, tmp_path):
    first = train(configure(), tmp_path / "first", progress=False)
    train(configure(potential={"start_from": str(first.bundle)}), tmp_path / "second", progress=False)
    rates = [
        yaml.safe_load((tmp_path / name / "config.yaml").read_text())["training"]["learning_rate"]
        for name in ("first", "second")
    ]
    assert rates[1] < rates[0]


def test_start_from_refuses_new_elements(configure, tmp_path):
    first = train(configure(), tmp_path / "first", progress=False)
    structures = labelled(2)
    structures[0].symbols[0] = "Ag"
    with pytest.raises(InputError, match="hold Ag, which the start model does not know"):
        train(
            configure(structures, potential={"start_from": str(first.bundle)}), tmp_path / "b", progress=False
        )


def test_start_from_refuses_another_architecture(configure, tmp_path):
    first = train(configure(), tmp_path / "first", progress=False)
    other = {"start_from": str(first.bundle), "overrides": {**SMALL, "channels": 8}}
    with pytest.raises(InputError, match="channels 4, the configuration asks for 8"):
        train(configure(potential=other), tmp_path / "b", progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"train": "absent.xyz"}}, "no such file"),
        ({"data": {"isolated_atoms": {"Cu": 1.0}}}, "no energy for Au"),
        ({"data": {"isolated_atoms": {"Xx": 1.0}}}, "no element 'Xx'"),
        ({"data": {"validation": 8}}, "none left to train on"),
        ({"data": {"validation": 1.5}}, "a fraction lies between 0 and 1"),
        ({"potential": {"preset": "2L-smal"}}, "did you mean '2L-small'"),
        ({"potential": {"overrides": {"chanels": 4}}}, "did you mean 'channels'"),
        ({"potential": {"elements": ["Cu"]}}, "hold Au"),
        ({"training": {"max_epoch": 4}}, "did you mean 'max_epochs'"),
        ({"training": {"learning_rate": -1}}, "greater than 0"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(configure, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        train(configure(**change), tmp_path / "run", progress=False)
    assert not (tmp_path / "run/checkpoint").exists()


def test_unlabelled_structure_is_refused(configure, tmp_path):
    structures = labelled(3)
    structures[1] = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])
    with pytest.raises(InputError, match=r"frame 1 .* has neither REF_energy nor REF_forces"):
        train(configure(structures), tmp_path / "run", progress=False)


def test_folder_that_is_a_file_is_refused(configure, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot write into"):
        train(configure(), tmp_path / "run", progress=False)


def test_command_prints_one_json_object(configure, tmp_path):
    from click.testing import CliRunner

    from gace.commands.train import command

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configure()))
    arguments = [
        str(tmp_path / "config.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--set",
        "training.max_epochs=2",
    ]
    outcome = CliRunner().invoke(command, [*arguments, "--quiet", "--json"], catch_exceptions=False)
    assert json.loads(outcome.stdout.splitlines()[-1])["epochs"] == 2


def test_example_trains(tmp_path):
    example = Path(__file__).parents[2] / "examples/train"
    config = yaml.safe_load((example / "ethanol.yaml").read_text())
    config["data"]["train"] = str(example / "ethanol.xyz")
    config["training"]["max_epochs"] = 2
    result = train(config, tmp_path / "run", progress=False)
    assert result.n_train + result.n_validation == len(read_structures(example / "ethanol.xyz"))


def test_a_finished_run_without_its_bundle_is_no_result(configure, tmp_path):
    config = configure()
    bundle = train(config, tmp_path / "run", progress=False).bundle
    bundle.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"finished run whose .*potential is gone: delete .*run"):
        train(config, tmp_path / "run", progress=False)


def test_patience_with_the_training_loss_begins_anew_with_a_stage(configure, tmp_path):
    """A thousandfold weight makes a larger loss, which is no lack of progress."""
    stages = [{"fraction": 0.5}, {"fraction": 0.5, "energy_weight": 1e6}]
    training = {"max_epochs": 24, "batch_size": 8, "patience": 4, "stages": stages, "learning_rate": 0.01}
    result = train(configure(training=training), tmp_path / "run", progress=False)
    assert (result.ending, result.epochs) == ("completed", 24)


@pytest.mark.parametrize("damage", ["[]", "{}", '"finished"', "null", "epochs", "fingerprint"])
def test_a_damaged_summary_is_named(configure, tmp_path, damage):
    config, out = configure(), tmp_path / "run"
    train(config, out, progress=False)
    summary = json.loads((out / "summary.json").read_text())
    text = damage if damage not in summary else json.dumps({**summary, damage: "many"})
    (out / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"is (damaged|not a summary).*: delete .*run to train it again"):
        train(config, out, progress=False)
    assert (out / "potential").is_dir()
