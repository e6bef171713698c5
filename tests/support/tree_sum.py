"""The formalism as the paper writes it: explicit sums over rooted trees, one tree at a time.

Slow and obvious on purpose; nothing here is shared with the fast code but the parameters and
the Clebsch–Gordan table (which has tests of its own).
"""

from __future__ import annotations

from itertools import product

import numpy as np

from gace.basis import real_clebsch_gordan
from gace.potential.graph_ace import GraphACE


def silu(x):
    return x / (1 + np.exp(-x))


def harmonics(u, l_max):
    """Y_lm of one unit vector from SciPy, real, Σ_m Y² = 2l+1."""
    from scipy.special import sph_harm_y

    theta, phi = np.arccos(np.clip(u[2], -1, 1)), np.arctan2(u[1], u[0])
    found = []
    for l in range(l_max + 1):
        row = []
        for m in range(-l, l + 1):
            y = np.sqrt(4 * np.pi) * sph_harm_y(l, abs(m), theta, phi)
            sign = np.sqrt(2) * (-1) ** m
            row.append(y.real if m == 0 else sign * (y.real if m > 0 else y.imag))
        found.append(np.array(row))
    return found


class TreeSum:
    """Evaluate the invariants of a model by enumerating trees."""

    def __init__(self, model: GraphACE, species, edges):
        """``edges[i]``: list of (j, vector) inside the cutoff."""
        self.model, self.species, self.edges = model, species, edges
        self.p = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def radial(self, t, i, j, r):
        """R_lk of one bond with the cutoff factor and the neighbour normalisation."""
        m, layer = self.model, self.model.layers[t]
        n = np.arange(1, m.radial_basis.n_max + 1)
        g = np.sin(n * np.pi * r / m.cutoff) * m.cutoff / np.sqrt(2) / r
        x = silu(
            g @ self.p[f"layers.{t}.radial.weights.0"]
            + self.p[f"layers.{t}.radial.centre_shift"][self.species[i]]
            + self.p[f"layers.{t}.radial.neighbour_shift"][self.species[j]]
        )
        x = silu(x @ self.p[f"layers.{t}.radial.weights.1"] + self.p[f"layers.{t}.radial.biases.0"])
        x = 1.6 * (x @ self.p[f"layers.{t}.radial.weights.2"])
        u, p = r / m.cutoff, m.cutoff_power
        cut = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2)
        return (x * cut / np.sqrt(m.mean_neighbours)).reshape(layer.l_max + 1, layer.channels)

    def branches(self, t, i):
        """Values of all branches that leave atom i: one bond and any subtree of depth < t+1 behind it.

        Each is a dict irrep -> (2l+1, K).
        """
        layer, found = self.model.layers[t], []
        for j, vector in self.edges[i]:
            r = np.linalg.norm(vector)
            R, Y = self.radial(t, i, j, r), harmonics(vector / r, layer.l_max)
            if t == 0:
                e = self.p["layers.0.indicator"][self.species[j]]
                raw = [{l: np.outer(Y[l], R[l] * e) for l in range(layer.l_max + 1)}]
                found += [self.mix(t, [[phi[l]] for l in phi]) for phi in raw]
                continue
            coupling = layer.raw_coupling
            for subtree in self.subtrees(t - 1, j):
                paths = [
                    [
                        np.einsum(
                            "Mab,a,bk,k->Mk",
                            real_clebsch_gordan(
                                coupling.left[a].degree, coupling.right[b].degree, out.degree
                            ),
                            Y[a],
                            subtree[coupling.right[b]],
                            R[a],
                        )
                        for a, b, out in group
                    ]
                    for group in coupling.paths
                ]
                found.append(self.mix(t, paths))
        return found

    def mix(self, t, paths):
        """Density of one branch: every path through its own channel matrix."""
        layer, found, path = self.model.layers[t], {}, 0
        weights = self.p[f"layers.{t}.density_weights"] * self.p[f"layers.{t}.density_scale"][:, None, None]
        for irrep, values in zip(layer.density_irreps, paths, strict=True):
            found[irrep] = sum(value @ weights[path + eta] for eta, value in enumerate(values))
            path += len(values)
        return found

    def couple(self, t, name, x, y):
        """Coupled product of two factors: dict irrep -> list over paths of (2L+1, K)."""
        layer = self.model.layers[t]
        coupling, row, found = layer.couplings[name], 0, {}
        scale = self.p[f"layers.{t}.couplings.{name}.scale"][:, 0]
        for irrep, group in zip(coupling.out, coupling.paths, strict=True):
            values = []
            for eta, (a, b, out) in enumerate(group):
                l1, l2 = coupling.left[a], coupling.right[b]
                c = real_clebsch_gordan(l1.degree, l2.degree, out.degree)
                values.append(np.einsum("Mab,ak,bk->Mk", c, x[l1], y[l2]) * scale[row + eta])
            found[irrep] = values
            row += len(group) * irrep.dim
        return found

    def product_of(self, t, i, branches):
        """Coupled product of ν branches (a root of degree ν): dict irrep -> {order: paths}."""
        z = self.species[i]
        if len(branches) == 1:
            return {irrep: [value] for irrep, value in branches[0].items()}
        pair = self.couple(t, "pair", branches[0], branches[1])
        if len(branches) == 2:
            return pair

        def mixed(pair):
            found, path = {}, 0
            for irrep, values in pair.items():
                weights = self.p[f"layers.{t}.pair_weights"][path:, z]
                found[irrep] = sum(value * weights[eta] for eta, value in enumerate(values))
                path += len(values)
            return found

        if len(branches) == 3:
            return self.couple(t, "triple", mixed(pair), branches[2])
        other = self.couple(t, "pair", branches[2], branches[3])
        return self.couple(t, "quadruple", mixed(pair), mixed(other))

    def rooted(self, t, i):
        """All trees rooted at i with root degree 1 … ν_max: (degree, dict irrep -> paths)."""
        branches = self.branches(t, i)
        for degree in range(1, self.model.layers[t].order + 1):
            for chosen in product(branches, repeat=degree):
                yield degree, self.product_of(t, i, chosen)

    def subtrees(self, t, i):
        """Message of atom i, tree by tree, the bare atom (leaf) first: dict irrep -> (2L+1, K)."""
        layer, z = self.model.layers[t], self.species[i]
        K = layer.channels
        zero = {irrep: np.zeros((irrep.dim, K)) for irrep in layer.message_irreps}
        first = layer.message_irreps[0]
        yield {**zero, first: self.p[f"layers.{t}.leaf"][z][None, :]}
        offsets = self.offsets(t)
        for degree, values in self.rooted(t, i):
            message = dict(zero)
            for q, irrep in enumerate(layer.message_irreps):
                for eta, v in enumerate(values.get(irrep, [])):
                    weight = self.p[f"layers.{t}.message_weights"][offsets[degree, irrep] + eta, z]
                    message[irrep] = message[irrep] + (v * weight) @ self.p[f"layers.{t}.message_mixing"][q]
            yield message

    def offsets(self, t):
        """Where the paths of each order begin: product by product, irrep by irrep within."""
        layer, found, position = self.model.layers[t], {}, 0
        outgoing = layer.message_irreps or [layer.density_irreps[0]]
        parts = [(layer.density_irreps, [1] * len(layer.density_irreps))]
        parts += [(c.out, [len(paths) for paths in c.paths]) for c in layer.couplings.values()]
        for degree, (irreps, counts) in enumerate(parts, start=1):
            for irrep, count in zip(irreps, counts, strict=True):
                if irrep in outgoing:
                    found[degree, irrep] = position
                    position += count
        return found

    def invariants(self, t, i):
        """Scalar products of atom i in layer t, summed over all trees: ``(n_scalar, K)``."""
        layer = self.model.layers[t]
        scalar, position, offsets = layer.density_irreps[0], 0, {}
        for degree, n in enumerate(layer.scalar_rows, start=1):
            offsets[degree] = position
            position += n
        total = np.zeros((layer.n_invariants, layer.channels))
        for degree, values in self.rooted(t, i):
            for eta, v in enumerate(values.get(scalar, [])):
                total[offsets[degree] + eta] += v[0]
        return total
