"""Pretraining on a cheap teacher: what is sampled, what it is worth, how it resumes, what it refuses."""

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import gace
from gace.config import parse_config
from gace.errors import InputError
from gace.structures.io import labels_of, read_structures, set_labels, write_structures
from gace.training.config import TrainConfig
from gace.training.pretraining.config import Pretraining
from gace.training.pretraining.run import pretrained
from gace.training.pretraining.sampling import keep_plan, make_walk, plan_walks, sample
from gace.training.run import train

SMALL = {"channels": 8, "l_max": [2], "order": 2, "radial_hidden": [8], "densities": 2, "readout_hidden": 4}

QUICK = {"training": {"max_steps": 5}, "pretraining": {"training": {"max_steps": 20}}}


def alloy(n: int, seed: int) -> list[Atoms]:
    """Rattled copper-gold cells whose labels are EMT's, a tenth stronger: another level of theory."""
    rng = np.random.default_rng(seed)
    structures = []
    for index in range(n):
        atoms = bulk("Cu", cubic=True, a=3.8)
        atoms.symbols[index % 4] = "Au"
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        structures.append(
            set_labels(atoms, 1.1 * atoms.get_potential_energy(), 1.1 * atoms.get_forces(), None)
        )
    return structures


@pytest.fixture
def configure(tmp_path):
    """A function that writes data and returns a configuration, its sections updated by keyword."""
    write_structures(tmp_path / "train.xyz", alloy(2, 1))
    write_structures(tmp_path / "test.xyz", alloy(16, 2))

    def make(**sections):
        config = {
            "data": {"train": str(tmp_path / "train.xyz"), "isolated_atoms": {"Cu": 3.5, "Au": 3.8}},
            "potential": {"preset": "1L-small", "cutoff": 4.0, "overrides": SMALL},
            "training": {"max_steps": 60, "batch_size": 4, "final_stage": None},
            "pretraining": {
                "teacher": {"calculator": "emt"},
                "structures": 100,
                "samples_per_walk": 10,
                "temperature": {"lowest": 300, "highest": 900},
                "training": {"max_steps": 900, "learning_rate": 0.1},
            },
        }
        for name, section in sections.items():
            config[name] = None if section is None else {**config[name], **section}
        return config

    return make


def test_what_the_teacher_knows_makes_few_labels_enough(configure, tmp_path):
    test = read_structures(tmp_path / "test.xyz")
    errors = []
    for name, sections in (("with", {}), ("without", {"pretraining": None, "training": {"max_steps": 600}})):
        result = train(configure(**sections), tmp_path / name, progress=False)
        errors.append(gace.evaluate(gace.load(result.bundle), test)["forces"]["mae"])
    assert errors[0] < 0.5 * errors[1]


def test_bundle_and_folder_say_what_was_learnt_from_whom(configure, tmp_path):
    result = train(configure(**QUICK), tmp_path / "run", progress=False)
    told = gace.load(result.bundle).metadata["pretraining"]
    assert told["teacher"] == {"calculator": "emt"}
    assert told["structures"] == 100
    assert told["forces_mae_held_out"] > 0
    assert "pretraining: teacher calculator emt" in (result.bundle / "MODEL_CARD.md").read_text()
    left = gace.config.read_yaml(tmp_path / "run" / "config.yaml")
    assert left["pretraining"]["teacher"]["calculator"] == "emt"
    assert left["potential"]["start_from"] is None  # or this configuration could not be run again
    assert left["training"]["learning_rate"] == 0.015


def test_a_repeated_run_asks_the_teacher_nothing(configure, tmp_path, monkeypatch):
    first = train(configure(**QUICK), tmp_path / "run", progress=False)
    (tmp_path / "run" / "summary.json").unlink()  # as if killed in the last moment
    monkeypatch.setattr(
        "gace.training.pretraining.sampling.make_walk", lambda *_: pytest.fail("a walk was made twice")
    )
    second = train(configure(**QUICK), tmp_path / "run", progress=False)
    assert gace.load(second.bundle).metadata["errors"] == gace.load(first.bundle).metadata["errors"]


