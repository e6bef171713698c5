"""The CUDA C++ of the kernels of warps, run on the processor beside the processor's own kernels."""

from __future__ import annotations

import pytest
import torch
from cuda_on_host import COMPILER, OnHost

from gace.basis import SphericalHarmonics
from gace.potential.kernels.build import library
from gace.potential.kernels.cuda import bonds as launchers
from gace.potential.kernels.cuda import warps

pytestmark = pytest.mark.skipif(
    COMPILER is None or library() is None,
    reason="no C++ compiler to build the kernels and what they are compared with",
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = [torch.float64, torch.float32]
N, J, ELEMENTS = 5, 37, 2


def draw(*shape, dtype):
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def unwritten(*shape, dtype):
    return torch.full(shape, torch.nan, dtype=dtype)


def compare(found, expected):
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE[expected.dtype] * scale)


def bonds(dtype):
    """Elements of centres and neighbours, and distances, some beyond the cutoff of 3.5 Å."""
    generator = torch.Generator().manual_seed(0)
    r = (1.2 + 2.6 * torch.rand(N, J, dtype=torch.float64, generator=generator)).to(dtype)
    r[0] = 4.0  # an atom without neighbours
    return torch.arange(N) % ELEMENTS, (torch.arange(N * J) % 3 % ELEMENTS).view(N, J), r


