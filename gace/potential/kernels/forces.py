"""Forces and virials from the derivative of the energy by the bonds; on a processor."""

from __future__ import annotations

from torch import Tensor

from gace.potential.kernels.calls import call
from gace.structures.graph import Graph


def forces(slope: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """Forces, eV/Å ``(N, 3)``, and strain derivatives of the energy, eV ``(B, 3, 3)``.

    As :func:`gace.structures.graph.forces_from_edges` and :func:`gace.structures.graph.virial_from_edges`, in
    one pass; they cannot be differentiated.

    Args:
        slope: derivative of the energy by the bond vectors, eV/Å ``(N, J, 3)``.
        graph: in the same precision.
    """
    (N, J), B = graph.neighbour.shape, graph.n_structures
    force, virial = slope.new_empty(N, 3), slope.new_empty(B, 3, 3)
    call(
        "forces", slope.dtype, [N, J, B], graph.neighbour.contiguous(), graph.structure.contiguous(),
        graph.edge_vector.contiguous(), slope.contiguous(), force, virial,
    )  # fmt: skip
    return force, virial
