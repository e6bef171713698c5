"""Commands that look after a label store: retry, quarantine, import, ladder."""

import json

import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from click.testing import CliRunner

from gace.errors import InputError
from gace.structures.io import read_structures, set_labels, write_structures
from gace_platform.labelling.command import command
from gace_platform.labelling.config import load_label_config
from gace_platform.labelling.engines.base import make_engine
from gace_platform.labelling.verdicts import make_request
from gace_platform.ledger import LabelStore


def chain(length):
    return Atoms(f"Ar{length}", positions=[[1.1 * number, 0.0, 0.0] for number in range(length)])


def invoke(*arguments):
    """Run a command; its result and, where it printed one, its JSON summary."""
    result = CliRunner().invoke(command, [str(one) for one in arguments])
    last = result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""
    return result, json.loads(last) if last.startswith("{") else None


@pytest.fixture
def batch(tmp_path):
    """A batch of one that works and one whose field does not converge, labelled: its configuration."""
    write_structures(tmp_path / "pool.xyz", [molecule("H2O"), molecule("CH3CH2OH")])
    config = tmp_path / "labels.yaml"
    reference = {"engine": "teacher", "calculator": "tblite", "kwargs": {"max_iterations": 3}, "version": "1"}
    content = {"reference": reference, "structures": "pool.xyz", "store": "store", "attempts": 1}
    config.write_text(yaml.safe_dump(content))
    assert invoke("run", config, "--out", tmp_path / "out", "--json")[0].exit_code == 0
    return config


def test_list_shows_only_the_failed_ones(batch):
    _, summary = invoke("list", batch.parent / "store", "--failed", "--json")
    assert summary["failed"] == len(summary["records"]) == 2
    assert all("unconverged" in row["reason"] for row in summary["records"])


def test_retried_ones_are_computed_again_and_that_is_not_paying_twice(batch):
    store = batch.parent / "store"
    _, summary = invoke("retry", store, "--class", "unconverged", "--json")
    assert len(summary["retired"]) == 2
    result, summary = invoke("run", batch, "--out", batch.parent / "again", "--set", "attempts=2", "--json")
    assert result.exit_code == 0
    assert (summary["accepted"], summary["computed"]) == (2, 2)
    assert LabelStore(store).paid_twice() == 0
    assert len(list((store / "retired").iterdir())) == 2
    _, bill = invoke("list", store, "--json")
    assert (bill["retired"], bill["lost"]) == (2, 0)
    assert bill["retired_core_seconds"] > 0


def test_what_was_killed_too_often_may_be_tried_again(tmp_path):
    write_structures(tmp_path / "pool.xyz", [chain(3)])
    config = tmp_path / "labels.yaml"
    reference = {"engine": "teacher", "calculator": "lj"}
    content = {"reference": reference, "structures": "pool.xyz", "store": "store", "max_losses": 3}
    config.write_text(yaml.safe_dump(content))
    engine = make_engine(load_label_config(config).reference)
    key = make_request(0, chain(3), engine, engine.settings()).key
    store = LabelStore(tmp_path / "store")
    for number in range(3):  # what kills of the whole command leave behind
        store.journal.append("started", key, run=f"host:{number}")
    _, summary = invoke("run", config, "--out", tmp_path / "out", "--json")
    assert (summary["accepted"], summary["quarantined"]) == (0, 1)
    _, summary = invoke("retry", tmp_path / "store", "--class", "killed", "--json")
    assert summary["retired"] == [key]
    _, summary = invoke("run", config, "--out", tmp_path / "out", "--json")
    assert (summary["accepted"], summary["quarantined"]) == (1, 0)
    # the bill keeps them
    assert [loss["retired"] for loss in store.lost()] == [True] * 3


def test_an_accepted_label_is_not_retried(batch):
    store = batch.parent / "store"
    invoke("retry", store, "--all")
    invoke("run", batch, "--out", batch.parent / "again", "--set", "attempts=2")
    key = LabelStore(store).keys()[0]
    result, _ = invoke("retry", store, key)
    assert result.exit_code != 0
    assert "quarantine it first" in str(result.exception)


def test_ladder_tells_what_helped(batch):
    store = batch.parent / "store"
    invoke("retry", store, "--all")
    invoke("run", batch, "--out", batch.parent / "again", "--set", "attempts=2")
    _, summary = invoke("ladder", store, "--json")
    assert summary["failures"] == {"unconverged": 2}
    (row,) = summary["remedies"]
    assert (row["remedy"], row["tried"], row["helped"]) == ("more iterations", 2, 2)


@pytest.fixture
def finished(tmp_path):
    """A store with two imported labels: the configuration of the import."""
    frames = []
    for length in (2, 3):
        atoms = chain(length)
        atoms.calc = LennardJones()
        frames.append(set_labels(atoms, atoms.get_potential_energy(), atoms.get_forces()))
    write_structures(tmp_path / "old.xyz", [*frames, chain(4)])
    config = tmp_path / "import.yaml"
    settings = {"program": "lj", "version": "1"}
    content = {"structures": "old.xyz", "store": "store", "settings": settings, "source": "a test"}
    config.write_text(yaml.safe_dump(content))
    return config


def test_import_gives_keys_and_skips_what_has_no_label(finished):
    _, summary = invoke("import", finished, "--json")
    assert (summary["structures"], summary["imported"], summary["without_label"]) == (3, 2, 1)
    records = list(LabelStore(finished.parent / "store").records())
    assert {record.key.split("-")[1] for record in records} == {summary["settings_hash"]}
    assert all(record.core_seconds == 0 and "a test" in record.evidence["source"] for record in records)


