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


@pytest.fixture
def copper_frames() -> list[Atoms]:
    """Twelve rattled, strained four-atom copper cells with energy, forces and stress of EMT."""
    from ase.calculators.emt import EMT

    frames = []
    for number in range(12):
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
