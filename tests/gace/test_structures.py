"""The verbs on the graph."""

import torch

from gace.structures.graph import forces_from_edges, gather_neighbours, sum_structures, virial_from_edges
from gace.structures.neighbours import build_graph


def test_neighbours_are_gathered_by_index(ethanol):
    graph = build_graph([ethanol], ["H", "C", "O"], 3.0)
    gathered = gather_neighbours(torch.arange(9.0)[:, None], graph)
    assert torch.equal(gathered[..., 0].long(), graph.neighbour)


def test_sum_over_structures(ethanol):
    graph = build_graph([ethanol, ethanol[:3]], ["H", "C", "O"], 3.0)
    assert sum_structures(torch.ones(12), graph).tolist() == [9.0, 3.0]


def test_spring_forces_are_equal_and_opposite(ethanol):
    graph = build_graph([ethanol], ["H", "C", "O"], 3.0)
    inside = graph.edge_vector.norm(dim=-1, keepdim=True) < 3.0
    forces = forces_from_edges(graph.edge_vector * inside, graph)
    # each pair counts from both ends: the force on atom i is Σ 2 (r_j - r_i)
    expected = 2 * (graph.edge_vector * inside).sum(1)
    assert torch.allclose(forces, expected, atol=1e-12)


def test_virial_is_symmetric(ethanol):
    graph = build_graph([ethanol], ["H", "C", "O"], 3.0)
    gradient = torch.randn(graph.edge_vector.shape, generator=torch.Generator().manual_seed(0)).double()
    virial = virial_from_edges(gradient, graph)
    assert torch.equal(virial, virial.transpose(1, 2))


def test_moving_to_single_precision_keeps_indices(ethanol):
    graph = build_graph([ethanol], ["H", "C", "O"], 3.0).to(dtype=torch.float32)
    assert (graph.volume.dtype, graph.neighbour.dtype) == (torch.float32, torch.int64)
