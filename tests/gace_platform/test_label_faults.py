"""A batch with planted failures: nothing poisoned, nothing lost, what can be recovered is."""

import json

import numpy as np
import pytest
from ase import Atoms

from gace.randomness import generator
from gace.structures.io import write_structures
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.faults import KINDS, FaultyEngine
from gace_platform.labelling.engines.teacher import TeacherEngine
from gace_platform.labelling.run import run_labels
from gace_platform.ledger import LabelStore


def clusters(count):
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=float) * 1.2
    return [
        Atoms("Ar8", positions=grid + generator(0, number).normal(scale=0.05, size=(8, 3)))
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Forty structures, most of which meet a failure: configuration, rows of the table, store."""
    folder = tmp_path_factory.mktemp("faults")
    write_structures(folder / "pool.xyz", clusters(40))
    faults = {"fraction": 0.8, "hopeless": 0.15, "seed": 1, "scratch": folder / "lost"}
    config = LabelConfig(
        reference={"engine": "teacher", "calculator": "lj", "faults": faults},
        structures=folder / "pool.xyz",
        store=folder / "store",
        attempts=4,
        max_losses=2,
    )
    run_labels(config, folder / "out")
    rows = json.loads((folder / "out" / "labels.json").read_text())["structures"]
    return config, rows, LabelStore(folder / "store")


def test_every_kind_of_failure_was_met(batch):
    config, rows, store = batch
    engine = FaultyEngine(config.reference, config.reference.faults)
    assert {engine.fate(store.get(row["key"]).atoms())[0] for row in rows} == {None, *KINDS}


def test_no_label_is_poisoned(batch):
    config, rows, store = batch
    honest = TeacherEngine(config.reference)
    for row in rows:
        record = store.get(row["key"])
        if row["verdict"] == "accepted":
            label = honest.run(record.atoms(), 0)
            assert record.energy == pytest.approx(label.energy, abs=1e-7)
            assert np.allclose(record.forces_array(), label.forces, atol=1e-6)


def test_what_a_remedy_can_mend_is_mended_and_nothing_else(batch):
    config, rows, store = batch
    engine = FaultyEngine(config.reference, config.reference.faults)
    for row in rows:
        kind, helps = engine.fate(store.get(row["key"]).atoms())
        assert (row["verdict"] == "accepted") == (kind is None or helps is not None), kind


def test_every_structure_is_accounted_for_once(batch):
    _, rows, store = batch
    ended = [entry["key"] for entry in store.journal if entry["event"] in ("computed", "quarantined")]
    assert sorted(ended) == sorted(row["key"] for row in rows)
    assert store.paid_twice() == 0


def test_a_structure_meets_the_same_fate_whoever_asks(batch):
    config, _, _ = batch
    first, second = (FaultyEngine(config.reference, config.reference.faults) for _ in range(2))
    assert [first.fate(atoms) for atoms in clusters(40)] == [second.fate(atoms) for atoms in clusters(40)]


def test_planted_failures_are_no_part_of_the_key(batch):
    config, _, _ = batch
    plain = config.reference.model_copy(update={"faults": None})
    assert (
        FaultyEngine(config.reference, config.reference.faults).settings() == TeacherEngine(plain).settings()
    )
