"""Compiled code says what the plain evaluation says; without a compiler there is an error."""

import time
import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from gace.errors import InputError
from gace.potential import compiled
from gace.potential.potential import Potential
from gace.structures.io import Labels
from gace.training import compiled_step
from gace.training.batches import Packed
from gace.training.compiled_step import CompiledStep, Largest, pad
from gace.training.config import TrainConfig
from gace.training.losses import Weights, loss_terms, penalty
from gace.training.sampler import Sampler

needs_compiler = pytest.mark.skipif(
    not compiled.compiler_available(), reason="no C++ compiler on the PATH: nothing can be compiled"
)
TINY = dict(l_max=[1], channels=2, radial_hidden=[3], densities=2, readout_hidden=2, order=2)


def packed(structures, labels):
    """What training reads."""
    return Packed(
        structures,
        labels,
        elements=["H", "C", "O"],
        cutoff=3.5,
        isolated_atoms={"H": 0.0, "C": 0.0, "O": 0.0},
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


@pytest.fixture
def mixed():
    """Molecules of two sizes and a crystal, with a label missing here and there."""
    rng = np.random.default_rng(5)
    structures = [molecule("CH3CH2OH"), molecule("H2O"), bulk("C", cubic=True), molecule("CH4")]
    labels = []
    for index, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=index)
        labels.append(
            Labels(
                energy=None if index == 1 else float(rng.normal()),
                forces=None if index == 3 else rng.normal(size=(len(atoms), 3)),
                stress=rng.normal(size=(3, 3)) if atoms.pbc.all() else None,
            )
        )
    return packed(structures, labels)


def test_padding_changes_neither_loss_nor_gradients(make_model, mixed):
    model, weights, kind = make_model(), Weights(1.0, 10.0, 5.0), penalty("square", 0.01)
    parameters = list(model.parameters())
    batch = mixed.batch(torch.tensor([1, 2]))
    padded = pad(batch, model.cutoff, Largest(40, 30, 4))
    assert padded.graph.n_atoms > batch.graph.n_atoms
    assert padded.graph.n_structures == 5
    found = [loss_terms(model, one, weights, kind, False) for one in (batch, padded)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad(one[0], parameters, allow_unused=True) for one in found]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@needs_compiler
def test_compiled_step_gives_the_loss_and_its_gradients(make_model, mixed):
    model, weights, kind = make_model(**TINY), Weights(1.0, 10.0, 5.0), penalty("huber", 0.01)
    step = CompiledStep(model, kind, complete=mixed.complete, largest=Largest(24, 24, 3))
    for indices in ([1, 2, 0], [0, 2, 1]):
        batch = mixed.batch(torch.tensor(indices))
        terms, gradients = step(batch, weights)
        expected = loss_terms(model, batch, weights, kind, mixed.complete)
        torch.testing.assert_close(terms, expected.detach(), rtol=1e-10, atol=1e-12)
        wanted = torch.autograd.grad(expected[0], list(model.parameters()), allow_unused=True)
        for found, one in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(
                found, torch.zeros_like(found) if one is None else one, rtol=1e-8, atol=1e-10
            )
    assert len(step.compiled) == 1  # the same structures in another order have the same shape


def test_shapes_beyond_the_limit_are_not_compiled(make_model, mixed, monkeypatch):
    monkeypatch.setattr(compiled_step, "MAX_SHAPES", 0)
    model, weights, kind = make_model(**TINY), Weights(1.0, 10.0, 0.0), penalty("square", 0.01)
    step = CompiledStep(model, kind, complete=mixed.complete, largest=Largest(24, 24, 3))
    batch = mixed.batch(torch.tensor([0, 3]))
    terms, _ = step(batch, weights)
    assert not step.compiled
    torch.testing.assert_close(terms, loss_terms(model, batch, weights, kind, False).detach())


def test_rare_shapes_are_not_compiled(make_model, monkeypatch):
    """Of forty waters and one diamond only the waters' shape is worth its code."""
    structures = [molecule("H2O") for _ in range(40)] + [bulk("C", cubic=True).repeat((2, 1, 1))]
    labels = [Labels(energy=0.0, forces=np.zeros((len(one), 3)), stress=None) for one in structures]
    train = packed(structures, labels)
    made = []
    monkeypatch.setattr(
        compiled_step, "CompiledFunction", lambda *arguments: made.append(0) or _Plainly(*arguments)
    )
    config = TrainConfig.model_validate(
        {"data": {"train": "x"}, "training": {"batch_size": 1, "compile": True}}
    )
    sampler = Sampler(train.sizes, config, len(train))
    step = compiled_step.compiled_step(config, make_model(**TINY), train, sampler, penalty("square", 0.01))
    for index in range(len(structures)):
        step(train.batch(torch.tensor([index])), Weights(1.0, 1.0, 0.0))
    assert len(made) == 1


