"""Radial functions read off tables: how far from the network's, and that nothing else changes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch.autograd import gradcheck

from gace.basis import smooth_cutoff
from gace.commands.options import PATHS as OFFERED
from gace.potential import tables as module
from gace.potential.blocks import energy_and_gradients_by_blocks
from gace.potential.compiled import PATHS, evaluate_eagerly
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels import density, splined
from gace.potential.kernels.build import library
from gace.potential.potential import Potential
from gace.potential.presets import PRESETS
from gace.potential.tables import TOLERANCE, RadialTable, radial_tables
from gace.structures.neighbours import build_graph

needs_kernels = pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels")


def make(preset="1L-small", elements=("C", "H", "O"), dtype=torch.float64, **changes) -> GraphACE:
    model = GraphACE.from_preset(preset, elements=elements, cutoff=4.5, seed=3, **changes)
    return model.to(dtype).requires_grad_(False)


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=1)
    return atoms


def read_off(table: RadialTable, pair: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Functions by the definition: the polynomial of degree five with the knots' values and derivatives."""
    first, per_step, _ = table.range.double().tolist()
    place = (r - first) * per_step
    interval = place.long().clamp(max=table.values.shape[1] - 2)
    at, values = (place - interval)[..., None], table.values.double()
    # rows: value, slope and bend of 1, x, … x⁵ at 0 and at 1
    powers = torch.arange(6, dtype=torch.float64)
    ends = [powers == 0, powers == 1, 2.0 * (powers == 2), powers**0, powers, powers * (powers - 1)]
    inverse = torch.linalg.inv(torch.stack([one.double() for one in ends]))
    known = torch.cat([values[pair, interval], values[pair, interval + 1]], dim=-2)
    return torch.einsum("...p,pi,...if->...f", at**powers, inverse, known)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


