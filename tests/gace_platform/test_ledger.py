"""The label store: keys, records, journal, locks."""

import json
import multiprocessing

import numpy as np
import pytest
from ase.build import bulk, molecule

from gace.errors import InputError
from gace_platform.ledger import LabelRecord, LabelStore, label_key, settings_hash, with_charge_and_spin
from gace_platform.ledger.journal import Journal
from gace_platform.ledger.store import new_run, rounded

SETTINGS = {"engine": "pyscf", "functional": "pbe", "basis": "def2svp"}


def make_record(key: str, **changes) -> LabelRecord:
    atoms = molecule("H2O")
    content = {
        "key": key,
        "run": new_run(key),
        "status": "computed",
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "charge": 0,
        "spin": 0,
        "energy": -14.25,
        "forces": np.arange(9.0).reshape(3, 3).tolist(),
        "attempts": [],
        "core_seconds": 1.5,
        "finished": 0.0,
        **changes,
    }
    return LabelRecord(**content)


def test_settings_hash_does_not_depend_on_the_order_of_keys():
    assert settings_hash(SETTINGS) == settings_hash(dict(reversed(SETTINGS.items())))


@pytest.mark.parametrize("change", [{"basis": "def2tzvp"}, {"functional": "b3lyp"}, {"conv_tol": 1e-9}])
def test_another_level_of_theory_has_another_key(change):
    atoms = molecule("H2O")
    assert label_key(atoms, SETTINGS) != label_key(atoms, {**SETTINGS, **change})


def test_charge_and_spin_enter_the_key():
    atoms = molecule("O2")
    keys = {
        label_key(with_charge_and_spin(atoms, *state), SETTINGS)
        for state in [(0, 0), (0, 2), (1, 1), (-1, 1)]
    }
    assert len(keys) == 4


def test_an_absent_charge_counts_as_zero():
    atoms = molecule("H2O")
    assert label_key(atoms, SETTINGS) == label_key(with_charge_and_spin(atoms, 0, 0), SETTINGS)


def test_a_record_comes_back_bit_for_bit(tmp_path):
    forces = rounded(np.random.default_rng(0).normal(size=(3, 3)), 7)
    record = make_record("ab12-cd34", forces=forces, energy=-14.12345678)
    LabelStore(tmp_path).put(record)
    assert LabelStore(tmp_path).get("ab12-cd34") == record


def test_an_absent_key_is_none(tmp_path):
    assert LabelStore(tmp_path).get("ab12-cd34") is None


def test_a_record_gives_back_the_labelled_structure(tmp_path):
    stress = (np.eye(3) * 0.01).tolist()
    cell = bulk("Si").cell.array.tolist()
    atoms = make_record("ab12-cd34", stress=stress, cell=cell, pbc=[True] * 3, charge=1, spin=1).atoms()
    assert atoms.info["REF_energy"] == -14.25
    assert atoms.arrays["REF_forces"][2, 2] == 8.0
    np.testing.assert_array_equal(atoms.info["REF_stress"], stress)
    assert (atoms.info["charge"], atoms.info["spin"], atoms.info["label_key"]) == (1, 1, "ab12-cd34")


