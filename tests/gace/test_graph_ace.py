"""The recursion is the sum over trees, and the energy has the symmetries of physics."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tree_sum import TreeSum

from gace.basis import SphericalHarmonics, real_clebsch_gordan, smooth_cutoff
from gace.errors import InputError
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.presets import PRESETS
from gace.structures.neighbours import build_graph

F64 = 1e-10  # products of a few hundred float64 numbers of order one


def small_model(**changes) -> GraphACE:
    arguments = dict(
        elements=["H", "C", "O"], cutoff=4.0, l_max=[3, 2], order=[4, 3], channels=6, radial_hidden=[8, 8],
        densities=4, readout_hidden=8, seed=3,
    )  # fmt: skip
    return GraphACE(**{**arguments, **changes})


def calibrated(model: GraphACE, atoms: Atoms) -> GraphACE:
    model.calibrate(build_graph([atoms], model.elements, model.cutoff, torch.float64))
    return model


def predict(model: GraphACE, *structures: Atoms):
    return energy_and_gradients(model, build_graph(structures, model.elements, model.cutoff, torch.float64))


@pytest.fixture
def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def model(ethanol) -> GraphACE:
    return calibrated(small_model(), ethanol)


@pytest.mark.parametrize(("l1", "l2"), [(1, 1), (2, 1), (2, 3), (3, 3)])
def test_clebsch_gordan_products_rotate_as_their_degree(l1, l2):
    rotation = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    u, v = np.random.default_rng(6).normal(size=(2, 3))
    harmonics = SphericalHarmonics(6)

    def y(l, x):
        return harmonics(torch.from_numpy(x / np.linalg.norm(x)))[l].numpy()

    points = np.random.default_rng(7).normal(size=(40, 3))
    for L in range(abs(l1 - l2), l1 + l2 + 1):
        c = real_clebsch_gordan(l1, l2, L)
        before = np.einsum("Mab,a,b->M", c, y(l1, u), y(l2, v))
        after = np.einsum("Mab,a,b->M", c, y(l1, rotation @ u), y(l2, rotation @ v))
        # the matrix of the rotation in degree L, from how the harmonics of many points turn
        Y = np.array([y(L, p) for p in points])
        D = np.linalg.lstsq(Y, np.array([y(L, rotation @ p) for p in points]), rcond=None)[0].T
        np.testing.assert_allclose(after, D @ before, atol=1e-9)
        np.testing.assert_allclose(np.einsum("Mab,Nab->MN", c, c), np.eye(2 * L + 1), atol=1e-12)


def test_harmonics_agree_with_scipy():
    from tree_sum import harmonics

    for u in np.random.default_rng(0).normal(size=(5, 3)):
        u /= np.linalg.norm(u)
        ours = SphericalHarmonics(5)(torch.from_numpy(u))
        for mine, reference in zip(ours, harmonics(u, 5), strict=True):
            np.testing.assert_allclose(mine.numpy(), reference, atol=1e-12)


def test_cutoff_function_ends_smoothly():
    r = torch.tensor([4.999999, 5.0, 5.5], dtype=torch.float64, requires_grad=True)
    value = smooth_cutoff(r, 5.0)
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert value[1:].abs().max() == 0
    assert slope[1:].abs().max() < 1e-12
    assert value[0].item() < 1e-15


@pytest.mark.parametrize(
    "changes",
    [
        dict(l_max=[3], order=4),
        dict(l_max=[2, 1], order=[3, 2], parity="both"),
        dict(l_max=[2, 2], order=[2, 2], parity="natural", l_message=2),
        dict(l_max=[1, 1, 1], order=[1, 2, 1]),
    ],
    ids=["star-order-4", "tree-both-parities", "tree-L2", "three-layers"],
)
def test_recursion_is_the_sum_over_explicit_trees(changes):
    atoms = Atoms("OCHH", positions=[[0, 0, 0], [1.2, 0.1, 0], [1.9, 1.1, 0.3], [3.3, -1.0, 0.2]])
    model = calibrated(small_model(channels=2, cutoff=2.45, radial_hidden=[4, 4], **changes), atoms)
    species = [model.elements.index(s) for s in atoms.symbols]
    edges = [
        [
            (j, atoms.positions[j] - atoms.positions[i])
            for j in range(4)
            if j != i and atoms.get_distance(i, j) < model.cutoff
        ]
        for i in range(4)
    ]
    assert {len(e) for e in edges} == {1, 2, 3}  # a case where depth matters
    graph = build_graph([atoms], model.elements, model.cutoff, torch.float64)
    features = model(graph).features.detach().numpy()
    trees = TreeSum(model, species, edges)
    reference = np.stack(
        [np.concatenate([trees.invariants(t, i).ravel() for t in range(len(model.layers))]) for i in range(4)]
    )
    assert np.abs(reference).max() > 0.1
    assert np.abs(features - reference).max() / np.abs(reference).max() < F64


@given(seed=st.integers(0, 2**31), inversion=st.booleans())
@settings(max_examples=15, deadline=None)
def test_energy_is_invariant_and_forces_turn(seed, inversion):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=seed % 1000)
    model = calibrated(small_model(), atoms)
    matrix = Rotation.random(rng=np.random.default_rng(seed)).as_matrix() * (-1 if inversion else 1)
    turned = atoms.copy()
    turned.positions = atoms.positions @ matrix.T + [3.0, -2.0, 1.0]
    order = np.random.default_rng(seed).permutation(len(atoms))
    a, b = predict(model, atoms), predict(model, turned[order])
    np.testing.assert_allclose(b.energy, a.energy, atol=F64)
    np.testing.assert_allclose(b.forces, (a.forces.numpy() @ matrix.T)[order], atol=1e-9)


def test_pseudo_tensors_are_not_scalars_of_their_own(ethanol):
    """Mirror images have the same energy although both parities are kept."""
    model = calibrated(small_model(parity="both", l_message=2), ethanol)
    mirrored = ethanol.copy()
    mirrored.positions[:, 0] *= -1
    np.testing.assert_allclose(predict(model, mirrored).energy, predict(model, ethanol).energy, atol=F64)
    assert any(irrep.parity == -1 for irrep in model.layers[1].density_irreps)


def test_forces_are_the_derivative_of_the_energy(model, ethanol):
    h, forces = 1e-4, predict(model, ethanol).forces.numpy()
    numeric = np.zeros_like(forces)
    for i, c in np.ndindex(*forces.shape):
        plus, minus = ethanol.copy(), ethanol.copy()
        plus.positions[i, c] += h
        minus.positions[i, c] -= h
        e = predict(model, plus, minus).energy
        numeric[i, c] = -float(e[0] - e[1]) / (2 * h)
    # the error of central differences is h² times the third derivative
    np.testing.assert_allclose(forces, numeric, atol=2e-6 * np.abs(forces).max())


@pytest.mark.parametrize(
    "atoms", [bulk("C", "diamond", a=3.5), bulk("C", "fcc", a=2.9, cubic=True)], ids=["primitive", "cubic"]
)
def test_stress_is_the_strain_derivative(atoms):
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=2)
    atoms.set_cell(
        atoms.cell @ (np.eye(3) + np.array([[0, 0.1, 0], [0, 0.02, 0.05], [0, 0, 0]])), scale_atoms=True
    )
    model = calibrated(small_model(), atoms)
    virial = predict(model, atoms).virial[0].numpy()
    h, numeric = 1e-5, np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        strain = np.zeros((3, 3))
        strain[a, b] += h / 2
        strain[b, a] += h / 2
        e = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
            e.append(float(predict(model, moved).energy[0]))
        numeric[a, b] = (e[0] - e[1]) / (2 * h)
    np.testing.assert_allclose(virial, numeric, atol=1e-6 * np.abs(virial).max())


def test_training_gradient_of_forces_is_exact():
    """Forces are trained on: the second derivative agrees with differences of the first."""
    atoms = Atoms("OCH", positions=[[0, 0, 0], [1.2, 0.1, 0], [1.9, 1.1, 0.3]])
    model = calibrated(small_model(channels=2, l_max=[2, 1], order=[2, 2]), atoms)
    graph = build_graph([atoms], model.elements, model.cutoff, torch.float64)
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (energy_and_gradients(model, graph, create_graph=True).forces * direction).sum().backward()
    for parameter in list(model.parameters())[::7]:
        flat, h = parameter.data.view(-1), 1e-5
        old = flat[0].item()
        values = []
        for shift in (h, -h):
            flat[0] = old + shift
            values.append(float((energy_and_gradients(model, graph).forces * direction).sum()))
        flat[0] = old
        exact = 0.0 if parameter.grad is None else float(parameter.grad.view(-1)[0])
        assert exact == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-6)


def test_energy_and_forces_are_smooth_when_an_atom_leaves(model):
    """Across the cutoff the energy has continuous first and second derivatives."""
    base = Atoms("COH", positions=[[0, 0, 0], [1.2, 0, 0], [0, 0, 0]])
    h = 1e-3
    r = model.cutoff + np.arange(-5, 6) * h
    structures = []
    for x in r:
        atoms = base.copy()
        atoms.positions[2] = [0, x, 0]
        structures.append(atoms)
    prediction = predict(model, *structures)
    force = prediction.forces.numpy().reshape(len(r), 3, 3)[:, 2, 1]
    inside = force[r < model.cutoff - h / 2]
    # with f_cut ~ (1-u)^3 the force vanishes as the square of the distance to the cutoff
    assert np.abs(inside).max() < 1e-4
    assert np.abs(np.diff(prediction.energy.numpy())).max() < 1e-6


def test_reach_is_layers_times_cutoff(ethanol):
    """∂F_i/∂r_j vanishes exactly beyond T r_cut and not before."""
    for T in (1, 2, 3):
        chain = Atoms("C6", positions=[[1.4 * i, 0.1 * (i % 2), 0] for i in range(6)])
        model = calibrated(small_model(l_max=[2] * T, order=2, cutoff=1.9, core_repulsion=False), chain)
        reference = predict(model, chain).atomic_energy[0]
        reached = []
        for j in range(1, 6):
            moved = chain.copy()
            moved.positions[j] += [0.0, 0.0, 0.05]
            reached.append(abs(float(predict(model, moved).atomic_energy[0] - reference)) > 1e-12)
        assert reached == [j <= T for j in range(1, 6)]


def test_depth_tells_apart_what_the_star_cannot():
    """Two structures equal inside the cutoff of the first atom, different outside."""
    near = [[0, 0, 0], [1.5, 0, 0]]
    a = Atoms("CCO", positions=[*near, [2.4, 1.2, 0]])
    b = Atoms("CCO", positions=[*near, [2.9, 0.5, 0.3]])
    differences = []
    for T in (1, 2):
        model = calibrated(small_model(l_max=[2] * T, order=3, cutoff=2.0), a)
        ea, eb = predict(model, a).atomic_energy[0], predict(model, b).atomic_energy[0]
        differences.append(abs(float(ea - eb)))
    assert differences[0] == 0
    assert differences[1] > 1e-6


def test_lone_atom_has_no_energy(model):
    model.set_shift({"H": -2.0, "C": -7.0, "O": -3.0})
    prediction = predict(model, Atoms("C"))
    assert float(prediction.energy[0]) == 0
    assert float(prediction.forces.abs().max()) == 0


def test_batch_equals_single(model, ethanol):
    others = [ethanol, molecule("H2O"), Atoms("C"), bulk("C", "diamond", a=3.6)]
    batch = predict(model, *others)
    for k, atoms in enumerate(others):
        np.testing.assert_allclose(batch.energy[k], predict(model, atoms).energy[0], atol=F64)


def test_core_repulsion_dominates_at_short_distance():
    model = small_model()
    energies = [
        float(predict(model, Atoms("CC", positions=[[0, 0, 0], [r, 0, 0]])).energy[0]) for r in (0.1, 0.2)
    ]
    assert energies[0] > energies[1] > 100


def test_isolated_pair_beyond_all_ranges_adds(model, ethanol):
    far = ethanol.copy()
    far.positions += [50.0, 0, 0]
    np.testing.assert_allclose(
        predict(model, ethanol + far).energy[0], 2 * predict(model, ethanol).energy[0], rtol=1e-12
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_build_and_rebuild(name):
    model = GraphACE.from_preset(name, elements=["Si"], seed=4)
    again = GraphACE(**model.hyperparameters())
    for (k, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), k


def test_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="did you mean '2L-small'"):
        GraphACE.from_preset("2Lsmall", elements=["H"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(order=5), "order"),
        (dict(cutoff=-1.0), "cutoff"),
        (dict(parity="odd"), "parity"),
        (dict(elements=["H", "H"]), "distinct"),
    ],
)
def test_bad_hyperparameters_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        small_model(**changes)


def test_freed_memory_stays_in_the_process():
    """A step that frees and allocates large arrays must not fault their pages in again."""
    code = (
        "import resource, sys, torch\n"
        "from gace.allocator import keep_freed_memory\n"
        "assert not sys.argv[1:] or keep_freed_memory()\n"
        "def step(): return [torch.ones(250_000) for _ in range(40)]\n"
        "step(); step()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): step()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("the allocator's thresholds are the GNU C library's")
    # left to itself the library raises its threshold, or not, by the order in which things are freed
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, *extra], capture_output=True, check=True, env=environment
            ).stdout
        )
        for extra in ([], ["keep"])
    ]
    assert faults[1] < faults[0] / 10
