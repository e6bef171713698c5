"""The laws of physics on every path of evaluation, and the paths against each other."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms

import gace.potential.blocks
import gace.potential.compiled
import gace.potential.layer
from gace.potential.compilation import compiler_available
from gace.potential.derivatives import Prediction
from gace.potential.exported import export, load_exported
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.potential.recorded import Recorded
from gace.structures.neighbours import build_graph
from gace.testing import CHECKS, Subject, sample_structures

ELEMENTS = ["C", "O"]
compiles = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")
PATHS = [
    "kernels",
    "plain",
    "blocks",
    "tabulated",
    "recorded",
    pytest.param("compiled", marks=[pytest.mark.slow, compiles, pytest.mark.timeout(1800)]),
    pytest.param("exported", marks=[pytest.mark.slow, compiles]),
]
"""Triton's interpreter has a file of its own, ``test_triton.py``."""


@pytest.fixture(scope="module")
def model():
    """Two layers, few channels."""
    model = GraphACE(
        elements=ELEMENTS,
        cutoff=3.0,
        l_max=[2, 1],
        order=3,
        channels=3,
        n_radial=4,
        radial_hidden=[4],
        scale=0.5,
    )
    model.calibrate(build_graph(sample_structures(ELEMENTS, 3.0), ELEMENTS, 3.0))
    return model


class ByPath(Subject):
    """A subject that is evaluated as users have it evaluated."""

    potential: Potential

    def predict(self, *structures: Atoms) -> Prediction:
        """By the potential's path."""
        graph = build_graph(structures, ELEMENTS, self.cutoff)
        energy, forces, virial, energies, *_ = self.potential.evaluate_graph(graph)
        return Prediction(*map(torch.from_numpy, (energy, forces, virial, energies)), torch.empty(0))


def again(function):
    """Recordings without a GPU; see ``test_recorded.py``."""
    results = function()

    def replay():
        for place, value in zip(results, function(), strict=True):
            place.copy_(value)

    return replay, results


@pytest.fixture
def subject(request, model, monkeypatch, tmp_path):
    """The model by one path."""
    path = request.param
    potential = Potential([model], isolated_atom_energies=dict.fromkeys(ELEMENTS, 0.0))
    if path == "plain":
        monkeypatch.setattr(gace.potential.layer, "available", lambda x: False)
    elif path == "blocks":
        monkeypatch.setattr(gace.potential.compiled, "EAGER_BONDS", 64)
    elif path in ("tabulated", "compiled"):
        potential = potential.evaluated_by(path)
    elif path == "recorded":
        potential = potential.evaluated_by("eager")
        potential._evaluators = [Recorded(one, again) for one in potential._evaluators]
    elif path == "exported":
        export(potential, tmp_path / "potential.pt2")
        potential = load_exported(tmp_path / "potential.pt2")
    structures = sample_structures(ELEMENTS, model.cutoff)
    # code is made shape by shape, the best part of a minute each
    found = ByPath(model, structures[:1] if path == "compiled" else structures)
    found.potential = potential
    return found


@pytest.mark.parametrize("subject", PATHS, indirect=True)
def test_physics(subject):
    """Rotation, inversion, translation, permutation, forces and virial by differences, batches, cutoff."""
    for check in CHECKS:
        check(subject)


@pytest.mark.parametrize("subject", PATHS[1:], indirect=True)
def test_paths_agree(subject, model, request):
    """Energies, forces and virial with those of the kernels."""
    expected = Subject(model, subject.structures)
    for atoms in subject.structures:
        ours, theirs = subject.predict(atoms), expected.predict(atoms)
        # rounding; tables are good to 1e-9 of the radial functions, which forces feel by their slope
        tolerance = 1e-6 if "tabulated" in request.node.callspec.id else 1e-9
        for one, other in zip(ours[:3], theirs[:3], strict=True):
            assert torch.allclose(
                one, other.detach(), rtol=0, atol=tolerance * max(1.0, float(other.abs().max()))
            )