@pytest.mark.parametrize(
    ("degrees", "components", "channels", "dtype", "messages", "mode", "parts"),
    [
        (5, 1, 32, torch.float64, "gathered", 0, 1),
        (4, 4, 32, torch.float64, "gathered", 2, 3),
        (4, 4, 32, torch.float32, "gathered", 2, 1),
        (3, 4, 32, torch.float32, "gathered", 1, 2),
        (2, 4, 64, torch.float32, "one each", 1, 1),
        (3, 1, 16, torch.float32, "gathered", 0, 1),
        (3, 1, 8, torch.float64, "none", 0, 1),
        (2, 1, 96, torch.float32, "none", 0, 1),
    ],
)
def test_splined(tmp_path, degrees, components, channels, dtype, messages, mode, parts):
    """Every way of sharing out channels, bonds and messages; harmonics of more degrees than are asked for."""
    more = (degrees + 1) ** 2
    carried, gathered = messages != "none", messages == "gathered"
    code, shape = warps.splined(degrees, more, components, channels, dtype, carried, gathered, mode)
    centre, neighbour, r = bonds(dtype)
    table = draw(ELEMENTS**2, 6, 3, degrees * channels, dtype=dtype)
    limits = torch.tensor([1.0, 2.0, 3.5], dtype=dtype)
    Y, nothing = draw(N, J, more, dtype=dtype), torch.empty(0, dtype=dtype)
    rows = N if gathered else N * J
    I = draw(rows, components, channels, dtype=dtype) if carried else nothing
    index = (torch.arange(N * J) * 7 % N).view(N, J) if gathered else nothing.long()
    arguments = Y, r, I, index, centre, neighbour, table, limits, degrees, channels
    expected = torch.ops.gace.splined(*arguments)
    pieces = channels // shape.warp
    grid = -(-N * parts // shape.warps), pieces, 1
    given = [table, limits, centre, neighbour, r, index, Y, I]
    numbers = [N, J, parts, ELEMENTS, table.shape[1] - 1]
    out = unwritten(parts, *expected.shape, dtype=dtype)
    OnHost(tmp_path / "forward", "splined_forward", code)(grid, 32 * shape.warps, [*given, out, *numbers])
    compare(out.sum(0), expected)
    g = draw(*expected.shape, dtype=dtype)
    slopes = torch.ops.gace.splined_backward(g, *arguments, mode > 0)
    dY, dr = unwritten(pieces, *Y.shape, dtype=dtype), unwritten(pieces, N, J, dtype=dtype)
    dI = torch.zeros_like(I if mode != 1 else draw(N * J, components, channels, dtype=dtype))
    made = [g, dY, dr, dI, *numbers]
    OnHost(tmp_path / "backward", "splined_backward", code)(grid, 32 * shape.warps, [*given, *made])
    compare(dY.sum(0), slopes[0])
    compare(dr.sum(0), slopes[1])
    if mode == 1 and gathered:
        dI = torch.zeros_like(I).index_add_(0, index.reshape(-1), dI)
    if mode > 0:
        compare(dI, slopes[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degrees", [1, 2, 5, 7])
def test_geometry(tmp_path, degrees, dtype):
    code, each = warps.geometry(degrees, dtype)
    n = 70
    vector = draw(n, 3, dtype=dtype).requires_grad_()
    r = vector.norm(dim=1)
    harmonics = torch.cat(SphericalHarmonics(degrees - 1).to(dtype)(vector / r[:, None]), -1)
    made = unwritten(n, dtype=dtype), unwritten(n, degrees**2, dtype=dtype)
    grid, threads = (-(-n // (32 * each)), 1, 1), 32 * each
    OnHost(tmp_path / "forward", "geometry_forward", code)(grid, threads, [vector.detach(), *made, n])
    compare(made[0], r.detach())
    compare(made[1], harmonics.detach())
    g = draw(n, dtype=dtype), draw(n, degrees**2, dtype=dtype)
    (expected,) = torch.autograd.grad((r * g[0]).sum() + (harmonics * g[1]).sum(), vector)
    found = unwritten(n, 3, dtype=dtype)
    OnHost(tmp_path / "backward", "geometry_backward", code)(grid, threads, [vector.detach(), *g, found, n])
    compare(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("repulsion", "inner", "power"), [(True, True, 6), (False, True, 2), (True, False, 5)]
)
def test_sums(tmp_path, repulsion, inner, power, dtype):
    code = warps.sums(power, repulsion, inner, dtype)
    centre, neighbour, r = bonds(dtype)
    # inverse cutoff, charges, inverse length, inverse range, reach and inverse width; the last pair has none
    rows = [[0.3, 250.0, 5.0, 0.5, 3.0, 0.9], [0.4, 40.0, 4.0, 0.6, 2.0, 0.8], [0.4, 0.0, 4.0, 0.0, 0.0, 0.0]]
    constants = torch.tensor([*rows[:2], *rows[1:]], dtype=dtype)
    arguments = r, centre, neighbour, constants, power, repulsion, inner
    out, slopes = unwritten(N, 3, dtype=dtype), unwritten(N, J, dtype=dtype)
    tables = [r, centre, neighbour, constants]
    grid = (-(-N // 4), 1, 1), 128
    OnHost(tmp_path / "forward", "sums_forward", code)(*grid, [*tables, out, N, J, ELEMENTS])
    compare(out, torch.ops.gace.bond_sums(*arguments))
    g, grid = draw(N, 3, dtype=dtype), ((-(-N * J // 128), 1, 1), 128)
    OnHost(tmp_path / "backward", "sums_backward", code)(*grid, [g, *tables, slopes, N, J, ELEMENTS])
    compare(slopes, torch.ops.gace.bond_sums_backward(g, *arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("dims", "counts", "channels"),
    [((1, 3, 5), (1, 2, 3), (32, 32)), ((1, 3), (2, 1), (16, 16)), ((3, 1), (1, 2), (32, 64))],
)
def test_mixed(tmp_path, dims, counts, channels, dtype):
    """A product per irrep, and the one with the transposed matrices; more atoms than one block has."""
    atoms = 7
    sizes = [dim * count for dim, count in zip(dims, counts, strict=True)]
    rows = draw(atoms, sum(sizes), channels[0], dtype=dtype).requires_grad_()
    weights = draw(sum(counts), *channels, dtype=dtype)
    expected = torch.cat(
        [
            part.reshape(atoms, dim, -1) @ matrix.flatten(0, 1)
            for part, matrix, dim in zip(rows.split(sizes, 1), weights.split(list(counts)), dims, strict=True)
        ],
        dim=1,
    )
    for transposed in (False, True):
        given, made = (channels[::-1], channels) if transposed else (channels, channels)
        code, jobs, block = warps.mixed(dims, counts, given, dtype, transposed)
        g = draw(*expected.shape, dtype=dtype) if transposed else rows.detach()
        want = torch.autograd.grad(expected, rows, g)[0] if transposed else expected.detach()
        out = unwritten(*want.shape, dtype=dtype)
        grid = 2, jobs, given[1] // block
        OnHost(tmp_path / str(transposed), "mixed", code)(grid, 128, [g, weights, out, atoms, 4])
        compare(out, want)
        assert made[1] == expected.shape[2]


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """The launchers of ``cuda/bonds.py`` with the processor in the place of a GPU."""
    made = {}

    def kernel(name, code, device):
        return made.setdefault((name, code), OnHost(tmp_path / f"{name}{len(made)}", name, code))

    monkeypatch.setattr(launchers, "_usable", lambda x: True)
    monkeypatch.setattr(launchers, "_made", kernel)
    monkeypatch.setattr(launchers, "_run", lambda kernel, grid, threads, *given: kernel(grid, threads, given))
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_launchers(launched, dtype):
    """What the operators ask of a GPU comes back as they give it on the processor."""
    centre, neighbour, r = bonds(dtype)
    vector = draw(N, J, 3, dtype=dtype)
    for one, other in zip(
        launchers.geometry_forward(vector, 4), torch.ops.gace.geometry(vector, 4), strict=True
    ):
        compare(one, other)
    slopes = draw(N, J, dtype=dtype), draw(N, J, 16, dtype=dtype), vector, 4
    compare(launchers.geometry_backward(*slopes), torch.ops.gace.geometry_backward(*slopes))
    constants = torch.tensor([[0.3, 250.0, 5.0, 0.5, 3.0, 0.9]] * ELEMENTS**2, dtype=dtype)
    how = r, centre, neighbour, constants, 6, True, True
    compare(launchers.sums_forward(*how), torch.ops.gace.bond_sums(*how))
    g = draw(N, 3, dtype=dtype)
    compare(launchers.sums_backward(g, *how), torch.ops.gace.bond_sums_backward(g, *how))
    table, limits = draw(ELEMENTS**2, 6, 3, 4 * 8, dtype=dtype), torch.tensor([1.0, 2.0, 3.5], dtype=dtype)
    I, index = draw(N, 3, 8, dtype=dtype), (torch.arange(N * J) * 7 % N).view(N, J)
    given = draw(N, J, 16, dtype=dtype), r, I, index, centre, neighbour, table, limits, 4, 8
    expected = torch.ops.gace.splined(*given)
    compare(launchers.splined_forward(*given), expected)
    g = draw(*expected.shape, dtype=dtype)
    for fixed_order in (False, True):
        torch.use_deterministic_algorithms(fixed_order)
        try:
            found = launchers.splined_backward(g, *given, True)
        finally:
            torch.use_deterministic_algorithms(False)
        for one, other in zip(found, torch.ops.gace.splined_backward(g, *given, True), strict=True):
            compare(one, other)
    weights, dims, counts = draw(3, 8, 8, dtype=dtype), (1, 3), (2, 1)
    rows = draw(N, 5, 8, dtype=dtype)
    whole, nothing = torch.ops.gace.mixed(rows, weights, None, None, dims, counts, 0)
    compare(launchers.mixed(rows, weights, dims, counts, False), whole)
    back = torch.ops.gace.mixed_backward(whole, nothing, weights, dims, counts)
    compare(launchers.mixed(whole, weights, dims, counts, True), back)
    assert len(launched) == 9  # the order of sums over messages makes a kernel of its own


def test_what_no_warp_can_hold():
    """Densities of too many components, and odd numbers of channels, are for the general kernels."""
    assert warps.splined(4, 16, 9, 64, torch.float64, True, True, 2) is None
    assert warps.splined(4, 16, 1, 33, torch.float32, True, True, 0) is None
    assert warps.mixed((1, 3), (1, 1), (33, 33), torch.float32, False) is None
