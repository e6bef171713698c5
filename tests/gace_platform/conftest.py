"""Fixtures of the platform's tests: a Dask cluster shared by a session, small structures, no global state."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_RUN_ID", None)

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule


@pytest.fixture(scope="session")
def campaign_cluster(tmp_path_factory):
    """A campaign cluster with two worker processes, ended with the session."""
    from gace_platform.cluster import start_local

    with start_local(tmp_path_factory.mktemp("cluster"), workers=2) as cluster:
        yield cluster


@pytest.fixture
def ethanol() -> Atoms:
    """One ethanol geometry."""
    return molecule("CH3CH2OH")


def make_copper_frames(count: int) -> list[Atoms]:
    """Rattled, strained four-atom copper cells with energy, forces and stress of EMT."""
    from ase.calculators.emt import EMT

    frames = []
    for number in range(count):
        atoms = bulk("Cu", cubic=True)
        random = np.random.default_rng(number)
        atoms.set_cell(atoms.cell * (1 + 0.02 * random.standard_normal()), scale_atoms=True)
        atoms.positions += 0.08 * random.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces, stress = (
            atoms.get_potential_energy(),
            atoms.get_forces(),
            atoms.get_stress(voigt=False),
        )
        atoms.calc = None
        atoms.info.update(
            REF_energy=energy, REF_stress=stress, structure_id=f"cu-{number}", ancestor=f"{number}"
        )
        atoms.arrays["REF_forces"] = forces
        frames.append(atoms)
    return frames


@pytest.fixture
def copper_frames() -> list[Atoms]:
    """Twelve rattled, strained four-atom copper cells with energy, forces and stress of EMT."""
    return make_copper_frames(12)


@pytest.fixture(scope="session")
def copper_committee_config(tmp_path_factory):
    """A small committee on sixteen copper cells, as a configuration; seconds to train."""
    from gace.structures.io import write_structures
    from gace_platform.committee.config import CommitteeConfig

    folder = tmp_path_factory.mktemp("committee")
    write_structures(folder / "train.xyz", make_copper_frames(16))
    return CommitteeConfig(
        data={"train": folder / "train.xyz", "isolated_atoms": {"Cu": 0.0}},
        potential={"preset": "1L-small", "cutoff": 4.0},
        training={"max_epochs": 8},
        committee={"members": 3, "subsample": 0.8},
        seed=3,
    )


@pytest.fixture(scope="session")
def copper_committee(copper_committee_config, tmp_path_factory):
    """The bundle of that committee, trained by one worker."""
    from gace_platform.committee.train import train_committee

    out = tmp_path_factory.mktemp("trained")
    train_committee(copper_committee_config, out)
    return out / "potential"


@pytest.fixture
def make_potential():
    """A function that makes a small untrained committee for H, C, O."""
    from gace.potential.graph_ace import GraphACE
    from gace.potential.potential import Potential

    def make(seed: int = 0, members: int = 2, **metadata) -> Potential:
        models = [
            GraphACE(
                elements=["C", "H", "O"], cutoff=4.0, l_max=[2], order=2, channels=4, radial_hidden=[8],
                densities=4, readout_hidden=4, seed=10 * seed + m,
            ).double()
            for m in range(members)
        ]  # fmt: skip
        isolated = {"C": -1030.0, "H": -13.6, "O": -2041.0}
        return Potential(models, isolated_atom_energies=isolated, metadata={"dataset_hash": "d1", **metadata})

    return make


@pytest.fixture
def make_bundle(tmp_path, make_potential):
    """A function that writes such a potential as a bundle folder."""
    from gace.potential.bundle import save_bundle

    def make(seed: int = 0, **metadata):
        return save_bundle(make_potential(seed, **metadata), tmp_path / f"bundle-{seed}" / "potential")

    return make


@pytest.fixture
def exam_frames(make_potential, ethanol) -> list[Atoms]:
    """Ethanol frames labelled by the potential of seed 0 itself, so that it makes no error on them."""
    potential = make_potential(0)
    frames = []
    for number in range(6):
        atoms = ethanol.copy()
        atoms.positions += 0.05 * np.random.default_rng(number).standard_normal(atoms.positions.shape)
        one = potential.predict([atoms])[0]
        atoms.info["REF_energy"] = one.energy
        atoms.arrays["REF_forces"] = one.forces
        frames.append(atoms)
    return frames


@pytest.fixture
def exam_file(tmp_path, exam_frames):
    """The exam frames in a file."""
    from gace.structures.io import write_structures

    write_structures(tmp_path / "exam.xyz", exam_frames)
    return tmp_path / "exam.xyz"
