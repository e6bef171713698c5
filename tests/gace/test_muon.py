"""Muon: changes of matrices are orthogonal, those of all else Adam's, and a run learns by it."""

import pytest
import torch

from gace.training.optimizer import AS_ADAM, Muon, is_matrix, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (8, 64), (64, 8), (5, 16, 16), (2, 3, 10, 12)])
def test_singular_values_are_about_one(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = orthogonal(1e-6 * x)  # whatever the size of a gradient
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    # the singular vectors stay: between them there is nothing off the diagonal
    core = u.mT @ found @ v.mT
    assert float((core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1))).abs().max()) < 1e-9


def test_no_gradient_is_no_change():
    assert torch.equal(orthogonal(torch.zeros(8, 8)), torch.zeros(8, 8))


def test_first_step_is_of_the_size_of_the_rate():
    matrix = torch.zeros(3, 16, 32, dtype=torch.float64, requires_grad=True)
    vector = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    assert is_matrix(matrix)
    assert not is_matrix(vector)
    assert not is_matrix(torch.zeros(4, 100))
    optimizer = Muon([{"params": [matrix, vector], "size": 1.0}], lr=0.01)
    draw = torch.Generator().manual_seed(2)
    matrix.grad = torch.randn(3, 16, 32, dtype=torch.float64, generator=draw)
    vector.grad = torch.randn(7, dtype=torch.float64, generator=draw)
    optimizer.step()
    assert float(matrix.detach().square().mean().sqrt()) == pytest.approx(0.01 * AS_ADAM, rel=0.3)
    # Adam's first change is the sign of the gradient
    assert torch.allclose(vector.detach(), -0.01 * vector.grad.sign(), rtol=1e-5)


def test_weights_shrink_by_decay():
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.zeros(3)
    Muon([{"params": [weight]}], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((3,), 0.95))
