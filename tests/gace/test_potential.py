"""The potential as its users meet it."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gace.errors import InputError
from gace.potential.potential import Potential
from gace.testing import ConformanceError, check_potential

ISOLATED = {"H": -13.5, "C": -1027.0, "O": -2041.0}


def test_conformance_of_two_layers(make_model):
    check_potential(lambda: make_model(seed=1))


def test_conformance_of_one_layer(make_model):
    check_potential(lambda: make_model(seed=2, l_max=[3], order=3))


class Faulty(torch.nn.Module):
    """A potential with a fault added to it, to see that the suite notices."""

    def __init__(self, model, fault):
        super().__init__()
        self.model, self.fault = model, fault
        self.elements, self.cutoff = model.elements, model.cutoff

    def forward(self, graph):
        output = self.model(graph)
        return output._replace(energy=output.energy + self.fault(graph))


def sharp(graph):
    return 0.01 * (graph.edge_vector.norm(dim=-1) < 3.5).sum(1)


def directed(graph):
    inside = graph.edge_vector.norm(dim=-1) < 3.5
    return 0.01 * (graph.edge_vector[..., 0].square() * inside).sum(1)


def chiral(graph):
    length = graph.edge_vector.norm(dim=-1, keepdim=True)
    moments = [(graph.edge_vector * length**power * (length < 3.5)).sum(1) for power in (0, 2, 4)]
    return 1e-3 * torch.linalg.det(torch.stack(moments, dim=1))


def crowded(graph):
    return torch.full((graph.n_atoms,), 0.01 * graph.n_atoms, dtype=torch.float64)


def undifferentiated(graph):
    return 0.01 * graph.edge_vector.detach().norm(dim=-1).clamp(max=3.5).sum(1)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        (sharp, "cutoff"),
        (directed, "rotation"),
        (chiral, "inversion"),
        (crowded, "batch|fragments"),
        (undifferentiated, "forces"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_conformance_suite_notices(make_model, fault, law):
    with pytest.raises(ConformanceError, match=f"^({law})"):
        check_potential(lambda: Faulty(make_model(), fault))


def test_prediction_is_the_mean_of_the_members(committee, ethanol):
    alone = [
        Potential([member], isolated_atom_energies=ISOLATED).predict([ethanol])[0]
        for member in committee.members
    ]
    (together,) = committee.predict([ethanol])
    assert together.energy == pytest.approx(np.mean([one.energy for one in alone]), abs=1e-10)
    np.testing.assert_allclose(together.forces, np.mean([one.forces for one in alone], axis=0), atol=1e-12)


def test_isolated_atoms_have_their_own_energies(single):
    predictions = single.predict([Atoms("H"), Atoms("O")])
    assert [one.energy for one in predictions] == [-13.5, -2041.0]


def test_atomic_energies_sum_to_the_energy(committee, ethanol):
    (prediction,) = committee.predict([ethanol])
    assert prediction.energies.sum() == pytest.approx(prediction.energy, abs=1e-9)


def test_results_come_in_the_order_given(single, ethanols):
    structures = [*ethanols, molecule("H2O"), *ethanols[:2]]
    batched = [one.energy for one in single.predict(structures, batch_atoms=20)]
    alone = [single.predict([atoms])[0].energy for atoms in structures]
    np.testing.assert_allclose(batched, alone, rtol=0, atol=1e-10)


def test_stress_is_the_strain_derivative_per_volume(silicon_potential, silicon):
    step = 1e-5
    strained = []
    for sign in (1, -1):
        atoms = silicon.copy()
        atoms.set_cell(atoms.cell.array * (1 + sign * step), scale_atoms=True)
        strained.append(atoms)
    plus, minus = (one.energy for one in silicon_potential.predict(strained))
    pressure_work = (plus - minus) / (2 * step) / silicon.get_volume()
    # central difference of step 1e-5: relative error about 1e-8
    trace = silicon_potential.predict([silicon])[0].stress.trace()
    assert trace == pytest.approx(pressure_work, rel=1e-6)


def test_no_stress_without_three_periodic_directions(single, ethanol):
    assert single.predict([ethanol])[0].stress is None


def test_single_model_has_no_error_bars(single, ethanol):
    (prediction,) = single.predict([ethanol], uncertainty=True)
    assert (prediction.energy_std, prediction.forces_std, prediction.gamma) == (None, None, None)


def test_error_bars_are_scaled_spreads(committee, ethanol):
    plain = Potential(committee.members, isolated_atom_energies=ISOLATED)
    spread = plain.predict([ethanol], uncertainty=True)[0].forces_std
    scaled = committee.predict([ethanol], uncertainty=True)[0].forces_std
    # σ² = a² (s² + b²) with a = 3 and b = 0.02 eV/Å of the fixture
    np.testing.assert_allclose(scaled, 3 * np.sqrt(spread**2 + 0.02**2))


def test_gamma_flags_what_training_never_saw(committee, ethanols):
    strange = ethanols[0].copy()
    strange.positions[2] += 0.8
    known, unknown = committee.predict([ethanols[0], strange], uncertainty=True)
    assert known.gamma.shape == (9,)
    assert unknown.gamma.max() > 3 * known.gamma.max()


def test_float32_energy_keeps_its_digits(single, ethanol):
    low = single.to(dtype="float32")
    assert low.dtype == torch.float32
    # the total is some 4000 eV, where float32 resolves 0.2 meV: only the bonding part is in float32
    assert low.predict([ethanol])[0].energy == pytest.approx(single.predict([ethanol])[0].energy, abs=1e-4)


def test_unknown_element_is_refused(single):
    with pytest.raises(InputError, match="no parameters for element Si"):
        single.predict([bulk("Si")])


def test_members_must_agree_on_elements(make_model):
    with pytest.raises(InputError, match="share elements"):
        Potential([make_model(), make_model(elements=["C", "H", "O"])], isolated_atom_energies=ISOLATED)


def test_every_element_needs_an_isolated_energy(make_model):
    with pytest.raises(InputError, match="no isolated-atom energy for C, O"):
        Potential([make_model()], isolated_atom_energies={"H": -13.5})


@pytest.mark.parametrize(("argument", "value"), [("dtype", "float16"), ("device", "gpu")])
def test_unknown_device_or_dtype_is_refused(single, argument, value):
    with pytest.raises(InputError, match=f"no {argument} called '{value}'"):
        single.to(**{argument: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_absent_gpu_is_explained(single):
    with pytest.raises(InputError, match="torch sees no GPU"):
        single.to("cuda")