def test_walks_depend_on_seed_and_structures_alone(tmp_path):
    config = Pretraining(teacher={"calculator": "emt"}, structures=12, samples_per_walk=4, sample_every=2)
    starts = alloy(4, 1)
    relabelled = [set_labels(one.copy(), 0.0, np.zeros((4, 3)), None) for one in reversed(starts)]
    made = {}
    for name, structures, processes, seed in (
        ("first", starts, 1, 1),
        ("processes", starts, 2, 1),
        ("labels", relabelled, 1, 1),
        ("seed", starts, 1, 2),
    ):
        settings = config.model_copy(update={"processes": processes})
        files = sample(plan_walks(structures, settings, seed, tmp_path / name), settings, lambda done: None)
        made[name] = [file.read_bytes() for file in files]
    assert len(made["first"]) == 3
    assert made["processes"] == made["first"]
    assert made["labels"] == made["first"]
    assert made["seed"] != made["first"]


def test_killed_sampling_goes_on_with_the_missing_walks(tmp_path):
    config = Pretraining(teacher={"calculator": "emt"}, structures=12, samples_per_walk=4, sample_every=2)
    walks = plan_walks(alloy(4, 1), config, 1, tmp_path / "walks")
    before = [file.read_bytes() for file in sample(walks, config, lambda done: None)]
    walks[1].file.unlink()
    kept = walks[0].file.stat().st_mtime_ns
    seen = []
    files = sample(walks, config, seen.append)
    assert [file.read_bytes() for file in files] == before
    assert walks[0].file.stat().st_mtime_ns == kept
    assert seen == [2, 3]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"teacher": {"calculator": "lj"}}, "teacher"),
        ({"temperature": {"lowest": 100, "highest": 200}}, "temperature"),
        ({"timestep": 0.5}, "timestep"),
    ],
)
def test_walks_of_another_sampling_are_not_gone_on_with(tmp_path, changed, named):
    config = Pretraining(teacher={"calculator": "emt"}, structures=4)
    keep_plan(alloy(2, 1), config, 1, tmp_path / "walks")
    (tmp_path / "walks" / "walk-00000.xyz").touch()
    keep_plan(alloy(2, 1), config.model_copy(update={"structures": 8, "processes": 2}), 1, tmp_path / "walks")
    other = Pretraining(**{**config.model_dump(), **changed})
    with pytest.raises(InputError, match=rf"another pretraining \({named} differ"):
        keep_plan(alloy(2, 1), other, 1, tmp_path / "walks")
    with pytest.raises(InputError, match="seed"):
        keep_plan(alloy(2, 1), config, 2, tmp_path / "walks")
    with pytest.raises(InputError, match="starts"):
        keep_plan(alloy(2, 3), config, 1, tmp_path / "walks")


def test_an_interrupted_pretraining_refuses_another_teacher(configure, tmp_path, monkeypatch):
    def interrupted(walk, config):
        if walk.file.name != "walk-00000.xyz":
            raise KeyboardInterrupt
        make_walk(walk, config)

    config = configure(**QUICK)
    config["pretraining"]["teacher"] = {"calculator": "nonsense"}
    with pytest.raises(InputError, match="no calculator called"):
        train(config, tmp_path / "run", progress=False)
    # a teacher that could not begin does not stand in the way of the right one
    with monkeypatch.context() as patch:
        patch.setattr("gace.training.pretraining.sampling.make_walk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(configure(**QUICK), tmp_path / "run", progress=False)
    config["pretraining"]["teacher"] = {"calculator": "lj"}
    with pytest.raises(InputError, match="walks of another pretraining"):
        train(config, tmp_path / "run", progress=False)


def test_the_clock_of_the_labels_starts_after_the_pretraining(configure, tmp_path, monkeypatch):
    begun, late, clock = time.monotonic(), [0.0], time.monotonic

    def an_hour_later(*args, **kwargs):
        found = pretrained(*args, **kwargs)
        late[0] = 3600.0
        return found

    monkeypatch.setattr("gace.training.run.pretrained", an_hour_later)
    monkeypatch.setattr("time.monotonic", lambda: clock() + late[0])
    config = configure(training={"max_minutes": 30.0, "max_steps": 5}, pretraining=QUICK["pretraining"])
    result = train(config, tmp_path / "run", progress=False)
    assert (result.steps, result.ending) == (5, "completed")
    assert result.seconds <= clock() - begun


def test_samples_carry_the_teachers_labels_and_their_walk(tmp_path):
    config = Pretraining(teacher={"calculator": "emt"}, structures=6, samples_per_walk=3)
    starts = alloy(2, 1)
    starts[0].info["charge"] = 1
    files = sample(plan_walks(starts, config, 1, tmp_path), config, lambda done: None)
    for file in files:
        for atoms in read_structures(file):
            label = labels_of(atoms)
            atoms.calc = EMT()
            assert label.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            # positions are written with eight digits
            assert label.forces == pytest.approx(atoms.get_forces(), abs=1e-5)
            assert label.stress == pytest.approx(atoms.get_stress(voigt=False), abs=1e-6)
            assert atoms.info["ancestor"] == file.stem
    assert {one.info.get("charge") for file in files for one in read_structures(file)} == {1, None}


def test_a_walk_ends_before_forces_that_no_label_should_have(tmp_path):
    config = Pretraining(teacher={"calculator": "emt"}, structures=3, samples_per_walk=3, max_force=1e-4)
    walks = plan_walks(alloy(1, 1), config, 1, tmp_path)
    with pytest.raises(InputError, match=r"no walk gave a sample.*max_force"):
        sample(walks, config, lambda done: None)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"potential": {"start_from": "somewhere"}}, "exclude each other"),
        (
            {"pretraining": {"teacher": {"calculator": "emd"}}},
            "called 'emd'; did you mean 'emt'",
        ),
        ({"pretraining": {"training": {"max_step": 3}}}, "pretraining.training: unknown key 'max_step'"),
        ({"potential": {"preset": "linear-small", "overrides": {}}}, "a linear model has no use"),
        (
            {"pretraining": {"temperature": {"lowest": 900, "highest": 300}}},
            "highest must not be below lowest",
        ),
    ],
)
def test_wrong_input_is_refused_before_anything_is_computed(configure, tmp_path, sections, message):
    with pytest.raises(InputError, match=message):
        train(configure(**sections), tmp_path / "run", progress=False)
    assert not list(tmp_path.glob("run/**/*.xyz"))


