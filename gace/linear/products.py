"""Invariants from the atomic base, all atoms at once, each coupled pair formed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gace.basis import real_clebsch_gordan
from gace.linear.basis import Factor, Invariant


class Pair(NamedTuple):
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
        pairs = pairs_of(invariants)
        self._add_pairs(pairs, start)
        self._add_results(invariants, pairs, start)
        self._add_slopes(invariants, start)

    def _add_pairs(self, pairs: dict[int, list[Pair]], start: dict[Factor, int]) -> None:
        """Index tables of the coupled pairs, one group for each (l1, l2, L)."""
        self.groups: list[tuple[int, str]] = []
        self._row: dict[Pair, int] = {}
        self._place: dict[Pair, tuple[str, int]] = {}
        self._offset: dict[str, int] = {}
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
                self._place.update({pair: (name, row) for row, pair in enumerate(group)})
                self._offset[name] = self._row[group[0]]

    def _add_results(
        self, invariants: Sequence[Invariant], pairs: dict[int, list[Pair]], start: dict[Factor, int]
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
                self._buffer(f"third_pair_{L}", [self._row[Pair(a, b, L)] for a, b, _ in rows])
                self._buffer(
                    f"third_base_{L}", [[start[c] + m for m in range(2 * L + 1)] for _, _, c in rows]
                )
                self.third.append(L)
            if fours:
                four = [invariants[i].factors for i in fours]
                self._buffer(f"fourth_left_{L}", [self._row[Pair(a, b, L)] for a, b, _, _ in four])
                self._buffer(f"fourth_right_{L}", [self._row[Pair(c, d, L)] for _, _, c, d in four])
                self.fourth.append(L)
        for order in (3, 4):
            for L in sorted(pairs):
                position += [i for i, one in enumerate(invariants) if one.order == order and one.L == L]
        wanted = torch.empty(len(position), dtype=torch.int64)
        wanted[torch.tensor(position)] = torch.arange(len(position))
        self.register_buffer("wanted", wanted, persistent=False)

    def _add_slopes(self, invariants: Sequence[Invariant], start: dict[Factor, int]) -> None:
        """Index tables of the derivatives: for each group of pairs, who else is in the product."""
        alone: dict[str, list[tuple[int, int]]] = {name: [] for _, name in self.groups}
        base: dict[str, list[tuple[int, int, list[int]]]] = {name: [] for _, name in self.groups}
        pair: dict[str, list[tuple[int, int, int]]] = {name: [] for _, name in self.groups}
        for index, one in enumerate(invariants):
            if one.order == 2:
                name, row = self._place[_joined(one.factors, 0)]
                alone[name].append((row, index))
            elif one.order == 3:
                name, row = self._place[_joined(one.factors, one.L)]
                c = start[one.factors[2]]
                base[name].append((row, index, [c + m for m in range(2 * one.L + 1)]))
            elif one.order == 4:
                two = _joined(one.factors, one.L), _joined(one.factors[2:], one.L)
                for own, other in (two, two[::-1]):
                    name, row = self._place[own]
                    pair[name].append((row, index, self._row[other]))
        for _, name in self.groups:
            several = [
                *alone[name],
                *((row, index) for row, index, _ in base[name]),
                *((row, index) for row, index, _ in pair[name]),
            ]
            self._buffer(f"slope_row_{name}", [row for row, _ in several])
            self._buffer(f"slope_of_{name}", [index for _, index in several])
            self._buffer(f"partner_base_{name}", [one[2] for one in base[name]])
            self._buffer(f"partner_pair_{name}", [one[2] for one in pair[name]])
        first = [(start[one.factors[0]], index) for index, one in enumerate(invariants) if one.order == 1]
        self._buffer("first_slope", [a * len(invariants) + q for a, q in first])

    def _buffer(self, name: str, index: list[int] | list[list[int]]) -> None:
        self.register_buffer(name, torch.tensor(index, dtype=torch.int64), persistent=False)

    def _coupled(self, base: Tensor) -> dict[int, Tensor]:
        """All coupled pairs by degree, ``(pairs, 2L+1, N)`` each."""
        coupled: dict[int, list[Tensor]] = {}
        for L, name in self.groups:
            left, right = getattr(self, f"left_{name}"), getattr(self, f"right_{name}")
            outer = base[left].unsqueeze(2) * base[right].unsqueeze(1)  # (pairs, 2l1+1, 2l2+1, N)
            coupled.setdefault(L, []).append(getattr(self, f"couple_{name}") @ outer.flatten(1, 2))
        return {L: torch.cat(parts) for L, parts in coupled.items()}

    def jacobian(self, base: Tensor) -> Tensor:
        """``∂B/∂A`` of every atom, ``(n_A, N) -> (N, n_A, n_B)``.

        A product depends on a few factors only, so that its derivatives are formed one by one and put in
        place: a thirtieth of the entries.
        """
        n_atoms, n_invariants = base.shape[1], len(self.wanted)
        pair = self._coupled(base)
        entries = [self.first_slope]
        values = [base.new_ones(len(self.first_slope), n_atoms)]

        def put(rows: Tensor, of: Tensor, value: Tensor) -> None:
            """Derivatives ``(E, m, N)`` of the products ``of`` by the rows ``(E, m)`` of A."""
            entries.append((rows * n_invariants + of.unsqueeze(1)).flatten())
            values.append(value.flatten(0, 1))

        for L, name in self.groups:
            row, of = getattr(self, f"slope_row_{name}"), getattr(self, f"slope_of_{name}")
            by_base, by_pair = getattr(self, f"partner_base_{name}"), getattr(self, f"partner_pair_{name}")
            alone = len(row) - len(by_base) - len(by_pair)
            left, right = getattr(self, f"left_{name}"), getattr(self, f"right_{name}")
            n1, n2 = left.shape[1], right.shape[1]
            share = (2 * L + 1) ** -0.5
            parts = [base.new_ones(alone, 2 * L + 1, n_atoms)]
            if len(by_base):
                parts.append(share * base[by_base])
                own = pair[L][self._offset[name] + row[alone : alone + len(by_base)]]
                put(by_base, of[alone : alone + len(by_base)], share * own)
            if len(by_pair):
                parts.append(share * pair[L][by_pair])
            partner = torch.cat(parts)  # (E, 2L+1, N)
            table = getattr(self, f"couple_{name}")
            # (E, 2l1+1, 2l2+1, N): the coupling contracted with all but the two factors
            bent = (table.T @ partner).view(-1, n1, n2, n_atoms)
            a, b = left[row], right[row]
            put(a, of, (bent * base[b].unsqueeze(1)).sum(2))
            put(b, of, (bent * base[a].unsqueeze(2)).sum(1))
        found = base.new_zeros(n_atoms, self.n_base * n_invariants)
        found.index_add_(1, torch.cat(entries), torch.cat(values).T)
        return found.view(n_atoms, self.n_base, n_invariants)

    def forward(self, base: Tensor) -> Tensor:
        """``(n_A, N) -> (n_B, N)``."""
        pair = self._coupled(base)
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


def _joined(two: tuple[Factor, ...], L: int) -> Pair:
    """Two factors coupled to degree L."""
    return Pair(two[0], two[1], L)


def pairs_of(invariants: Sequence[Invariant]) -> dict[int, list[Pair]]:
    """The coupled pairs that any invariant needs, by L."""
    needed: set[Pair] = set()
    for one in invariants:
        if one.order == 2:
            needed.add(_joined(one.factors, 0))
        elif one.order == 3:
            needed.add(_joined(one.factors[:2], one.L))
        elif one.order == 4:
            needed.add(_joined(one.factors[:2], one.L))
            needed.add(_joined(one.factors[2:], one.L))
    by_degree: dict[int, list[Pair]] = {}
    for pair in sorted(needed):
        by_degree.setdefault(pair.L, []).append(pair)
    return by_degree