def test_a_damaged_record_is_refused_with_the_remedy(tmp_path):
    store = LabelStore(tmp_path)
    store.put(make_record("ab12-cd34"))
    path = next((tmp_path / "records").glob("*/*.json"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match="remove it"):
        store.get("ab12-cd34")


def test_keys_are_listed_and_temporary_files_are_not(tmp_path):
    store = LabelStore(tmp_path)
    for key in ("bb-1", "aa-2", "aa-1"):
        store.put(make_record(key))
    (tmp_path / "records" / "aa" / ".aa-3.json").write_text("{")
    assert store.keys() == ["aa-1", "aa-2", "bb-1"]


def test_a_file_in_the_place_of_the_store_is_an_input_error(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(InputError, match="label store"):
        LabelStore(tmp_path / "store")


def test_a_torn_line_of_the_journal_swallows_no_other(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("started", "a")
    with journal.path.open("ab") as stream:
        stream.write(b'{"event": "compu')
    journal.append("reused", "b")
    assert [(entry["event"], entry["key"]) for entry in journal] == [("started", "a"), ("reused", "b")]


def append_many(path, name):
    for number in range(50):
        Journal(path).append("started", f"{name}{number}", payload="x" * 500)


def test_processes_append_whole_lines_to_one_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = path.read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 150


def test_a_key_being_computed_is_not_given_away(tmp_path):
    store = LabelStore(tmp_path)
    with store.computing("ab-1") as first, LabelStore(tmp_path).computing("ab-1", wait=False) as second:
        assert first
        assert not second
    with store.computing("ab-1", wait=False) as third:
        assert third


def test_two_finished_runs_of_one_key_are_paid_twice(tmp_path):
    store = LabelStore(tmp_path)
    for run in ("one", "two"):
        store.journal.append("started", "ab-1", run=run)
        store.journal.append("computed", "ab-1", run=run)
    store.journal.append("computed", "ab-2", run="three")
    assert store.paid_twice() == 1


def test_a_run_killed_between_record_and_journal_is_neither_lost_nor_paid_twice(tmp_path):
    store = LabelStore(tmp_path)
    record = make_record("ab-1")
    store.journal.append("started", "ab-1", run=record.run)
    store.put(record)
    assert store.lost() == []
    assert store.paid_twice() == 0


def test_a_run_that_was_started_and_never_ended_is_lost_with_its_price(tmp_path):
    store = LabelStore(tmp_path)
    store.journal.append("started", "ab-1", run="host:1:2")
    store.note_running("ab-1", "host:1:2", 3.25)
    assert [(loss["key"], loss["core_seconds"]) for loss in store.lost()] == [("ab-1", 3.25)]


def test_a_note_that_a_power_cut_left_empty_stops_nobody(tmp_path):
    """Notes are renamed into place without a flush: one is written every second."""
    store = LabelStore(tmp_path)
    store.journal.append("started", "ab-1", run="host:1:2")
    store.note_running("ab-1", "host:1:2", 3.25)
    (note,) = (tmp_path / "running").glob("*.json")
    note.write_bytes(b"")
    assert [(loss["key"], loss["core_seconds"]) for loss in store.lost()] == [("ab-1", 0.0)]


def test_only_losses_since_a_key_was_set_aside_count_against_it(tmp_path):
    store = LabelStore(tmp_path)
    record = make_record("ab-1")
    store.journal.append("started", "ab-1", run="before")
    store.journal.append("started", "ab-2", run="of another")
    store.put(record)
    store.retire("ab-1")
    store.journal.append("started", "ab-1", run="after")
    assert {loss["run"]: loss["retired"] for loss in store.lost()} == {
        "before": True,
        "of another": False,
        "after": False,
    }


def test_what_was_set_aside_stays_on_the_bill_once(tmp_path):
    store = LabelStore(tmp_path)
    first, second = make_record("ab-1"), make_record("ab-1").model_copy(update={"run": "second"})
    store.journal.append("started", "ab-1", run=first.run)  # killed between record and journal
    store.put(first)
    store.retire("ab-1")
    store.put(second)
    assert list(store.prices()) == [("ab-1", second.core_seconds), ("ab-1", first.core_seconds)]


def test_a_run_that_was_refused_is_not_lost(tmp_path):
    store = LabelStore(tmp_path)
    store.journal.append("started", "ab-1", run="host:1:2")
    store.journal.append("refused", "ab-1", run="host:1:2")
    assert store.lost() == []
    store.note_running("ab-1", "host:1:2", 3.25)  # unless something was spent; then that stays on the bill
    assert [(one["core_seconds"], one["retired"]) for one in store.lost()] == [(3.25, True)]


def test_what_aiida_ran_is_lost_only_when_it_was_refused(tmp_path):
    store = LabelStore(tmp_path)
    store.journal.append("started", "ab-1", run="aiida:1:ab", through="aiida")
    store.note_running("ab-1", "aiida:1:ab", 3.25)
    assert store.lost() == []  # a kill ends none of AiiDA's calculations
    store.journal.append("refused", "ab-1", run="aiida:1:ab", reason="No space left on device")
    assert [(one["core_seconds"], one["retired"]) for one in store.lost()] == [(3.25, True)]


def test_a_run_under_way_is_not_lost(tmp_path):
    store = LabelStore(tmp_path)
    store.journal.append("started", "ab-1", run="host:1:2")
    with store.computing("ab-1"):
        assert store.lost() == []


def test_a_lost_run_stays_lost_when_another_finishes_the_key(tmp_path):
    store = LabelStore(tmp_path)
    store.journal.append("started", "ab-1", run="killed")
    record = make_record("ab-1")
    store.journal.append("started", "ab-1", run=record.run)
    store.put(record)
    store.journal.append("computed", "ab-1", run=record.run)
    assert [loss["run"] for loss in store.lost()] == ["killed"]
    assert store.paid_twice() == 0
