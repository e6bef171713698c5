"""Adam is PyTorch's, to the last bit; by Muon changes of matrices are orthogonal; none loads a compiler."""

import subprocess
import sys

import pytest
import torch

from gace.config import parse_config
from gace.training.config import TrainConfig
from gace.training.optimizer import AS_ADAM, Optimizer, is_matrix, orthogonal


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
    optimizer = Optimizer([{"params": [matrix, vector], "size": 1.0}], lr=0.01, muon=True)
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
    Optimizer([{"params": [weight]}], lr=0.1, weight_decay=0.5, decoupled=True, muon=True).step()
    assert torch.allclose(weight, torch.full((3,), 0.95))


SHAPES = [(5,), (4, 8), (3, 16, 16), ()]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.Adam, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
    ],
    ids=["amsgrad", "decay", "decoupled decay"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_is_the_one_of_pytorch(kind, settings, dtype):
    draw = torch.Generator().manual_seed(3)
    ours = [torch.randn(shape, dtype=dtype, generator=draw) for shape in SHAPES]
    theirs = [one.clone().requires_grad_() for one in ours]
    optimizer = Optimizer(
        [{"params": ours[:2]}, {"params": ours[2:]}],
        lr=0.1,
        decoupled=kind is torch.optim.AdamW,
        **settings,
    )
    reference = kind([{"params": theirs[:2]}, {"params": theirs[2:]}], lr=0.1, fused=True, **settings)
    for step in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, dtype=dtype, generator=draw) * 10.0**-step
            other.grad = one.grad.clone()
        ours[0].grad = theirs[0].grad = None if step == 2 else ours[0].grad
        for which in (optimizer, reference):
            which.param_groups[1]["lr"] = 0.1 / (step + 1)
            which.step()
        for one, other in zip(ours, theirs, strict=True):
            # decoupled decay is a product of its own here: one more rounding
            assert torch.allclose(one, other.detach(), rtol=0 if kind is torch.optim.Adam else 1e-6, atol=0)


@pytest.mark.parametrize("muon", [False, True])
def test_goes_on_from_its_slots(muon):
    def fresh():
        draw = torch.Generator().manual_seed(4)
        weights = [torch.randn(shape, generator=draw) for shape in SHAPES]
        return weights, Optimizer([{"params": weights}], lr=0.1, amsgrad=not muon, muon=muon)

    def steps(weights, optimizer, numbers):
        for number in numbers:
            draw = torch.Generator().manual_seed(number)
            for one in weights:
                one.grad = torch.randn(one.shape, generator=draw)
            optimizer.step()

    whole, first = fresh()
    steps(whole, first, range(6))
    again, second = fresh()
    steps(again, second, range(3))
    _, third = fresh()
    third.param_groups[0]["params"] = again
    third.load_slots({index: dict(slot) for index, slot in second.slots().items()})
    steps(again, third, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_no_compiler_is_loaded():
    code = (
        "import sys, torch; from gace.training.optimizer import Optimizer\n"
        "one = torch.ones(9, 9); one.grad = one.clone(); two = torch.ones(2); two.grad = two.clone()\n"
        "for muon in (False, True): Optimizer([{'params': [one, two]}], lr=0.1, muon=muon).step()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("optimizer", "start", "rate"),
    [("adam", None, 0.1), ("adam", "first", 0.015), ("muon", None, 0.03), ("muon", "first", 0.003)],
)
def test_rates_that_are_left_open(optimizer, start, rate):
    content = {
        "data": {"train": "train.xyz"},
        "potential": {"start_from": start},
        "training": {"optimizer": optimizer},
    }
    assert parse_config(content, TrainConfig).with_learning_rate().training.learning_rate == rate
    content["training"]["learning_rate"] = 0.5
    assert parse_config(content, TrainConfig).with_learning_rate().training.learning_rate == 0.5
