"""Nothing of an evaluation is left on the processor, shown on the device without memory for want of a GPU."""

from __future__ import annotations

import pytest
import torch
from ase.build import molecule

import gace.potential.layer
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.structures.neighbours import build_graph


def test_devices_do_not_mix():
    """What the tests below rely on."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device="meta") + torch.zeros(3)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("preset", ["FS-small", "2L-small", "2L-medium"])
def test_training_step(preset, kernels, monkeypatch):
    """Forces and gradients of a loss on them, with the operators of the kernels and with plain PyTorch."""
    monkeypatch.setattr(gace.potential.layer, "available", lambda x: kernels)
    model = GraphACE.from_preset(preset, elements=["C", "H", "O"], channels=4).to("meta", torch.float32)
    graph = build_graph([molecule("CH3CH2OH")] * 2, ["C", "H", "O"], 4.0).to("meta", torch.float32)
    found = energy_and_gradients(model, graph, create_graph=True)
    assert all(one.device.type == "meta" and one.dtype == torch.float32 for one in found)
    loss = found.forces.square().sum() + found.energy.sum() + found.virial.sum()
    slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert sum(one is not None for one in slopes) > 5
