"""Weighted Clebsch–Gordan products written out term by term as CUDA C++.

A thread has one atom and one channel: its components are in registers, indices are part of the code, and
what is left of a term is a multiplication or two. The general kernel (``triton/coupling.py``) reads three
numbers and two to three indices per term instead, and caches are its limit.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Row(NamedTuple):
    """One row of coefficients."""

    path: int
    target: int
    terms: list[tuple[int, int, float]]
    """Component of x, of y, coefficient."""


class Product(NamedTuple):
    """What :class:`gace.potential.kernels.coupling.WeightedCoupling` computes."""

    rows: list[Row]
    paths: int
    left: int
    right: int
    targets: int
    equal: bool

    @property
    def n_terms(self) -> int:
        """Number of nonzero coefficients."""
        return sum(len(row.terms) for row in self.rows)


class _Registered(NamedTuple):
    """What :func:`register` was given, as arrays; objects are made where code is written."""

    where: NDArray[np.int32]
    value: NDArray[np.float64]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    sizes: tuple[int, int, int, int]
    equal: bool


_registered: dict[int, _Registered] = {}


def register(
    where: NDArray[np.int64],
    value: NDArray[np.float64],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    sizes: tuple[int, int, int, int],
    equal: bool,
) -> int:
    """Remember a product; its number is the same wherever the coefficients are.

    Args:
        where: row, i and j of the nonzero coefficients ``(3, terms)``.
        value: the coefficients ``(terms,)``.
        rows: path and target of each row.
        sizes: number of paths, components of x, of y, and targets.
        equal: x and y are the same array.
    """
    content = hashlib.sha256(repr((sizes, equal)).encode())
    for array in (where, value, *rows):
        content.update(np.ascontiguousarray(array).tobytes())
    key = int.from_bytes(content.digest()[:7], "big")
    if key not in _registered:
        _registered[key] = _Registered(where.astype(np.int32), value, rows, sizes, equal)
    return key


@functools.cache
def product(key: int) -> Product:
    """The product that was registered under this number."""
    where, value, rows, sizes, equal = _registered[key]
    made = [Row(int(path), int(target), []) for path, target in zip(*rows, strict=True)]
    for row, i, j, c in zip(*where.tolist(), value.tolist(), strict=True):
        made[row].terms.append((i, j, c))
    return Product(made, *sizes, equal)


# BEGIN and END make a block of each path's code, by a condition that always holds, which no compiler knows;
# FRESH forgets what is known of a component: else all is read and multiplied first, and registers run out
_HEAD = """#ifdef __CUDACC__
#define BEGIN {{ int go; asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(go) :: "memory"); if (go) {{
#define END }} }}
#define FRESH(v) asm volatile("" : "+{letter}"(v));
#else
#define BEGIN {{
#define END }}
#define FRESH(v)
#endif
typedef {real} real;
extern "C" __global__ void __launch_bounds__(128) {name}({parameters}, const long long *species, {results},
                                                        int atoms, int elements) {{
  const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= (long long)atoms * {K}) return;
  const long long n = id / {K};
  const int k = (int)(id % {K}), step = elements * {K};
  w += species[n] * {K} + k;
"""


def source(name: str, what: Product, K: int, real: str, of_y: bool, of_w: bool) -> str:
    """The code of one kernel.

    Args:
        name: ``forward``, ``backward`` or ``twice``, as the operators of the couplings are called.
        what: the product.
        K: number of channels.
        real: ``float`` or ``double``.
        of_y: whether the derivative by y is wanted (not for equal factors).
        of_w: likewise by the weights, atom by atom.
    """
    write = {"forward": _forward, "backward": _backward, "twice": _twice}[name]
    own = ["x"] if what.equal else ["x", "y"]
    tangents = ["a"] if what.equal else ["a", "b"]
    given = [*([] if name == "forward" else ["g"]), *own, *(tangents if name == "twice" else []), "w"]
    made = {
        "forward": ["out"],
        "backward": ["gx", *(["gy"] if of_y else []), *(["gw"] if of_w else [])],
        "twice": ["gg", "gx", *(["gy"] if of_y else []), *(["gw"] if of_w else [])],
    }[name]
    length = {
        "g": what.targets, "x": what.left, "y": what.right, "a": what.left, "b": what.right,
        "out": what.targets, "gg": what.targets, "gx": what.left, "gy": what.right, "gw": what.paths,
    }  # fmt: skip
    lines = [
        _HEAD.format(
            real=real,
            letter="f" if real == "float" else "d",
            name=name,
            K=K,
            parameters=", ".join(f"const real *{one}" for one in given),
            results=", ".join(f"real *{one}" for one in made),
        )
    ]
    lines += [f"  {one} += n * {length[one] * K} + k;" for one in (*given[:-1], *made)]
    for one in (*own, *(tangents if name == "twice" else [])):
        lines += [f"  real {one}{i} = {one}[{i * K}];" for i in range(length[one])]
    suffix = "f" if real == "float" else ""
    return "\n".join([*lines, *write(what, K, suffix, of_y, of_w), "}", ""])


def _sum(terms: Iterable[tuple[float, str]], suffix: str) -> str:
    """``c₁ f₁ + c₂ f₂ …`` with the coefficients as literals."""
    return " + ".join(f"{c!r}{suffix} * {factor}" for c, factor in terms) or f"0.0{suffix}"


def _value(row: Row, pairs: list[tuple[str, str]], suffix: str) -> str:
    """A row of the product, or the sum of several with other factors; component by component of the first."""
    by_left: dict[int, list[tuple[float, int]]] = {}
    for i, j, c in row.terms:
        by_left.setdefault(i, []).append((c, j))
    parts = [
        f"{x}{i} * ({_sum(((c, f'{y}{j}') for c, j in terms), suffix)})"
        for x, y in pairs
        for i, terms in by_left.items()
    ]
    return " + ".join(parts) or f"0.0{suffix}"


def _fresh(what: Product, names: str) -> str:
    """Code after which no multiple of a component is held for later."""
    counts = {"x": what.left, "a": what.left, "y": what.right, "b": what.right}
    return "  " + " ".join(f"FRESH({one}{i})" for one in names for i in range(counts[one]))


def _by(rows: list[Row], key: str) -> Iterator[tuple[int, list[Row]]]:
    """Rows of each path or target, in its order."""
    for number in sorted({getattr(row, key) for row in rows}):
        yield number, [row for row in rows if getattr(row, key) == number]


def _forward(what: Product, K: int, suffix: str, of_y: bool, of_w: bool) -> Iterator[str]:
    y = "x" if what.equal else "y"
    found = dict(_by(what.rows, "target"))
    yield "  real s;"
    for target in range(what.targets):
        yield "  BEGIN"
        yield _fresh(what, "x" if what.equal else "xy")
        yield f"  s = 0.0{suffix};"
        for row in found.get(target, []):
            yield f"  s += w[{row.path} * step] * ({_value(row, [('x', y)], suffix)});"
        yield f"  out[{target * K}] = s;"
        yield "  END"


def _owed(row: Row, equal: bool, left: str, right: str, of_y: bool, suffix: str) -> Iterator[str]:
    """What the factors are owed by a row, h being its weight times its cotangent."""
    by_left: dict[int, list[tuple[float, str]]] = {}
    by_right: dict[int, list[tuple[float, str]]] = {}
    for i, j, c in row.terms:
        by_left.setdefault(i, []).append((c, f"{right}{j}"))
        if equal:
            by_left.setdefault(j, []).append((c, f"{right}{i}"))
        elif of_y:
            by_right.setdefault(j, []).append((c, f"{left}{i}"))
    for name, found in (("gx", by_left), ("gy", by_right)):
        for i, terms in found.items():
            yield f"  {name}{i} += h * ({_sum(terms, suffix)});"


def _backward(what: Product, K: int, suffix: str, of_y: bool, of_w: bool) -> Iterator[str]:
    y = "x" if what.equal else "y"

    def row_of(row: Row) -> Iterator[str]:
        yield f"  h = g[{row.target * K}];"
        if of_w:
            yield f"  s += h * ({_value(row, [('x', y)], suffix)});"
        yield "  h *= q;"
        yield from _owed(row, what.equal, "x", y, of_y, suffix)

    yield from _zeros(what, of_y, suffix)
    yield "  real h, q, s;"
    yield from _path_by_path(what, K, suffix, of_w, "x" if what.equal else "xy", row_of)
    yield from _stored(what, K, of_y)


def _twice(what: Product, K: int, suffix: str, of_y: bool, of_w: bool) -> Iterator[str]:
    y, b = ("x", "a") if what.equal else ("y", "b")

    def row_of(row: Row) -> Iterator[str]:
        yield f"  v = {_value(row, [('a', y), ('x', b)], suffix)};"
        yield f"  h = g[{row.target * K}];"
        yield f"  gg{row.target} += q * v;"
        if of_w:
            yield "  s += h * v;"
        yield "  h *= q;"
        yield from _owed(row, what.equal, "a", b, of_y, suffix)

    yield from _zeros(what, of_y, suffix)
    yield from (f"  real gg{t} = 0.0{suffix};" for t in range(what.targets))
    yield "  real h, q, s, v;"
    yield from _path_by_path(what, K, suffix, of_w, "xa" if what.equal else "xyab", row_of)
    yield from _stored(what, K, of_y)
    yield from (f"  gg[{t * K}] = gg{t};" for t in range(what.targets))


def _path_by_path(
    what: Product, K: int, suffix: str, of_w: bool, factors: str, row_of: Callable[[Row], Iterator[str]]
) -> Iterator[str]:
    """The code of all rows, those of a path together: its weight is q, and s what the weight is owed."""
    found = dict(_by(what.rows, "path"))
    for path in range(what.paths):
        yield "  BEGIN"
        yield _fresh(what, factors)
        yield f"  q = w[{path} * step]; s = 0.0{suffix};"
        for row in found.get(path, []):
            yield from row_of(row)
        if of_w:
            yield f"  gw[{path * K}] = s;"
        yield "  END"


def _zeros(what: Product, of_y: bool, suffix: str) -> Iterator[str]:
    yield from (f"  real gx{i} = 0.0{suffix};" for i in range(what.left))
    if of_y:
        yield from (f"  real gy{j} = 0.0{suffix};" for j in range(what.right))


def _stored(what: Product, K: int, of_y: bool) -> Iterator[str]:
    yield from (f"  gx[{i * K}] = gx{i};" for i in range(what.left))
    if of_y:
        yield from (f"  gy[{j * K}] = gy{j};" for j in range(what.right))
