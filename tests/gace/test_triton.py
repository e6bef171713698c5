"""The GPU's kernels in Triton's interpreter, held to those of the processor in float64.

Triton must be told to interpret before it is imported: most tests of this file run in a process of their own.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch.autograd import gradcheck, gradgradcheck

import gace.testing
from gace.basis import SphericalHarmonics
from gace.potential.blocks import energy_and_gradients_by_blocks
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels import WeightedCoupling, available, density, geometry, splined
from gace.potential.kernels.build import library
from gace.potential.kernels.calls import fused
from gace.potential.tables import radial_tables
from gace.structures.neighbours import build_graph

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="no Triton: pip install 'gace[triton]'"
    ),
    pytest.mark.skipif(library() is None, reason="no C++ compiler to build the kernels compared with"),
]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreted starts")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 6e-6}
"""Of sums of a few terms of size one: rounding, whatever their order."""


@pytest.mark.skipif(INTERPRETED, reason="this is the process it starts")
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted(chosen):
    """All of the below."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GACE_KERNELS": "triton"}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


KERNELS = {
    "density": {
        "_forward": dict(CARRIED=True, GATHERED=True),
        "_backward": dict(CARRIED=True, GATHERED=True, BLOCK_J=8),
        "_messages": dict(LM=16, MODE=1, ROWS=1),
    },
    "coupling": {"_sum_of_products": dict(BLOCK_N=8, BY_ELEMENT=True)},
    "geometry": {"_forward": dict(L=5, BLOCK_E=32), "_backward": dict(L=5, BLOCK_E=32)},
    "splined": {
        "_forward": dict(FIRST=0, LAST=4, BLOCK_J=1, CARRIED=True, GATHERED=True),
        "_backward": dict(FIRST=0, LAST=4, BLOCK_J=1, CARRIED=True, GATHERED=True, MODE=2),
    },
}
INTEGERS = dict.fromkeys(["index", "owner", "centre", "neighbour"], "*i64") | {
    "start": "*i32",
    "other": "*i32",
}
COUNTS = [
    "J",
    "parts",
    "bonds",
    "slots",
    "elements",
    "intervals",
    "atoms",
    "outputs",
    "a_row",
    "a_atom",
    "b_atom",
    "c_atom",
    "LM",
    "per_part",
]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("real", ["fp32", pytest.param("fp64", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("module", "name"), [(m, name) for m in KERNELS for name in KERNELS[m]])
def test_compiles_for_a_gpu(module, name, real, tmp_path, monkeypatch):
    """Machine code for an H100 comes out, which needs no GPU."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(importlib.import_module(f"gace.potential.kernels.triton.{module}"), name)
    sizes = dict(L=4, C=4, K=32, BLOCK_C=4, BLOCK_K=32, TANGENT=True) | KERNELS[module][name]
    signature = {
        one: "constexpr" if one in sizes else "i32" if one in COUNTS else INTEGERS.get(one, f"*{real}")
        for one in kernel.arg_names
    }
    known = {(kernel.arg_names.index(one),): sizes[one] for one in signature if one in sizes}
    made = compiled(ASTSource(kernel, signature, known), target=GPUTarget("cuda", 90, 32), options={})
    assert made.asm["cubin"]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal numbers, the same for the same shape."""
    generator = torch.Generator().manual_seed(sum(shape) * 31 + len(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


@pytest.fixture
def both(monkeypatch):
    """Calls a function with the kernels of the GPU, then of the processor, and compares what it gives."""

    def compare(function, *arguments):
        x = next(one for one in arguments if one.is_floating_point())
        assert fused("density", x) is not None
        ours = function(*arguments)
        monkeypatch.setenv("GACE_KERNELS", "")
        assert fused("density", x) is None
        theirs = function(*arguments)
        monkeypatch.setenv("GACE_KERNELS", "triton")
        ours, theirs = ((x,) if isinstance(x, torch.Tensor) else x for x in (ours, theirs))
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
            assert torch.allclose(one.detach(), other.detach(), rtol=0, atol=TOLERANCE[x.dtype] * scale)

    return compare


@inside
@pytest.mark.parametrize(
    ("degrees", "channels", "dtype", "messages"),
    [
        *((3, 5, torch.float64, one) for one in ("none", "gathered", "one each", "many", "fixed order")),
        *((2, 3, torch.float32, one) for one in ("none", "gathered", "many")),
        (1, 33, torch.float64, "gathered"),
    ],
)
def test_density(both, dtype, messages, degrees, channels):
    """Values, first and second derivatives; a channel more than a program takes; every way of summing."""
    N, J, C = 3, 2, 3
    rows = {"none": 0, "one each": N * J, "gathered": 3}.get(messages, 17)
    index = torch.arange(N * J).view(N, J).flip(0) * 2 % max(rows, 1) // 2
    index = index.new_empty(0) if messages in ("none", "one each") else index
    shapes = [(N, J, degrees**2), (N, J, degrees, channels), (rows, C, channels)]
    factors = [draw(*one, dtype=dtype) if all(one) else torch.empty(0, dtype=dtype) for one in shapes]
    tangents = [one.flip(0) + 0.3 for one in factors]
    g = draw(N, degrees**2 * (C if rows else 1), channels, dtype=dtype)
    torch.use_deterministic_algorithms(messages == "fixed order")
    try:
        both(torch.ops.gace.density, *factors, index)
        both(torch.ops.gace.density_backward, g, *factors, index)
        both(torch.ops.gace.density_twice, g, *factors, index, *tangents)
    finally:
        torch.use_deterministic_algorithms(False)


@inside
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize(("channels", "dtype"), [(3, torch.float32), (33, torch.float64)])
def test_coupling(both, dtype, equal, channels):
    """Values, first and second derivatives of the products."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 5, 5 if equal else 6)) * (rng.random((7, 5, 5 if equal else 6)) < 0.3)
    path, target = [0, 0, 1, 1, 2, 3, 3], [0, 1, 2, 0, 1, 2, 3]
    coupling = WeightedCoupling(table, path, target, targets=4, equal=equal).to(dtype)
    N, species = 11, torch.arange(11) % 2
    x, w, g = (draw(*one, dtype=dtype) for one in ((N, 5, channels), (4, 2, channels), (N, 4, channels)))
    y = x if equal else draw(N, 6, channels, dtype=dtype)
    tables = species, coupling.index, coupling.value, coupling.size
    both(lambda *given: torch.ops.gace.coupling(*given, *tables, equal), x, y, w)
    a = x.flip(0)
    b = a if equal else draw(N, 6, channels, dtype=dtype).flip(0)
    for of_y, of_w in ((True, False), (False, True), (True, True)):
        wanted = equal, of_y, of_w
        both(lambda *given: torch.ops.gace.coupling_backward(*given, *tables, *wanted), g, x, y, w)  # noqa: B023
        both(
            lambda *given: torch.ops.gace.coupling_twice(*given[:4], *tables, *given[4:], *wanted),  # noqa: B023
            g, x, y, w, a, b,
        )  # fmt: skip


@inside
def test_derivatives_by_differences():
    """What autograd makes of the kernels, without the processor's."""
    Y, R, I = (draw(*shape).requires_grad_() for shape in ((2, 1, 4), (2, 1, 2, 2), (2, 2, 2)))
    index = torch.tensor([[1], [0]])
    coupling = WeightedCoupling(draw(3, 2, 2).numpy(), [0, 1, 0], [0, 0, 1], targets=2, equal=True)
    w, species = draw(2, 1, 2).requires_grad_(), torch.tensor([0, 0])
    x = draw(2, 2, 2).requires_grad_()
    for function, arguments in (
        (lambda Y, R, I: density(Y, R, I, index), (Y, R, I)),
        (lambda x, w: coupling(x, x, w, species), (x, w)),
    ):
        assert gradcheck(function, arguments, fast_mode=True)
        assert gradgradcheck(function, arguments, fast_mode=True)


def example(**changes):
    """A small model of two layers, and water."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=3)
    small = dict(l_max=[2, 1], order=4, channels=3, radial_hidden=[4], n_radial=4, densities=2)
    model = GraphACE(elements=["H", "O"], cutoff=4.0, **{**small, **changes})
    graph = build_graph([atoms], ["H", "O"], 4.0)
    model.calibrate(graph)
    return model, graph


@inside
def test_training_step(both):
    """Energy, forces, features and the gradients of a loss on forces."""
    model, graph = example()

    def everything(edge_vector):
        found = energy_and_gradients(model, graph._replace(edge_vector=edge_vector), create_graph=True)
        loss = found.energy.sin().sum() + found.forces.square().sum()
        slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return [found.energy, found.forces, found.features, *(one for one in slopes if one is not None)]

    assert available(graph.edge_vector)
    both(everything, graph.edge_vector)


@inside
def test_single_precision_is_near_double(monkeypatch):
    """What dynamics in float32 would do, beside float64 on the processor."""
    model, graph = example()
    single = energy_and_gradients(copy.deepcopy(model).float(), graph.to(dtype=torch.float32))
    monkeypatch.setenv("GACE_KERNELS", "")
    exact = energy_and_gradients(model, graph)
    # float32 has 7 digits; plain PyTorch, as these kernels, loses two of them here
    assert torch.allclose(single.forces.double(), exact.forces, rtol=0, atol=3e-5 * exact.forces.abs().max())


@inside
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tables(both, dtype):
    """Radial functions read off tables, and the derivative by the distance."""
    model, graph = example()
    tables = radial_tables(model.to(dtype))
    assert tables is not None
    of_neighbours = graph.species[graph.neighbour]
    distance = graph.edge_vector.norm(dim=2).to(dtype)
    distance[0, 0], distance[1, 1] = 4.0, 0.09  # at the cutoff, and before the first knot
    for table, I in zip(tables, (draw(2, 1, 3, dtype=dtype), draw(3, 4, 3, dtype=dtype)), strict=True):
        harmonics = draw(3, 2, table.degrees**2, dtype=dtype).requires_grad_()
        index = of_neighbours if len(I) == 2 else graph.neighbour

        def values_and_slopes(r, I, table=table, harmonics=harmonics, index=index):
            r, I = r.detach().requires_grad_(), I.detach().requires_grad_()
            found = splined(harmonics, r, I, index, (graph.species, of_neighbours), table)
            weights = draw(*found.shape, dtype=dtype)
            return [found.detach(), *torch.autograd.grad((found * weights).sum(), (harmonics, r, I))]

        both(values_and_slopes, distance, I)


def harmonics_in_pytorch(edge_vector, degrees):
    """What ``geometry`` gives, by the formulas for processors."""
    r = edge_vector.norm(dim=-1)
    harmonics = SphericalHarmonics(degrees - 1).to(edge_vector.dtype)
    return r, torch.cat(harmonics(edge_vector / r[..., None]), dim=-1)


@inside
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("degrees", range(1, 9))
def test_geometry(degrees, dtype):
    """Values and derivatives in any direction, along the axes, and of bonds that are padding."""
    axes = torch.cat([torch.eye(3), -torch.eye(3), torch.tensor([[10.0, 0.0, 0.0]])]).to(dtype)
    edge_vector = torch.cat([axes, 2 * draw(35, 3, dtype=dtype)]).view(14, 3, 3)

    def values_and_slopes(function, x):
        x = x.detach().requires_grad_()
        found = function(x, degrees)
        weights = [draw(*one.shape).to(x.dtype) for one in found]
        total = sum((one * weight).sum() for one, weight in zip(found, weights, strict=True))
        return [*found, *torch.autograd.grad(total, x)]

    ours = values_and_slopes(geometry, edge_vector)
    exact = values_and_slopes(harmonics_in_pytorch, edge_vector.double())
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        scale = max(1.0, float(other.detach().abs().max()))
        assert torch.allclose(one.double(), other, rtol=0, atol=TOLERANCE[dtype] * scale)


@inside
def test_geometry_is_for_evaluation():
    """No bonds are no error; a second derivative is one."""
    assert [one.shape for one in geometry(draw(2, 0, 3), 3)] == [(2, 0), (2, 0, 9)]
    edge_vector = draw(2, 2, 3).requires_grad_()
    r, harmonics = geometry(edge_vector, 2)
    (slope,) = torch.autograd.grad(r.sum() + harmonics.sum(), edge_vector, create_graph=True)
    with pytest.raises(NotImplementedError, match="without tables"):
        slope.sum().backward()


@inside
def test_tabulated_evaluation(both):
    """Energy, forces, virial and features with tables, at once and block by block."""
    model, graph = example()
    tables = radial_tables(model)

    def everything(edge_vector):
        moved = graph._replace(edge_vector=edge_vector)
        at_once = energy_and_gradients(lambda one: model(one, tables), moved)
        return [*at_once, *energy_and_gradients_by_blocks(model, moved, 2, tables=tables)]

    both(everything, graph.edge_vector)


@inside
@pytest.mark.slow
def test_physics():
    """Rotations, permutations, net force, smooth cutoff and the rest, by these kernels alone."""
    gace.testing.check_potential(lambda: example(channels=2, l_max=[1, 1], order=3)[0])


@inside
@pytest.mark.slow
def test_preset(both):
    """A preset as it is, but for the number of channels."""
    atoms = molecule("H2O")
    model = GraphACE.from_preset("2L-medium", elements=["H", "O"], channels=4)
    graph = build_graph([atoms], ["H", "O"], 5.0)
    model.calibrate(graph)
    both(lambda r: energy_and_gradients(model, graph._replace(edge_vector=r))[:4], graph.edge_vector)