@needs_kernels
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("channels", [3, 9, 17, 35])
@pytest.mark.parametrize("messages", ["none", "gathered", "one each"])
def test_sum_over_neighbours_is_that_of_the_polynomials(channels, messages, n_threads):
    """Values by the kernel that is given radial functions, derivatives by differences."""
    N, J, L = 4, 3, 3
    table = RadialTable(draw(4, 5, 3, L * channels), torch.tensor([1.0, 2.0, 3.0]).double(), L, channels, 0.0)
    centre, neighbour = torch.tensor([0, 1, 1, 0]), torch.tensor([[0, 1, 0]] * N)
    r = 1.2 + 1.7 * torch.rand(N, J, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    r[1, 2] = 3.5  # beyond the cutoff
    Y, index = draw(N, J, L * L), torch.tensor([[0, 1, 2], [3, 3, 0], [1, 0, 2], [2, 2, 2]])
    I = None if messages == "none" else draw(N if messages == "gathered" else N * J, 4, channels)
    where = index if messages == "gathered" else None
    read = read_off(table, 2 * centre[:, None] + neighbour, r)
    R = (read * (r < 3.0)[..., None]).view(N, J, L, channels)
    factors = [one.requires_grad_() for one in ((Y, r) if I is None else (Y, r, I))]

    def summed(Y, r, I=None):
        return splined(Y, r, I, where, (centre, neighbour), table)

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        assert torch.allclose(summed(*factors), density(Y, R, I, where), atol=1e-12, rtol=1e-12)
        assert gradcheck(summed, factors, fast_mode=channels > 9)
    finally:
        torch.set_num_threads(before)


def radial_functions(model, t, centre, neighbour, r):
    """Of a pair of elements by the network, ``(n, F)``."""
    envelope = smooth_cutoff(r, model.cutoff, model.cutoff_power) / model.sqrt_mean_neighbours
    elements = torch.full((1,), centre), torch.full((1, len(r)), neighbour)
    return model.layers[t].radial(model.radial_basis(r).unsqueeze(0), *elements, envelope.view(1, -1, 1))[0]


@pytest.mark.parametrize("basis", ["bessel", "chebyshev"])
@pytest.mark.parametrize("preset", ["2L-small", "FS-small"])
def test_derivatives_at_the_knots_are_those_of_the_network(preset, basis):
    """Those written out against automatic ones; up to the cutoff, where all vanish."""
    model, step = make(preset, radial_basis=basis), 0.07
    for t, layer in enumerate(model.layers):
        knots = module._Knots(module._Radial.of(model), intervals=60, first=model.cutoff - 60 * step)
        table = knots.pair(layer.radial, 1, 2).table @ layer.radial.weights[-1]
        at = torch.linspace(model.cutoff - 60 * step, model.cutoff, 61, dtype=torch.float64)
        expected = module.at_knots(lambda r, t=t: radial_functions(model, t, 1, 2, r), at, step)
        assert torch.allclose(table, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
        assert float(table[-1].abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("basis", ["bessel", "chebyshev"])
def test_tables_are_as_exact_as_promised(dtype, basis):
    """Between all knots, also where the error was not looked for."""
    model = make("2L-small", dtype=dtype, radial_basis=basis)
    exact = make("2L-small", radial_basis=basis)
    for t, table in enumerate(radial_tables(model)):
        assert table.error <= TOLERANCE[dtype]
        first, _, cutoff = table.range.double().tolist()
        r = first + (cutoff - first) * torch.rand(3000, dtype=torch.float64)
        functions = radial_functions(exact, t, 2, 1, r)
        read = read_off(table, torch.full((3000,), 2 * 3 + 1), r)
        scale = functions.square().mean().sqrt()
        # what single precision cannot hold of the functions and of the place comes on top
        rounding = 0.0 if dtype == torch.float64 else 2e-5
        assert (read - functions).abs().max() / scale < 1.5 * TOLERANCE[dtype] + rounding


def test_error_falls_with_the_sixth_power_of_the_step(monkeypatch):
    errors = []
    for intervals in (32, 64):
        monkeypatch.setattr(module, "FEWEST", intervals)
        errors.append(radial_tables(make(), tolerance=1.0)[0].error)
    assert 40 < errors[0] / errors[1] < 90


@needs_kernels
@pytest.mark.parametrize("preset", [one for one in PRESETS if not one.endswith("large")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_potential_agrees_with_its_networks(preset, dtype):
    model = make(preset, dtype=dtype)
    graph = build_graph([ethanol(), ethanol()], model.elements, model.cutoff).to("cpu", dtype)
    plain, read = (evaluate_eagerly(model, graph, one) for one in (None, radial_tables(model)))
    bound = 1e-8 if dtype == torch.float64 else 3e-5
    for one in ("energy", "forces", "virial", "features"):
        expected = getattr(plain, one)
        error = (getattr(read, one) - expected).abs().max() / expected.abs().max().clamp(min=1.0)
        assert error < bound, one


@needs_kernels
def test_forces_and_stress_are_the_slopes_of_what_is_evaluated(monkeypatch):
    """Few pieces, so that the tables are far from the network: energy and forces still belong together."""
    monkeypatch.setattr(module, "FEWEST", 12)
    monkeypatch.setitem(TOLERANCE, torch.float64, 1.0)
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=4)
    model = make("2L-small", elements=["Si"])
    potential = Potential([model], isolated_atom_energies={"Si": 0.0})
    atoms.calc = potential.calculator(path="tabulated")
    plain = potential.calculator(path="eager")
    assert abs(atoms.get_potential_energy() - plain.get_potential_energy(atoms)) > 1e-6
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    rng = np.random.default_rng(0)
    direction, strain = rng.normal(size=(8, 3)), rng.normal(size=(3, 3))
    strain = strain + strain.T
    energies = {"moved": [], "strained": []}
    for sign in (1, -1):
        moved, strained = atoms.copy(), atoms.copy()
        moved.positions += sign * 1e-4 * direction
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * 1e-5 * strain), scale_atoms=True)
        for name, one in (("moved", moved), ("strained", strained)):
            one.calc = atoms.calc
            energies[name].append(one.get_potential_energy())
    slope = (energies["moved"][0] - energies["moved"][1]) / 2e-4
    assert -np.sum(forces * direction) == pytest.approx(slope, rel=1e-6)
    slope = (energies["strained"][0] - energies["strained"][1]) / 2e-5
    assert np.sum(stress * strain) * atoms.get_volume() == pytest.approx(slope, rel=1e-5)


@needs_kernels
def test_blocks_and_the_whole_agree():
    model = make("2L-small")
    graph = build_graph([ethanol()], model.elements, model.cutoff)
    read = radial_tables(model)
    whole = evaluate_eagerly(model, graph, read)
    blocks = energy_and_gradients_by_blocks(model, graph, 4, tables=read)
    torch.testing.assert_close(blocks.forces, whole.forces, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(blocks.energy, whole.energy, rtol=1e-12, atol=1e-12)


@needs_kernels
def test_nothing_is_trained_through_tables():
    model = make("2L-small").requires_grad_()
    graph = build_graph([ethanol()], model.elements, model.cutoff)
    read = radial_tables(model)
    found = energy_and_gradients(lambda one: model(one, read), graph, create_graph=True)
    with pytest.raises(NotImplementedError, match="train without tables"):
        found.forces.square().sum().backward()


def test_what_cannot_be_met_is_not_tabulated(monkeypatch):
    monkeypatch.setattr(module, "MOST", 32)
    monkeypatch.setattr(module, "FEWEST", 8)
    assert radial_tables(make()) is None


def test_too_many_elements_are_evaluated_by_their_networks(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1 << 20)
    model = make(elements=["C", "H", "O", "N"])
    assert radial_tables(model) is None
    potential = Potential([model], isolated_atom_energies=dict.fromkeys(model.elements, 0.0))
    atoms = ethanol()
    energies = [
        potential.calculator(path=path).get_potential_energy(atoms) for path in ("eager", "tabulated")
    ]
    assert energies[0] == energies[1]


def test_without_kernels_the_networks_answer(monkeypatch):
    monkeypatch.setattr("gace.potential.compiled.available", lambda x: False)
    potential = Potential([make()], isolated_atom_energies={"C": 0.0, "H": 0.0, "O": 0.0})
    atoms = ethanol()
    energies = [
        potential.calculator(path=path).get_potential_energy(atoms) for path in ("eager", "tabulated")
    ]
    assert energies[0] == energies[1]


def test_the_commands_offer_every_path():
    assert sorted(OFFERED) == sorted(PATHS)


def test_making_tables_loads_no_symbolic_algebra():
    """PyTorch loads its symbolic shapes, 50 MB and half a second, for gradients with ``grad_outputs``."""
    script = (
        "import sys; from gace.potential.graph_ace import GraphACE; "
        "from gace.potential.tables import radial_tables; "
        "model = GraphACE.from_preset('1L-small', elements=['Si'], cutoff=4.5, seed=3); "
        "assert radial_tables(model) and 'sympy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tables_that_are_too_large_are_made_less_exact(monkeypatch):
    """In double precision, up to what single precision has; the potential stays within it."""
    model = make("2L-small")
    wanted = radial_tables(model)
    assert max(one.error for one in wanted) <= TOLERANCE[torch.float64]
    monkeypatch.setattr(module, "LARGEST", sum(8 * one.values.numel() for one in wanted) // 2)
    smaller = radial_tables(model)
    assert sum(8 * one.values.numel() for one in smaller) <= module.LARGEST
    assert TOLERANCE[torch.float64] < max(one.error for one in smaller) <= module.LOOSEST[torch.float64]
    assert radial_tables(model, TOLERANCE[torch.float64]) is None  # as it was asked for, or not at all
    graph = build_graph([ethanol()], model.elements, model.cutoff)
    plain, read = (evaluate_eagerly(model, graph, one) for one in (None, smaller))
    assert (read.forces - plain.forces).abs().max() < 1e-5


def test_tables_where_they_pay(monkeypatch):
    """Many structures are evaluated by tables, few by the networks; a path that was chosen stays."""
    model = make("2L-small")
    potential = Potential([model], isolated_atom_energies=dict.fromkeys(model.elements, 0.0))
    assert potential.evaluated_for([ethanol()]) is potential
    monkeypatch.setattr("gace.potential.potential.TABLES_PAY", 10)
    many = [ethanol(), ethanol()]
    chosen = potential.evaluated_by("eager")
    assert chosen.evaluated_for(many) is chosen
    read = potential.evaluated_for(many)
    assert read is not potential
    expected, found = potential.predict(many)[1], read.predict(many)[1]
    assert found.energy == pytest.approx(expected.energy, abs=1e-7)
    assert found.forces == pytest.approx(expected.forces, abs=1e-6)
