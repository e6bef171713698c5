"""What runs on a GPU, held to float64 on the processor: kernels, evaluation, training, dynamics.

Skipped where there is no GPU; the same kernels run in Triton's interpreter in ``test_triton.py``.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

import gace
from gace.config import parse_config
from gace.potential.compiled import evaluate_eagerly, evaluators
from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels.calls import without_kernels
from gace.potential.kernels.cuda import coupling as written
from gace.potential.potential import Potential
from gace.potential.presets import PRESETS
from gace.structures.io import write_structures
from gace.structures.neighbours import build_graph
from gace.training.config import TrainConfig
from gace.training.run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
DTYPES = [torch.float64, torch.float32]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}
"""Relative to the largest value; float32 loses two of its seven digits on a processor too."""


def structures():
    """A molecule, a crystal with rattled atoms and an isolated atom."""
    crystal = bulk("C", "diamond", a=3.567, cubic=True).repeat((2, 2, 1))
    found = [molecule("CH3CH2OH"), crystal, molecule("H2O"), molecule("CH4")[:1]]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    return found


def preset(name, **changes):
    """A preset with parameters of the size that training starts from, and a batch it was calibrated on."""
    model = GraphACE.from_preset(name, elements=["H", "C", "O"], mean_neighbours=20.0, scale=0.5, **changes)
    graph = build_graph(structures(), model.elements, model.cutoff)
    model.calibrate(graph)
    return model, graph


def close(found, expected, tolerance):
    """Equal up to a share of the largest value."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    difference = float((found - expected).abs().max()) if expected.numel() else 0.0
    assert difference <= tolerance * max(scale, 1e-3), (difference, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name, dtype):
    """Energies, forces, virial and features of every preset, by networks and by tables."""
    model, graph = preset(name)
    expected = energy_and_gradients(model, graph)
    on_gpu = copy.deepcopy(model).to("cuda", dtype)
    there = graph.to("cuda", dtype)
    for path in ("eager", "tabulated"):
        (evaluate,) = evaluators([on_gpu], path)
        found = evaluate(there)
        for name_, one, other in zip(found._fields, found, expected, strict=True):
            tolerance = TOLERANCE[dtype] if path == "eager" else max(TOLERANCE[dtype], 1e-8)
            close(one, other, tolerance if name_ != "features" else 10 * tolerance)


@pytest.mark.parametrize("name", ["2L-medium", "1L-medium"])
def test_without_kernels(name):
    """Plain PyTorch on the GPU says the same: the Triton kernels are not compared with themselves."""
    model, graph = preset(name)
    model, graph = model.cuda(), graph.to("cuda")
    found = energy_and_gradients(model, graph)
    with without_kernels():
        plain = energy_and_gradients(model, graph)
    close(found.forces, plain.forces, 1e-10)
    close(found.atomic_energy, plain.atomic_energy, 1e-10)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", ["2L-medium", "2L-large", "1L-medium", "FS-medium"])
def test_gradients_of_a_loss_on_forces(name, deterministic):
    """Second derivatives, parameter by parameter."""
    model, graph = preset(name)

    def slopes(model, graph):
        found = energy_and_gradients(model, graph, create_graph=True)
        loss = found.energy.square().sum() + found.forces.square().sum()
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    expected = slopes(model, graph)
    torch.use_deterministic_algorithms(deterministic)
    try:
        for dtype in DTYPES:
            found = slopes(copy.deepcopy(model).to("cuda", dtype), graph.to("cuda", dtype))
            for one, other in zip(found, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    close(one, other, 20 * TOLERANCE[dtype])
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["2L-medium", "1L-medium"])
def test_couplings_written_out(name, dtype, monkeypatch):
    """The kernels compiled for each product, which are in use, and the general one say the same."""
    model, graph = preset(name)
    model, graph = model.to("cuda", dtype), graph.to("cuda", dtype)

    def everything():
        found = energy_and_gradients(model, graph, create_graph=True)
        loss = found.energy.square().sum() + found.forces.square().sum()
        return [found.forces, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]

    used = []
    launch = written.launch
    monkeypatch.setattr(written, "launch", lambda *arguments: used.append(1) or launch(*arguments))
    ours = everything()
    assert used
    monkeypatch.setattr(written, "_kernel", lambda *arguments: None)
    used.clear()
    general = everything()
    assert not used
    for one, other in zip(ours, general, strict=True):
        if one is not None:
            close(one, other, 20 * TOLERANCE[dtype])