class _Plainly:
    """A function that claims to be compiled."""

    seconds = 0.0

    def __init__(self, function, example) -> None:
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


def test_training_goes_on_where_the_compiler_fails(make_model, mixed, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the lock could not be acquired")

    monkeypatch.setattr(compiled_step, "CompiledFunction", fail)
    model, weights, kind = make_model(**TINY), Weights(1.0, 10.0, 0.0), penalty("square", 0.01)
    step = CompiledStep(model, kind, complete=mixed.complete, largest=Largest(24, 24, 3))
    batch = mixed.batch(torch.tensor([0, 3]))
    with pytest.warns(UserWarning, match="lock could not be acquired"):
        terms, _ = step(batch, weights)
    torch.testing.assert_close(terms, loss_terms(model, batch, weights, kind, False).detach())


@needs_compiler
def test_compiled_calculator_agrees_with_the_plain_one(make_model):
    atoms = bulk("C", cubic=True)
    atoms.rattle(0.05, seed=2)
    # inner cutoffs that the crystal feels, others for each member
    members = [
        make_model(
            seed=seed,
            elements=["C"],
            inner_cutoffs={"C-C": 1.4},
            close_limits={"C": 2.0 - 0.1 * seed},
            **TINY,
        )
        for seed in (0, 1)
    ]
    potential = Potential(members, isolated_atom_energies={"C": -1000.0})
    results = []
    for path in ("eager", "compiled"):
        atoms.calc = potential.calculator(path=path)
        results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-11)
    codes = {id(one.func): one.func for one in atoms.calc.potential._evaluators}
    assert [len(one.functions) for one in codes.values()] == [1]  # both members run the same code

    larger = atoms.repeat((2, 1, 1))
    larger.calc = atoms.calc
    np.testing.assert_allclose(larger.get_potential_energy(), 2 * results[0][0], rtol=1e-10)


@needs_compiler
def test_auto_path_answers_at_once_and_goes_over_to_compiled_code(make_model):
    atoms = molecule("CH4")
    model = make_model(elements=["C", "H"], **TINY)
    potential = Potential([model], isolated_atom_energies={"C": 0.0, "H": 0.0})
    atoms.calc = potential.calculator(path="auto")
    code = atoms.calc.potential._evaluators[0].func
    first = atoms.get_forces()
    assert not code.functions
    deadline = time.monotonic() + 300
    while not code.functions and time.monotonic() < deadline:
        time.sleep(0.1)
    assert code.functions, "the code was not made"
    atoms.calc.reset()
    np.testing.assert_allclose(atoms.get_forces(), first, rtol=1e-10, atol=1e-12)


def test_failure_of_the_compiler_leaves_the_plain_evaluation(make_model, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("the compiler ran out of disk")

    monkeypatch.setattr(compiled, "CompiledFunction", fail)
    monkeypatch.setattr(compiled, "compiler_available", lambda: True)
    atoms = molecule("CH4")
    potential = Potential(
        [make_model(elements=["C", "H"], **TINY)], isolated_atom_energies={"C": 0.0, "H": 0.0}
    )
    atoms.calc = potential.calculator(path="eager")
    expected = atoms.get_forces()
    atoms.calc = potential.calculator(path="compiled")
    with pytest.warns(UserWarning, match="ran out of disk"):
        np.testing.assert_array_equal(atoms.get_forces(), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        atoms.calc.reset()
        atoms.get_forces()


def test_unknown_path_is_refused(single):
    with pytest.raises(InputError, match="choose eager, tabulated, compiled or auto"):
        single.calculator(path="fast")


def test_compiling_without_a_compiler_is_refused(single, monkeypatch):
    monkeypatch.setattr(compiled, "compiler_available", lambda: False)
    with pytest.raises(InputError, match="C\\+\\+ compiler"):
        single.calculator(path="compiled")
    assert single.calculator(path="auto") is not None


def test_training_says_that_it_needs_a_compiler(tmp_path, monkeypatch):
    from gace.structures.io import set_labels, write_structures
    from gace.training.run import train

    atoms = molecule("CH4")
    write_structures(tmp_path / "a.xyz", [set_labels(atoms, -1.0, np.zeros((5, 3)), None)] * 2)
    monkeypatch.setattr(compiled_step, "compiler_available", lambda: False)
    config = {"data": {"train": str(tmp_path / "a.xyz")}, "training": {"compile": True}}
    with pytest.raises(InputError, match=r"training\.compile needs a C"):
        train(config, tmp_path / "run", progress=False)
