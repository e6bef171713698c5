"""Small real models, structures and bundles for the tests of the potential."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gace.potential.bundle import save_bundle
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.neighbours import build_graph
from gace.uncertainty.committee import Scale
from gace.uncertainty.container import Uncertainty
from gace.uncertainty.novelty import Novelty

ELEMENTS = ["H", "C", "O"]
ISOLATED = {"H": -13.5, "C": -1027.0, "O": -2041.0, "Si": -7870.0}


@pytest.fixture(params=[1, 2])
def threads(request):
    """Kernels on one thread and on two; what was set is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Bit-for-bit comparisons need a fixed order of summation."""
    torch.set_num_threads(1)


def small_model(seed=0, elements=ELEMENTS, **changes):
    arguments = dict(
        cutoff=3.5, l_max=[2, 1], order=2, channels=4, radial_hidden=[8], densities=3, readout_hidden=4,
        mean_neighbours=6.0, scale=0.3,
    )  # fmt: skip
    return GraphACE(elements=elements, seed=seed, **{**arguments, **changes})


@pytest.fixture(scope="session")
def make_model():
    """A factory of models of a few hundred parameters: ``make_model(seed, elements, **changes)``."""
    return small_model


@pytest.fixture(scope="session")
def ethanol():
    return molecule("CH3CH2OH")


@pytest.fixture(scope="session")
def silicon():
    atoms = bulk("Si")
    atoms.rattle(0.05, seed=3)
    return atoms


def rattled(atoms: Atoms, count: int, amplitude: float = 0.05):
    """Copies with displaced atoms, the same on every run."""
    found = []
    for seed in range(count):
        one = atoms.copy()
        one.rattle(amplitude, seed=seed)
        found.append(one)
    return found


@pytest.fixture(scope="session")
def ethanols(ethanol):
    return rattled(ethanol, 12)


@pytest.fixture(scope="session")
def single(ethanol):
    model = small_model()
    # as before a training: products of order one, or an untrained model is too wild for dynamics
    model.calibrate(build_graph([ethanol], model.elements, model.cutoff, torch.float64))
    return Potential([model], isolated_atom_energies=ISOLATED)


@pytest.fixture(scope="session")
def silicon_potential():
    return Potential([small_model(elements=["Si"])], isolated_atom_energies=ISOLATED)


@pytest.fixture(scope="session")
def committee(ethanols):
    """Three members with fitted scales and a novelty grade."""
    members = [small_model(seed) for seed in range(3)]
    plain = Potential(members, isolated_atom_energies=ISOLATED)
    from gace.potential.derivatives import energy_and_gradients
    from gace.structures.neighbours import build_graph

    graph = build_graph(ethanols, plain.elements, plain.cutoff)
    features = energy_and_gradients(members[0], graph).features
    novelty = Novelty.fit(features, graph.species, ELEMENTS, seed=0, structure=graph.structure)
    uncertainty = Uncertainty(
        novelty, energy=Scale(2.0, 0.01), forces=Scale(3.0, 0.02), n_calibration=7, calibration="out-of-bag"
    )
    return Potential(
        members,
        isolated_atom_energies=ISOLATED,
        level_of_theory={"functional": "PBE", "basis": "def2-svp"},
        uncertainty=uncertainty,
        metadata={"dataset_hash": "0123abcd"},
    )


@pytest.fixture
def bundle(committee, tmp_path) -> Path:
    return save_bundle(committee, tmp_path / "potential")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def same_on_every_path(ethanol, monkeypatch):
    """Checks that eager, tabulated and plain PyTorch give one energy and the same forces of ethanol."""

    def check(model):
        potential = Potential([model], isolated_atom_energies=dict.fromkeys(ELEMENTS, 0.0))
        found = {}
        for path in ("eager", "tabulated"):
            atoms = ethanol.copy()
            atoms.calc = potential.calculator(dtype="float64", path=path)
            found[path] = atoms.get_potential_energy(), atoms.get_forces()
        monkeypatch.setenv("GACE_KERNELS", "off")
        atoms.calc = potential.calculator(dtype="float64", path="eager")
        found["plain"] = atoms.get_potential_energy(), atoms.get_forces()
        for path in ("tabulated", "plain"):
            assert found[path][0] == pytest.approx(found["eager"][0], rel=1e-8)
            # tables are within 1e-9 of the functions' size
            assert np.abs(found[path][1] - found["eager"][1]).max() < 1e-7 * np.abs(found["eager"][1]).max()

    return check


@pytest.fixture
def triclinic():
    """Three elements in a skewed cell smaller than the cutoff: atoms see their own images."""
    atoms = Atoms(
        "C2OH",
        scaled_positions=[[0.05, 0.1, 0.1], [0.45, 0.6, 0.5], [0.7, 0.2, 0.8], [0.3, 0.9, 0.35]],
        cell=[[3.1, 0, 0], [0.9, 3.3, 0], [-0.6, 1.1, 3.6]],
        pbc=True,
    )
    atoms.wrap()
    return atoms
