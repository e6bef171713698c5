"""How far an atom's energy and force feel others.

Claim: with T layers and cutoff r, the energy of an atom depends on atoms up to T·r away, and its force on
atoms up to 2·T·r (through the energies of atoms in between), and on nothing beyond: the derivatives there
are exactly zero. A disordered chain of atoms, float64, derivatives by automatic differentiation.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from common import calibrated, draw, model_of_depth, parser, report

from gace.potential.graph_ace import GraphACE
from gace.structures.neighbours import build_graph


def disordered_chain(length: float, spacing: float) -> Atoms:
    """Carbon atoms about ``spacing`` Å apart along x."""
    x = np.arange(0.0, length, spacing)
    positions = np.stack([x, 0 * x, 0 * x], axis=1)
    atoms = Atoms(f"C{len(x)}", positions)
    atoms.rattle(0.2, seed=4)
    return atoms


def derivatives(model: GraphACE, atoms: Atoms, centre: int) -> tuple[np.ndarray, np.ndarray]:
    """Norms of ∂E_i/∂r_j ``(N,)`` and ∂F_i/∂r_j ``(N,)`` of atom ``centre``."""
    graph = build_graph([atoms], model.elements, model.cutoff)
    positions = torch.tensor(atoms.positions, requires_grad=True)
    bonds = positions[graph.neighbour] - positions.unsqueeze(1)
    real = (graph.edge_vector.norm(dim=-1) < model.cutoff).unsqueeze(-1)
    energy = model(graph._replace(edge_vector=torch.where(real, bonds, graph.edge_vector))).energy
    (own,) = torch.autograd.grad(energy[centre], positions, retain_graph=True)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    rows = [torch.autograd.grad(-gradient[centre, a], positions, retain_graph=True)[0] for a in range(3)]
    return own.norm(dim=1).numpy(), torch.stack(rows).square().sum((0, 2)).sqrt().numpy()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cutoff", type=float, default=3.0, help="Å")
    options.add_argument("--most", type=int, default=3, help="layers at most")
    options.add_argument("--spacing", type=float, default=0.9, help="Å between atoms of the chain")
    args = options.parse_args()
    torch.set_num_threads(1)
    atoms = disordered_chain(4.4 * args.most * args.cutoff, args.spacing)
    centre = len(atoms) // 2
    distance = np.linalg.norm(atoms.positions - atoms.positions[centre], axis=1)
    rows, curves, exact = [], {}, True
    for T in range(1, args.most + 1):
        model = model_of_depth(T, ["C"], args.cutoff, channels=16, mean_neighbours=6.0)
        own, force = derivatives(calibrated(model, atoms), atoms, centre)
        curves[T] = own, force
        reach = T * args.cutoff
        beyond = max(own[distance > reach].max(), force[distance > 2 * reach].max())
        exact &= bool(beyond == 0)
        rows.append([
            str(T), reach, distance[own > 0].max(), 2 * reach, distance[force > 0].max(), f"{beyond:.0e}",
        ])  # fmt: skip
    head = ["layers T", "T·r Å", "∂E_i/∂r_j ends Å", "2T·r Å", "∂F_i/∂r_j ends Å", "largest beyond"]
    notes = ["beyond T·r (energy) and 2T·r (force) every derivative is exactly zero" if exact else "not zero"]
    report(args, "Reach of an atom's energy and force", head, rows, notes, exactly_zero=exact)

    def paint(axes):
        order = np.argsort(distance)
        for T, (own, force) in curves.items():
            for values, style in ((own, "-"), (force, "--")):
                shown = np.where(values > 0, values, np.nan)[order]
                name = "∂E" if style == "-" else "∂F"
                axes.semilogy(distance[order], shown, style, color=f"C{T}", label=f"{name}, T = {T}", lw=1)
            axes.axvline(T * args.cutoff, color=f"C{T}", lw=0.5)
        axes.set(xlabel="distance Å", ylabel="|∂E_i/∂r_j|, |∂F_i/∂r_j|")
        axes.legend(ncols=2, fontsize="small")

    draw(args, paint)


if __name__ == "__main__":
    main()
