"""Recorded evaluations: what is replayed, and that nothing in an evaluation forbids it.

Recording itself needs a GPU; a stand-in that runs the function again on the same memory shows the rest.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from ase.build import molecule
from recorders import again
from torch.utils._python_dispatch import TorchDispatchMode

from gace.potential import recorded
from gace.potential.compiled import _replayed, evaluate_eagerly, evaluators, pad_slots
from gace.potential.recorded import Recorded, RecordedFunction
from gace.potential.tables import radial_tables
from gace.structures.io import Labels
from gace.structures.neighbours import build_graph
from gace.training.batches import Packed
from gace.training.compiled_step import CompiledStep, Largest
from gace.training.losses import Weights, loss_terms, penalty


def walk(atoms, steps, elements, cutoff, dtype=torch.float64):
    """Graphs of one shape along a random walk."""
    for seed in range(steps):
        atoms.rattle(0.02, seed=seed)
        yield build_graph([atoms], elements, cutoff, dtype)


def test_replayed_is_evaluated(make_model, ethanol):
    """Numbers of each step, and results that the next step leaves alone."""
    model, atoms = make_model(), ethanol.copy()
    run = Recorded(lambda graph: evaluate_eagerly(model, graph), again)
    kept = []
    for graph in walk(atoms, 6, model.elements, model.cutoff):
        graph = pad_slots(graph, model.cutoff)
        kept.append((run(graph), evaluate_eagerly(model, graph)))
    assert run.replays == 6 - (recorded.SEEN - 1)
    assert len(run.recordings) == 1
    for found, expected in kept:
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(kept[-1][0].forces, kept[-2][0].forces)


def test_a_copy_records_anew(make_model, ethanol):
    """As calculators are copied with their atoms."""
    model = make_model()
    run = partial(_replayed, Recorded(partial(evaluate_eagerly, model), again), model.cutoff)
    graphs = list(walk(ethanol.copy(), 6, model.elements, model.cutoff))
    energies = [run(graph).energy for graph in graphs]
    other = copy.deepcopy(run)
    assert (len(run.args[0].recordings), len(other.args[0].recordings)) == (1, 0)
    assert all(torch.equal(other(graph).energy, one) for graph, one in zip(graphs, energies, strict=True))
    assert other.args[0].record is again


def test_shapes_apart(make_model, ethanol, silicon, monkeypatch):
    """Each shape has its own recording; there is an end to their number and size."""
    model = make_model()
    run = Recorded(lambda graph: evaluate_eagerly(model, graph), again)
    monkeypatch.setattr(recorded, "MAX_RECORDINGS", 1)
    graphs = [build_graph([ethanol[:n]], model.elements, model.cutoff) for n in (5, 9)]
    for _ in range(4):
        for graph in graphs:
            assert torch.equal(run(graph).energy, evaluate_eagerly(model, graph).energy)
    assert len(run.recordings) == 1
    run = Recorded(lambda graph: evaluate_eagerly(model, graph), again, max_bonds=3)
    for _ in range(4):
        run(graphs[0])
    assert not run.recordings


def test_what_cannot_be_recorded(make_model, ethanol):
    """One warning, and the plain evaluation."""
    model = make_model()

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    run = Recorded(lambda graph: evaluate_eagerly(model, graph), refuse)
    graph = build_graph([ethanol], model.elements, model.cutoff)
    run(graph), run(graph)
    with pytest.warns(UserWarning, match="going on without: operation not permitted"):
        found = run(graph)
    assert torch.equal(found.forces, evaluate_eagerly(model, graph).forces)
    run(graph)


class Watch(TorchDispatchMode):
    """Raises at an operation that makes the processor wait for a GPU, or hands it data."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "lift_fresh",
        "unique",
        "equal",
        "is_nonzero",
    )

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        masked = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in arguments[1]
        )
        if name in self.WAITING or masked:
            raise AssertionError(f"{name} cannot be recorded")
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("tabulated", [False, True])
def test_nothing_waits(make_model, ethanol, tabulated):
    """No operation of an evaluation looks at values, so that a GPU's can be recorded whole."""
    model = make_model()
    tables = radial_tables(model) if tabulated else None
    graph = build_graph([ethanol], model.elements, model.cutoff)
    with pytest.raises(AssertionError, match="cannot be recorded"), Watch():
        graph.edge_vector.sum().item()
    with Watch():
        evaluate_eagerly(model, graph, tables)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(make_model, ethanol):
    """The real thing, by the path that calculators take."""
    model, atoms = make_model(), ethanol.copy()
    (evaluate,) = evaluators([model.cuda()], "tabulated")
    for graph in walk(atoms, 8, model.elements, model.cutoff):
        graph = graph.to("cuda")
        assert torch.allclose(evaluate(graph).forces, evaluate_eagerly(model, graph).forces, atol=1e-8)


