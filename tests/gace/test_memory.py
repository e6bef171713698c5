"""Too little memory: the same steps in parts, or one line and a run that can be gone on with."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import gace
from gace.errors import OutOfMemoryError
from gace.memory import amount, is_lack, tells_of_memory
from gace.structures.io import read_structures, set_labels, write_structures
from gace.training.trainer import Trainer

REFUSED = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [
    MemoryError(),
    RuntimeError(REFUSED),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free."),
    OSError(12, "Cannot allocate memory"),
]


def mixed_structures():
    """Copper cells and molecules of other sizes; some labels are missing, and weights differ."""
    structures = []
    for number in range(9):
        random = np.random.default_rng(number)
        atoms = molecule("H2O") if number % 3 == 0 else bulk("Cu", cubic=number % 3 == 1, a=3.7)
        atoms.info["structure_id"] = f"s{number}"
        atoms.positions += 0.08 * random.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        stress = atoms.get_stress(voigt=False) if atoms.pbc.all() and number % 2 else None
        energy = None if number == 4 else atoms.get_potential_energy()
        structures.append(set_labels(atoms, energy, None if number == 2 else atoms.get_forces(), stress))
    structures[5].info["weight"] = 3.0
    return structures


@pytest.fixture
def config(tmp_path):
    write_structures(tmp_path / "train.xyz", mixed_structures())
    return {
        "data": {"train": str(tmp_path / "train.xyz"), "isolated_atoms": {"Cu": 0.0, "H": 0.0, "O": 0.0}},
        "potential": {
            "preset": "1L-small",
            "cutoff": 3.5,
            "overrides": {"channels": 4, "l_max": [1], "order": 2, "radial_hidden": [8], "densities": 2},
        },
        "training": {"max_epochs": 6, "batch_size": 5},
        "dtype": "float64",
        "seed": 2,
    }


@pytest.fixture
def room_for(monkeypatch):
    """A function that lets steps have memory for so many atoms, from the fourth on."""
    plain = Trainer._differentiate

    def make(atoms, error=ERRORS[1]):
        def differentiate(trainer, batch, weights):
            if trainer.step >= 3 and len(batch.graph.species) > atoms:
                raise error
            return plain(trainer, batch, weights)

        monkeypatch.setattr(Trainer, "_differentiate", differentiate)

    return make


def energies(bundle, config):
    found = gace.load(bundle).predict(read_structures(config["data"]["train"]))
    return np.array([one.energy for one in found])


@pytest.mark.parametrize("error", ERRORS, ids=["python", "processor", "gpu", "system"])
def test_batches_in_parts_are_the_same_steps(config, tmp_path, room_for, capsys, error):
    whole = gace.train(config, tmp_path / "whole", progress=False)
    room_for(4, error)
    parts = gace.train(config, tmp_path / "parts", progress=False)
    assert parts.steps == whole.steps
    # sums in another order, twelve steps of double precision
    assert np.allclose(energies(parts.bundle, config), energies(whole.bundle, config), rtol=0, atol=1e-8)
    assert "from now on batches are taken in" in capsys.readouterr().err


def test_no_memory_for_one_structure_is_told_and_the_run_goes_on_later(
    config, tmp_path, room_for, monkeypatch
):
    whole = gace.train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as little:
        room_for(2)
        with pytest.raises(
            OutOfMemoryError, match=r"step 4 .*'s\d'.* 8192 MB .*cluster\.workers.* after step 3"
        ):
            gace.train(config, tmp_path / "out", progress=False)
        little.undo()
    monkeypatch.undo()
    assert (tmp_path / "out" / "checkpoint" / "state.safetensors").exists()
    done = gace.train(config, tmp_path / "out", progress=False)
    assert done.steps == whole.steps
    assert np.allclose(energies(done.bundle, config), energies(whole.bundle, config), rtol=0, atol=1e-8)


def test_fewer_atoms_at_a_time_can_be_asked_for(config, tmp_path, room_for, monkeypatch, capsys):
    monkeypatch.setenv("GACE_SPARE_MEMORY", "3")
    room_for(4)
    gace.train(config, tmp_path / "out", progress=False)
    assert "out of memory" not in capsys.readouterr().err


def test_data_without_room_name_the_key(config, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise MemoryError

    monkeypatch.setattr("gace.training.run.pack", refuse)
    with pytest.raises(OutOfMemoryError, match=r"laying out the training data.*data\.on_disk"):
        gace.train(config, tmp_path / "out", progress=False)


def test_other_errors_are_no_lack_of_memory():
    assert all(is_lack(error) and tells_of_memory(repr(error)) for error in ERRORS)
    assert not any(is_lack(error) for error in (RuntimeError("sizes differ"), OSError(28, "No space left")))
    assert amount(ERRORS[2]).startswith("2048 MB")
