"""Couplings written out as CUDA C++, run on the processor: a thread after the other, by any C++ compiler.

The code has no communication between threads, so that what a GPU's threads would do is a loop here.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from gace.potential.graph_ace import GraphACE
from gace.potential.kernels import WeightedCoupling
from gace.potential.kernels.build import library
from gace.potential.kernels.cuda.written import product, source

COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
pytestmark = pytest.mark.skipif(
    COMPILER is None or library() is None,
    reason="no C++ compiler to build the kernels and what they are compared with",
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

HOST = """
struct Where { unsigned x; };
static Where blockIdx, threadIdx, blockDim = {128};
#define __global__
#define __launch_bounds__(n)
"""


class OnHost:
    """A kernel compiled for the processor, called as on a GPU."""

    def __init__(self, folder, name, code, n_arguments):
        pointers = ", ".join(f"void *p{i}" for i in range(n_arguments))
        # arguments of any pointer type: the call is made by C's rules
        call = f"""
extern "C" void run(int threads, {pointers}, int atoms, int elements) {{
  auto kernel = (void (*)({", ".join(["void *"] * n_arguments)}, int, int)){name};
  for (blockIdx.x = 0; blockIdx.x * 128 < (unsigned)threads; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < 128; ++threadIdx.x)
      kernel({", ".join(f"p{i}" for i in range(n_arguments))}, atoms, elements);
}}
"""
        (folder / "kernel.cpp").write_text(HOST + code + call)
        made = folder / "kernel.so"
        command = [COMPILER, "-O0", "-shared", "-fPIC", str(folder / "kernel.cpp"), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True)
        self.run = ctypes.CDLL(str(made)).run

    def __call__(self, threads, tensors, atoms, elements):
        pointers = [ctypes.c_void_p(one.data_ptr()) for one in tensors]
        self.run(ctypes.c_int(threads), *pointers, ctypes.c_int(atoms), ctypes.c_int(elements))


def draw(generator, *shape, dtype):
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def check(coupling, channels, dtype, folder, of_y, of_w):
    """Values, first and second derivatives against the processor's kernels."""
    key = coupling.size[-1]
    what, equal = product(key), coupling.equal
    N, E = 5, 2
    generator = torch.Generator().manual_seed(1)
    species = torch.arange(N) % E
    x, a = (draw(generator, N, what.left, channels, dtype=dtype) for _ in range(2))
    y, b = (x, a) if equal else (draw(generator, N, what.right, channels, dtype=dtype) for _ in range(2))
    w = draw(generator, what.paths, E, channels, dtype=dtype)
    g = draw(generator, N, what.targets, channels, dtype=dtype)
    tables = species, coupling.index, coupling.value.to(dtype), coupling.size
    own, tangents = ([x], [a]) if equal else ([x, y], [a, b])
    wanted = equal, of_y, of_w

    def run(name, tensors, made):
        folder_of = folder / name
        folder_of.mkdir()
        real = {torch.float32: "float", torch.float64: "double"}[dtype]
        code = source(name, what, channels, real, of_y and not equal, of_w)
        arguments = [*tensors, w, species, *made]
        OnHost(folder_of, name, code, len(arguments))(N * channels, arguments, N, E)
        return made

    def empty(*shapes):
        return [torch.full(shape, torch.nan, dtype=dtype) for shape in shapes]

    slopes = [
        x.shape,
        *([y.shape] if of_y and not equal else []),
        *([(N, what.paths, channels)] if of_w else []),
    ]
    out = run("forward", own, empty(g.shape))
    expected = [torch.ops.gace.coupling(x, y, w, *tables, equal)]
    compare(out, expected, dtype)
    found = run("backward", [g, *own], empty(*slopes))
    expected = torch.ops.gace.coupling_backward(g, x, y, w, *tables, *wanted)
    compare(of_elements(found, species, E, of_w), [one for one in expected if one.numel()], dtype)
    found = run("twice", [g, *own, *tangents], empty(g.shape, *slopes))
    expected = torch.ops.gace.coupling_twice(g, x, y, w, *tables, a, b, *wanted)
    compare(of_elements(found, species, E, of_w), [one for one in expected if one.numel()], dtype)


def of_elements(found, species, E, of_w):
    """The last array, which is owed to the weights by each atom, summed by element."""
    if not of_w:
        return found
    *rest, of_atoms = found
    summed = of_atoms.new_zeros(E, *of_atoms.shape[1:]).index_add_(0, species, of_atoms)
    return [*rest, summed.transpose(0, 1)]


def compare(found, expected, dtype):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("equal", "of_y", "of_w"),
    [(True, False, True), (False, True, True), (False, False, True), (False, True, False)],
)
def test_products(tmp_path, equal, of_y, of_w, dtype):
    """Random coefficients, a path without terms among them, a target that no row has, 33 channels."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 5, 5 if equal else 6)) * (rng.random((7, 5, 5 if equal else 6)) < 0.3)
    table[4] = 0.0
    coupling = WeightedCoupling(table, [0, 0, 1, 1, 2, 3, 3], [0, 1, 2, 0, 1, 2, 3], targets=5, equal=equal)
    check(coupling, 33, dtype, tmp_path, of_y, of_w)


@pytest.mark.parametrize("name", ["raw", "pair", "triple"])
def test_of_a_model(tmp_path, name):
    """The couplings of a second layer."""
    sparse = GraphACE.from_preset("2L-small", elements=["H", "O"]).layers[1].sparse
    coupling = sparse.raw if name == "raw" else sparse.products[name]
    check(coupling, 3, torch.float64, tmp_path, name != "raw", name != "raw")


def test_a_product_is_known_by_its_content():
    """Equal coefficients have one number, others another."""
    first, again = (GraphACE.from_preset("2L-small", elements=["H"]).layers[0].sparse for _ in range(2))
    keys = {name: one.size[-1] for name, one in first.products.items()}
    assert keys == {name: one.size[-1] for name, one in again.products.items()}
    assert len(set(keys.values())) == len(keys)