def test_pair_cutoffs_parities_and_orders():
    """Architectures beside the presets."""
    for changes in (
        dict(pair_cutoffs={"C-H": 3.0}),
        dict(inner_cutoffs={"C-H": 1.0, "C-C": 1.4}, close_limits={"C": 2.5}),
        dict(parity="natural"),
        dict(l_max=[2, 2, 1], order=2, l_message=2, channels=7),
        dict(l_max=[0], order=1, channels=40),
        dict(l_max=[5, 3], order=4, channels=16, l_message=1),
    ):
        model, graph = preset("2L-small", **changes)
        expected = energy_and_gradients(model, graph)
        found = energy_and_gradients(model.cuda(), graph.to("cuda"))
        close(found.forces, expected.forces, 1e-10)


@pytest.mark.parametrize("path", ["eager", "tabulated"])
def test_replayed(path):
    """Recorded evaluations along a walk are those of the processor, each of its own step."""
    model, _ = preset("2L-medium")
    atoms = structures()[0]
    (evaluate,) = evaluators([copy.deepcopy(model).cuda()], path)
    for seed in range(8):
        atoms.rattle(0.02, seed=seed)
        graph = build_graph([atoms], model.elements, model.cutoff)
        expected = evaluate_eagerly(model, graph)
        found = evaluate(graph.to("cuda"))
        close(found.forces, expected.forces, 1e-10 if path == "eager" else 1e-8)


@pytest.mark.parametrize("n", [1, 3])
def test_dynamics_conserve_energy(n):
    """Diamond by velocity Verlet through the calculator, neighbours searched and kept on the GPU."""
    model = GraphACE.from_preset("2L-small", elements=["C"], mean_neighbours=60.0, scale=0.2)
    atoms = bulk("C", "diamond", a=3.567, cubic=True).repeat(n)
    atoms.rattle(0.02, seed=1)
    model.calibrate(build_graph([atoms], ["C"], model.cutoff))
    potential = Potential([model], isolated_atom_energies={"C": -1000.0})
    atoms.calc = potential.calculator("cuda", "float64")
    on_cpu = potential.calculator("cpu", "float64")
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 2.0)
    atoms.set_momenta(atoms.get_momenta() - atoms.get_momenta().mean(0))
    total = []
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    dynamics.attach(lambda: total.append(atoms.get_total_energy()))
    dynamics.run(60)
    other = atoms.copy()
    other.calc = on_cpu
    assert np.allclose(atoms.get_forces(), other.get_forces(), rtol=1e-7, atol=1e-8)
    assert np.allclose(atoms.get_stress(), other.get_stress(), rtol=1e-7, atol=1e-9)
    kinetic = atoms.get_kinetic_energy()
    assert np.ptp(total) < 0.02 * kinetic


@pytest.fixture
def config(tmp_path):
    """Energies and forces of a cheap potential on molecules of two sizes."""
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(12):
        atoms = structures()[0 if seed % 3 else 2]
        atoms.rattle(0.05, seed=seed)
        atoms.info["REF_energy"] = float(rng.normal())
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        frames.append(atoms)
    write_structures(tmp_path / "train.xyz", frames)
    return {
        "data": {
            "train": str(tmp_path / "train.xyz"),
            "isolated_atoms": {"H": 0.0, "C": 0.0, "O": 0.0},
            "validation": 2,
        },
        "potential": {"preset": "2L-small", "cutoff": 4.0},
        "training": {"max_epochs": 6, "batch_size": 3, "learning_rate": 1e-3},
        "dtype": "float64",
        "device": "cuda",
    }


def trained(config, out, **changes):
    """Parameters of the bundle, and the lines of the metrics file."""
    content = {**config, **changes, "training": {**config["training"], **changes.get("training", {})}}
    result = train(parse_config(content, TrainConfig), out, progress=False)
    lines = [json.loads(one) for one in (out / "metrics.jsonl").read_text().splitlines()]
    return gace.load(result.bundle).members[0].state_dict(), lines


def test_training(config, tmp_path):
    """Recorded, operation by operation and on the processor: the same parameters to rounding."""
    recorded, lines = trained(config, tmp_path / "recorded")
    plain, _ = trained(config, tmp_path / "plain", training={"compile": False})
    processor, expected = trained(config, tmp_path / "cpu", device="cpu", training={"compile": False})
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert np.isclose(lines[-1]["loss"], expected[-1]["loss"], rtol=1e-5)
    for name, value in processor.items():
        close(recorded[name], value, 1e-5)
        close(plain[name], value, 1e-5)


def test_linear(config, tmp_path):
    """A linear ACE on a GPU."""
    content = {**config, "potential": {"preset": "linear-small", "cutoff": 4.0}, "device": "cpu"}
    content["training"] = {}
    result = train(parse_config(content, TrainConfig), tmp_path / "linear", progress=False)
    potential = gace.load(result.bundle, dtype="float64")
    atoms = structures()[0]
    (expected,) = potential.predict([atoms])
    calculator = potential.calculator("cuda", "float64")
    for _ in range(5):
        atoms.calc = calculator
        assert np.allclose(atoms.get_forces(), expected.forces, atol=1e-8)
        calculator.reset()