@pytest.fixture
def labelled(ethanols):
    """Six ethanols with labels, as training reads them."""
    rng = np.random.default_rng(3)
    structures = [*ethanols[:5], molecule("H2O")]
    labels = [
        Labels(energy=float(rng.normal()), forces=rng.normal(size=(len(one), 3)), stress=None)
        for one in structures
    ]
    nothing = dict.fromkeys(["H", "C", "O"], 0.0)
    return Packed(
        structures, labels, elements=["H", "C", "O"], cutoff=3.5, isolated_atoms=nothing,
        dtype=torch.float64, device=torch.device("cpu"),
    )  # fmt: skip


def test_recorded_training_step(make_model, labelled):
    """Terms and gradients of every step are the plain ones, also after the parameters have moved in place."""
    model, kind = make_model(), penalty("huber", 0.01)
    step = CompiledStep(
        model, kind, complete=labelled.complete, largest=Largest(18, 8, 2),
        make=partial(RecordedFunction, record=again),
    )  # fmt: skip
    parameters = list(model.parameters())
    for indices, weights in (
        ([0, 1], Weights(1.0, 10.0, 0.0)),
        ([2, 3], Weights(2.0, 5.0, 0.0)),
        ([4, 5], Weights(1.0, 1.0, 0.0)),
    ):
        batch = labelled.batch(torch.tensor(indices))
        terms, gradients = step(batch, weights)
        expected = loss_terms(model, batch, weights, kind, labelled.complete)
        torch.testing.assert_close(terms, expected.detach(), rtol=1e-10, atol=1e-12)
        wanted = torch.autograd.grad(expected[0], parameters, allow_unused=True)
        for found, one in zip(gradients, wanted, strict=True):
            expected_gradient = torch.zeros_like(found) if one is None else one
            torch.testing.assert_close(found, expected_gradient, rtol=1e-8, atol=1e-10)
        with torch.no_grad():
            for one, gradient in zip(parameters, gradients, strict=True):
                one -= 1e-3 * gradient
    assert len(step.compiled) == 2  # the last batch is smaller


@pytest.mark.parametrize("missing", [False, True])
def test_no_step_waits(make_model, labelled, missing):
    """No operation of a training step looks at values."""
    model, weights = make_model(), Weights(1.0, 10.0, 0.0)
    batch = labelled.batch(torch.tensor([0, 1]))
    if missing:
        batch = batch._replace(forces=batch.forces.clone().index_fill_(0, torch.tensor([3]), torch.nan))
    kept = []
    step = CompiledStep(
        model, penalty("conditional-huber", 0.01), complete=not missing, largest=Largest(18, 8, 2),
        make=lambda function, arguments, fixed: kept.append((function, arguments)) or RecordedFunction(
            function, arguments, fixed, again
        ),
    )  # fmt: skip
    step(batch, weights)
    ((function, arguments),) = kept
    with Watch():
        function(*arguments)