def test_a_teacher_that_does_not_know_the_elements_says_so(tmp_path):
    config = Pretraining(teacher={"calculator": "emt"}, structures=2)
    with pytest.raises(InputError, match=r"'emt' cannot compute H.*F"):
        sample(plan_walks([molecule("HF")], config, 1, tmp_path), config, lambda done: None)


def test_rates_time_and_patience_of_the_real_labels_are_not_inherited(configure):
    from gace.training.pretraining.run import own_config

    training = {"learning_rate": 0.001, "max_minutes": 1.0, "patience": 3, "batch_size": 2}
    section = {"training": {"max_steps": 7}}
    config = parse_config(configure(training=training, pretraining=section), TrainConfig)
    own = own_config(config, []).training
    assert (own.learning_rate, own.max_minutes, own.patience) == (0.1, None, None)
    assert (own.batch_size, own.max_steps) == (2, 7)


def linear_teacher(**kwargs):
    return {"teacher": {"calculator": "linear-ace", "kwargs": kwargs}}


def test_a_linear_ace_fitted_to_the_labels_teaches(configure, tmp_path):
    teacher = linear_teacher(overrides={"size": 30}, least_squares={"energy_weight": 20.0})
    sections = {**QUICK, "pretraining": {**QUICK["pretraining"], **teacher, "structures": 20}}
    config = configure(**sections)
    result = train(config, tmp_path / "run", progress=False)
    fitted = gace.load(tmp_path / "run/pretraining/teacher/potential")
    assert fitted.metadata["least_squares"]["ridge"] > 0
    samples = read_structures(next((tmp_path / "run/pretraining/walks").glob("*.xyz")))
    calculator = fitted.calculator(uncertainty=False)
    for atoms in samples[:3]:
        label, again = labels_of(atoms), atoms.copy()
        again.calc = calculator
        # eight decimals in the file
        assert again.get_potential_energy() == pytest.approx(label.energy, abs=1e-6)
        assert np.allclose(again.get_forces(), label.forces, atol=1e-6)
    assert gace.load(result.bundle).metadata["pretraining"]["teacher"]["calculator"] == "linear-ace"
    assert train(config, tmp_path / "run", progress=False).metrics == result.metrics


@pytest.mark.parametrize(
    ("kwargs", "cause"),
    [({"preset": "2L-small"}, "'2L-small' is not linear"), ({"presets": "linear-small"}, "presets")],
)
def test_a_linear_teacher_that_is_none_is_an_input_error(configure, tmp_path, kwargs, cause):
    with pytest.raises(InputError, match=cause):
        train(configure(pretraining=linear_teacher(**kwargs)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run/pretraining/teacher").exists()


def test_bundle_of_a_teacher_is_found_beside_the_file(configure, tmp_path):
    config = configure(pretraining={"teacher": {"calculator": "gace", "kwargs": {"bundle": "potential"}}})
    found = parse_config(config, TrainConfig).relative_to(tmp_path)
    assert found.pretraining.teacher.kwargs == {"bundle": str(tmp_path / "potential")}