def test_importing_twice_changes_nothing(finished):
    invoke("import", finished)
    _, summary = invoke("import", finished, "--json")
    assert (summary["imported"], summary["present"], summary["conflicts"]) == (0, 2, [])
    assert LabelStore(finished.parent / "store").paid_twice() == 0


def test_a_data_base_of_ase_gives_the_keys_of_the_same_labels_in_a_file(finished):
    from ase.db import connect

    with connect(finished.parent / "old.db") as database:
        for length in (2, 3):
            atoms = chain(length)
            atoms.calc = LennardJones()
            atoms.get_forces()
            database.write(atoms)
    content = yaml.safe_load(finished.read_text())
    other = finished.with_name("db.yaml")
    other.write_text(yaml.safe_dump({**content, "structures": "old.db", "store": "from-db"}))
    for config in (finished, other):
        _, summary = invoke("import", config, "--json")
        assert summary["imported"] == 2
    stores = [LabelStore(finished.parent / name) for name in ("store", "from-db")]
    file, base = [{one.key: one for one in store.records()} for store in stores]
    assert file.keys() == base.keys()
    for key, record in file.items():
        assert record.energy == pytest.approx(base[key].energy, abs=1e-9)


def test_another_store_gives_its_labels_new_keys(finished):
    """As an earlier version's: same settings, other keys. What it holds in quarantine stays there."""
    invoke("import", finished)
    old = LabelStore(finished.parent / "store")
    first, second = old.keys()
    for key in (first, second):
        record = old.get(key)
        old.retire(key)
        old.put(record.model_copy(update={"key": "0" * 15 + key[15:]}))
    renamed = old.keys()
    assert not {first, second} & set(renamed)
    old.suspect(renamed[0], "doubtful")
    config = finished.parent / "again.yaml"
    config.write_text(yaml.safe_dump({"label_store": "store", "store": "new", "source": "the old one"}))
    _, summary = invoke("import", config, "--json")
    assert (summary["structures"], summary["imported"], summary["without_label"]) == (2, 1, 1)
    assert summary["refused"] == {renamed[0]: "doubtful"}
    new = LabelStore(finished.parent / "new")
    assert set(new.keys()) < {first, second}
    record = new.get(new.keys()[0])
    assert record.energy == old.get(renamed[1]).energy
    assert "the old one" in record.evidence["source"]


def test_a_folder_that_is_no_store_is_refused(finished):
    config = finished.parent / "again.yaml"
    config.write_text(yaml.safe_dump({"label_store": ".", "store": "new", "source": "nowhere"}))
    result, _ = invoke("import", config)
    assert isinstance(result.exception, InputError)
    assert "no label store" in str(result.exception)


def test_another_label_for_a_known_key_is_a_conflict(finished):
    invoke("import", finished)
    frames = read_structures(finished.parent / "old.xyz")
    frames[0].info["REF_energy"] += 1.0
    write_structures(finished.parent / "old.xyz", frames)
    _, summary = invoke("import", finished, "--json")
    assert len(summary["conflicts"]) == 1


def test_imported_nonsense_is_in_quarantine(finished):
    frames = read_structures(finished.parent / "old.xyz")
    frames[0].arrays["REF_forces"] += 5.0
    write_structures(finished.parent / "old.xyz", frames)
    _, summary = invoke("import", finished, "--json")
    assert (summary["imported"], summary["quarantined"]) == (1, 1)
    _, listed = invoke("list", finished.parent / "store", "--quarantined", "--json")
    assert "net force" in listed["records"][0]["reason"]


def test_quarantined_label_is_handed_to_nobody_until_released(finished):
    store = finished.parent / "store"
    invoke("import", finished)
    key = LabelStore(store).keys()[0]
    invoke("quarantine", store, key[:12], "--reason", "wrong charge")
    assert LabelStore(store).suspicion(key) == "by hand: wrong charge"
    invoke("quarantine", store, key, "--release")
    assert LabelStore(store).suspicion(key) is None


def test_quarantine_wants_a_reason(finished):
    invoke("import", finished)
    store = finished.parent / "store"
    result, _ = invoke("quarantine", store, LabelStore(store).keys()[0])
    assert "--reason" in str(result.exception)


def test_a_full_disk_stops_the_batch_and_the_next_run_pays_only_the_rest(tmp_path):
    import resource
    import subprocess
    import sys

    write_structures(tmp_path / "pool.xyz", [chain(length) for length in range(2, 12)])
    config = tmp_path / "labels.yaml"
    content = {
        "reference": {"engine": "teacher", "calculator": "lj"},
        "structures": "pool.xyz",
        "store": "store",
    }
    config.write_text(yaml.safe_dump(content))
    command_line = [
        sys.executable,
        "-m",
        "gace.cli",
        "labels",
        "run",
        str(config),
        "--out",
        str(tmp_path / "out"),
    ]

    def run(limit):
        # the limit on the size of a file stands for the space that is left
        return subprocess.run(
            [*command_line, "--json"],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    # room for a record, and in the journal for some events more
    limit = 200_000
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "journal.jsonl").write_bytes(b"\n" * (limit - 1500))
    full = run(limit)
    assert full.returncode == 1
    assert "the labels so far are stored" in full.stderr
    assert "Traceback" not in full.stderr
    roomy = run(resource.RLIM_INFINITY)
    summary = json.loads(roomy.stdout.splitlines()[-1])
    assert summary["accepted"] == 10
    assert summary["reused"] > 0
    store = LabelStore(tmp_path / "store")
    assert store.paid_twice() == 0
