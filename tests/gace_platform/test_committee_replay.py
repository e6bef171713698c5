import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import gace
from gace.config import load_config
from gace.structures.identity import dataset_hash, structure_hash
from gace.structures.io import labels_of, read_structures, set_labels, write_structures
from gace.training.config import TrainConfig
from gace.training.prepare import read_data
from gace_platform.committee.bags import draw_bags
from gace_platform.committee.config import CommitteeConfig
from gace_platform.committee.members import plan_members
from gace_platform.committee.train import train_committee

OLD_ATOM = 100.0
"""Energy of the old isolated atom, eV; the new one's is 0."""


@pytest.fixture
def replaying(tmp_path, copper_frames):
    """A committee on twelve copper cells that replays eight whose energies count from other atoms."""
    write_structures(tmp_path / "new.xyz", copper_frames)
    old = []
    for number, atoms in enumerate(copper_frames[:8]):
        labels = labels_of(atoms)
        moved = set_labels(atoms, labels.energy + OLD_ATOM * len(atoms), labels.forces)
        moved.positions[0, 0] += 1e-3 * (1 + number)  # another structure, if not by much
        old.append(moved)
    write_structures(tmp_path / "old.xyz", old)
    return CommitteeConfig(
        data={
            "train": tmp_path / "new.xyz",
            "isolated_atoms": {"Cu": 0.0},
            "replay": {"data": tmp_path / "old.xyz", "fraction": 0.4, "isolated_atoms": {"Cu": OLD_ATOM}},
        },
        potential={"preset": "1L-small", "cutoff": 4.0},
        training={"max_epochs": 1},
        committee={"members": 3, "subsample": 0.7, "together": True},
        scratch=tmp_path / "scratch",
        seed=3,
    )


def planned(config):
    data = read_data(config)
    bags = draw_bags(data.train[: data.n_new], 3, 0.7, config.seed)
    return data, bags, plan_members(config, data, bags, config.scratch)


def test_members_replay_what_the_committee_replays(replaying):
    data, bags, members = planned(replaying)
    for member, in_bag in zip(members, bags.in_bag, strict=True):
        member.lay_out()
        config = load_config(member.folder / "config.yaml", TrainConfig, ()).relative_to(member.folder)
        own = read_data(config)
        kept = [atoms for atoms, inside in zip(data.train[: data.n_new], in_bag, strict=True) if inside]
        assert config.data.replay.fraction == 0.4
        assert dataset_hash(own.train[: own.n_new]) == dataset_hash(kept)
        hashes = [structure_hash(atoms) for atoms in own.train[own.n_new :]]
        assert hashes == [structure_hash(atoms) for atoms in data.train[data.n_new :]]
        # bonding energies count from the new atom
        energies = [label.energy for label in own.train_labels]
        assert np.abs(energies).max() < OLD_ATOM
        assert energies[own.n_new :] == pytest.approx(
            [label.energy for label in data.train_labels[data.n_new :]]
        )


def test_replayed_labels_that_were_put_right_stay_so(replaying):
    data, bags, _ = planned(replaying)
    stress = np.diag([1.0, 2.0, 3.0])  # as stress_order: corrected may leave it
    data.train_labels[data.n_new] = data.train_labels[data.n_new]._replace(stress=stress)
    member = plan_members(replaying, data, bags, replaying.scratch)[1]
    assert np.all(labels_of(member.replay[0]).stress == stress)


def test_what_is_replayed_names_the_folder(replaying, tmp_path):
    before = planned(replaying)[2]
    shifted = replaying.model_dump()
    shifted["data"]["replay"]["isolated_atoms"] = {"Cu": OLD_ATOM - 1}
    after = planned(CommitteeConfig(**shifted))[2]
    assert not {one.folder for one in before} & {one.folder for one in after}


@pytest.mark.dask
def test_what_is_replayed_neither_is_held_out_nor_names_the_data(replaying, tmp_path, copper_frames):
    summary = train_committee(replaying, tmp_path / "out")
    _, bags, members = planned(replaying)
    assert [entry["n_train"] for entry in summary["members"]] == (bags.in_bag.sum(1) + 8).tolist()
    potential = gace.load(tmp_path / "out" / "potential")
    assert potential.metadata["dataset_hash"] == dataset_hash(copper_frames)
    assert summary["n_calibration"] == (~bags.in_bag).any(0).sum()
    assert summary["held_out"]["energy_per_atom_mae"] < 1e3 * OLD_ATOM / 2  # meV
    for member in members:
        trained = json.loads((member.run / "summary.json").read_text())
        assert trained["n_train"] == len(member.train) + 8


def test_labels_under_ases_own_names_reach_the_members(replaying, tmp_path, copper_frames):
    structures = []
    for atoms in copper_frames:
        labels, plain = labels_of(atoms), Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        plain.calc = SinglePointCalculator(plain, energy=labels.energy, forces=labels.forces)
        structures.append(plain)
    write(tmp_path / "new.xyz", structures, format="extxyz")
    data, _, members = planned(replaying)
    members[0].lay_out()
    own = read_structures(members[0].folder / "train.xyz")
    assert data.n_new == len(copper_frames)
    assert all(labels_of(one).energy is not None and labels_of(one).forces is not None for one in own)


def test_members_on_other_weights_are_others(replaying, tmp_path, copper_frames):
    found = [planned(replaying)[2]]
    for weight in (1.0, 2.0):
        copper_frames[0].info["weight"] = weight
        write_structures(tmp_path / "new.xyz", copper_frames)
        found.append(planned(replaying)[2])
    for plain, of_one, of_two in zip(*found, strict=True):
        holds_it = structure_hash(copper_frames[0]) in map(structure_hash, plain.train)
        assert plain.folder == of_one.folder
        assert (plain.folder != of_two.folder) == holds_it


def test_bundle_of_a_teacher_is_found_beside_the_committees_file(replaying, tmp_path):
    teacher = {"calculator": "gace", "kwargs": {"bundle": "old"}}
    config = CommitteeConfig.model_validate(
        {**replaying.model_dump(), "pretraining": {"teacher": teacher}}
    ).relative_to(tmp_path)
    assert config.pretraining.teacher.kwargs["bundle"] == str(tmp_path / "old")
