"""Data whose neighbour lists lie on disk: the same numbers in less memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from gace.structures.io import Labels
from gace.training.batches import Packed
from gace.training.on_disk import OnDisk

SETTINGS = dict(
    elements=["C", "Cu", "H", "O"],
    cutoff=4.0,
    isolated_atoms={"C": -3.0, "Cu": 1.0, "H": -1.0, "O": -2.0},
    dtype=torch.float32,
    device=torch.device("cpu"),
)


def labels_for(structures):
    rng = np.random.default_rng(0)
    return [
        Labels(float(rng.normal()), rng.normal(size=(len(one), 3)), np.eye(3) if one.pbc.all() else None)
        for one in structures
    ]


def test_batches_are_those_in_memory(tmp_path):
    structures = [molecule("H2O"), bulk("Cu", cubic=True), molecule("CH3CH2OH"), bulk("Cu")]
    structures[2].info["weight"] = 2.0
    labels = labels_for(structures)
    labels[0] = labels[0]._replace(forces=None)
    labels[3] = labels[3]._replace(energy=None)
    memory, disk = (
        Packed(structures, labels, **SETTINGS),
        OnDisk(structures, labels, folder=tmp_path, **SETTINGS),
    )
    for indices in ([0, 1, 2, 3], [3, 1], [2]):
        (graph, *rest), (wanted, *others) = (one.batch(torch.tensor(indices)) for one in (disk, memory))
        for got, want in zip((*graph, *rest), (*wanted, *others), strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
    for name in ("names", "complete", "uniform", "has_energy", "has_forces", "has_stress"):
        assert getattr(disk, name) == getattr(memory, name)
    assert disk.mean_neighbours == pytest.approx(memory.mean_neighbours)


def anonymous_memory() -> int:
    """Bytes of this process that are backed by no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    pytest.skip("this system does not tell anonymous from mapped memory")


def test_memory_does_not_grow_with_the_neighbour_lists(tmp_path):
    structures = []
    for seed in range(60):
        structures.append(bulk("Cu", cubic=True) * (5, 5, 5))
        structures[-1].rattle(0.1, seed=seed)
    labels = labels_for(structures)
    wide = {**SETTINGS, "cutoff": 6.0}
    small = OnDisk(structures[:2], labels[:2], folder=tmp_path, **wide)
    small.batch(torch.arange(2))
    before = anonymous_memory()
    data = OnDisk(structures, labels, folder=tmp_path, **wide)
    for indices in torch.arange(60).split(2):
        data.batch(indices)
    grown = anonymous_memory() - before
    on_disk = sum(one.nbytes for one in data._files.values())
    assert on_disk > 30e6
    # species, energies and the allocator's slack; the lists themselves would be all of on_disk
    assert grown < 0.4 * on_disk


def test_files_are_gone_from_the_folder_at_once(tmp_path):
    structures = [molecule("H2O")]
    data = OnDisk(structures, labels_for(structures), folder=tmp_path, **SETTINGS)
    assert not list(tmp_path.iterdir())
    assert len(data.batch(torch.tensor([0])).energy) == 1
