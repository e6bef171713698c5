"""Precision of matrix products on a GPU: off unless asked for, and put back."""

from __future__ import annotations

import pytest
import torch

from gace.config import parse_config
from gace.errors import InputError
from gace.potential.devices import matmul_precision
from gace.training.config import TrainConfig
from gace.training.run import reproducible


@pytest.mark.parametrize(("name", "expected"), [("ieee", "highest"), ("tf32", "high")])
def test_set_and_put_back(name, expected):
    """Around an evaluation on a GPU, whatever the process has set; a processor is left alone."""
    torch.set_float32_matmul_precision("medium")
    try:
        with matmul_precision(name, torch.device("cuda", 0)):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == "medium"
        with matmul_precision(name, torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_unknown_name(single):
    """One line that names the nearest; a potential says so too."""
    with (
        pytest.raises(InputError, match="did you mean 'tf32'"),
        matmul_precision("tf23", torch.device("cpu")),
    ):
        pass
    potential = single.to()
    assert potential.matmul == "ieee"


@pytest.mark.parametrize(("name", "expected"), [("ieee", "highest"), ("tf32", "high")])
def test_training_has_its_own(name, expected):
    """``training.matmul`` holds while steps are computed on a GPU, and the process gets its own back."""
    config = parse_config({"data": {"train": "train.xyz"}, "training": {"matmul": name}}, TrainConfig)
    torch.set_float32_matmul_precision("medium")
    try:
        with reproducible(config, torch.device("cuda", 0)):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
