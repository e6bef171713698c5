"""Invariants from the atomic base, all atoms at once, each coupled pair formed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gace.basis import real_clebsch_gordan
from gace.linear.basis import Factor, Invariant


class _Pair(NamedTuple):
    """Two factors coupled to degree L."""

    left: Factor
    right: Factor
    L: int


class Products(nn.Module):
    """``A (n_A, N) -> B (n_B, N)``.

    Rows of A: factor by factor (see :attr:`factors`), components m = -l … l. Couplings are the
    orthonormal Clebsch–Gordan coefficients; scalar products of degree L are divided by √(2L+1).
    """

    def __init__(self, invariants: Sequence[Invariant]) -> None:
        super().__init__()
        self.factors = sorted({factor for one in invariants for factor in one.factors})
        start, self.n_base = {}, 0
        for factor in self.factors:
            start[factor] = self.n_base
            self.n_base += 2 * factor.l + 1
        pairs = _pairs_of(invariants)
        self._add_pairs(pairs, start)
        self._add_results(invariants, pairs, start)

    def _add_pairs(self, pairs: dict[int, list[_Pair]], start: dict[Factor, int]) -> None:
        """Index tables of the coupled pairs, one group for each (l1, l2, L)."""
        self.groups: list[tuple[int, str]] = []
        self._row: dict[_Pair, int] = {}
        for L, of_degree in sorted(pairs.items()):
            of_degree.sort(key=lambda pair: (pair.left.l, pair.right.l, pair))
            self._row.update({pair: row for row, pair in enumerate(of_degree)})
            for l1, l2 in sorted({(pair.left.l, pair.right.l) for pair in of_degree}):
                group = [pair for pair in of_degree if (pair.left.l, pair.right.l) == (l1, l2)]
                name = f"{L}_{l1}_{l2}"
                self._buffer(f"left_{name}", [[start[p.left] + m for m in range(2 * l1 + 1)] for p in group])
                self._buffer(
                    f"right_{name}", [[start[p.right] + m for m in range(2 * l2 + 1)] for p in group]
                )
                table = torch.from_numpy(real_clebsch_gordan(l1, l2, L)).flatten(1).contiguous()
                self.register_buffer(f"couple_{name}", table, persistent=False)
                self.groups.append((L, name))

    def _add_results(
        self, invariants: Sequence[Invariant], pairs: dict[int, list[_Pair]], start: dict[Factor, int]
    ) -> None:
        """Index tables of the invariants, and the order in which they are wanted."""
        position: list[int] = []
        ones = [index for index, one in enumerate(invariants) if one.order == 1]
        self._buffer("first", [start[invariants[index].factors[0]] for index in ones])
        position += ones
        twos = [index for index, one in enumerate(invariants) if one.order == 2]
        self._buffer("second", [self._row[_joined(invariants[index].factors, 0)] for index in twos])
        position += twos
        self.third, self.fourth = [], []
        for L in sorted(pairs):
            threes = [i for i, one in enumerate(invariants) if one.order == 3 and one.L == L]
            fours = [i for i, one in enumerate(invariants) if one.order == 4 and one.L == L]
            if threes:
                rows = [invariants[i].factors for i in threes]
                self._buffer(f"third_pair_{L}", [self._row[_Pair(a, b, L)] for a, b, _ in rows])
                self._buffer(
                    f"third_base_{L}", [[start[c] + m for m in range(2 * L + 1)] for _, _, c in rows]
                )
                self.third.append(L)
            if fours:
                four = [invariants[i].factors for i in fours]
                self._buffer(f"fourth_left_{L}", [self._row[_Pair(a, b, L)] for a, b, _, _ in four])
                self._buffer(f"fourth_right_{L}", [self._row[_Pair(c, d, L)] for _, _, c, d in four])
                self.fourth.append(L)
        for order in (3, 4):
            for L in sorted(pairs):
                position += [i for i, one in enumerate(invariants) if one.order == order and one.L == L]
        wanted = torch.empty(len(position), dtype=torch.int64)
        wanted[torch.tensor(position)] = torch.arange(len(position))
        self.register_buffer("wanted", wanted, persistent=False)

    def _buffer(self, name: str, index: list[int] | list[list[int]]) -> None:
        self.register_buffer(name, torch.tensor(index, dtype=torch.int64), persistent=False)

    def forward(self, base: Tensor) -> Tensor:
        """``(n_A, N) -> (n_B, N)``."""
        coupled: dict[int, list[Tensor]] = {}
        for L, name in self.groups:
            left, right = getattr(self, f"left_{name}"), getattr(self, f"right_{name}")
            outer = base[left].unsqueeze(2) * base[right].unsqueeze(1)  # (pairs, 2l1+1, 2l2+1, N)
            coupled.setdefault(L, []).append(getattr(self, f"couple_{name}") @ outer.flatten(1, 2))
        pair = {L: torch.cat(parts) for L, parts in coupled.items()}  # (pairs, 2L+1, N)
        found = [base[self.first]]
        if 0 in pair:
            found.append(pair[0][self.second, 0])
        for L in self.third:
            a, b = pair[L][getattr(self, f"third_pair_{L}")], base[getattr(self, f"third_base_{L}")]
            found.append((a * b).sum(1) / (2 * L + 1) ** 0.5)
        for L in self.fourth:
            a, b = pair[L][getattr(self, f"fourth_left_{L}")], pair[L][getattr(self, f"fourth_right_{L}")]
            found.append((a * b).sum(1) / (2 * L + 1) ** 0.5)
        return torch.cat(found)[self.wanted]


def _joined(two: tuple[Factor, ...], L: int) -> _Pair:
    """Two factors coupled to degree L."""
    return _Pair(two[0], two[1], L)


def _pairs_of(invariants: Sequence[Invariant]) -> dict[int, list[_Pair]]:
    """The coupled pairs that any invariant needs, by L."""
    needed: set[_Pair] = set()
    for one in invariants:
        if one.order == 2:
            needed.add(_joined(one.factors, 0))
        elif one.order == 3:
            needed.add(_joined(one.factors[:2], one.L))
        elif one.order == 4:
            needed.add(_joined(one.factors[:2], one.L))
            needed.add(_joined(one.factors[2:], one.L))
    by_degree: dict[int, list[_Pair]] = {}
    for pair in sorted(needed):
        by_degree.setdefault(pair.L, []).append(pair)
    return by_degree
