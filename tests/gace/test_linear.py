"""Linear ACE: an independent invariant basis, exact derivatives, an honest fit, a bundle like any other."""

import json

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from click.testing import CliRunner
from threadpoolctl import threadpool_info, threadpool_limits

import gace
from gace.commands.train import command as train_command
from gace.errors import InputError
from gace.linear.basis import Factor, enumerate_invariants, intermediate_degrees
from gace.linear.config import LeastSquares
from gace.linear.design import design
from gace.linear.fit import fit, refine, rows_of
from gace.linear.model import LinearACE
from gace.linear.solve import Parts, Rows, solve_dual
from gace.potential.derivatives import energy_and_gradients
from gace.structures.io import labels_of, set_labels, write_structures
from gace.structures.neighbours import build_graph
from gace.testing import check_potential
from gace.training.batches import Packed
from gace.training.run import train

SIZE = {"size": 40, "cutoff": 3.5}


def randomised(model, structures, seed=0):
    """The model with a standardised base and random coefficients."""
    model.standardise([build_graph(structures, model.elements, model.cutoff)])
    draw = torch.randn(model.coefficients.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.coefficients.copy_(draw.double())
    return model


@pytest.fixture
def alloys():
    """Rattled copper-gold cells labelled by EMT."""
    rng, found = np.random.default_rng(0), []
    for index in range(10):
        atoms = bulk("Cu", cubic=True, a=3.7)
        atoms.symbols[index % 4] = "Au"
        atoms.set_cell(atoms.cell.array * (1 + 0.02 * rng.normal()), scale_atoms=True)
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        found.append(
            set_labels(atoms, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
        )
    return found


def packed(structures, model):
    return Packed(
        structures,
        [labels_of(one) for one in structures],
        elements=model.elements,
        cutoff=model.cutoff,
        isolated_atoms={"Cu": 3.5, "Au": 3.8},
        dtype=torch.float64,
        device=torch.device("cpu"),
    )


def test_weights_of_structures_and_labels_count_in_the_fit(alloys):
    model = LinearACE(elements=["Au", "Cu"], **SIZE)
    data = packed(alloys, model)
    model.standardise([data.batch(torch.arange(len(data))).graph])
    plain = next(rows_of(model, data, LeastSquares(), torch.arange(len(data))))
    for one in alloys:
        one.info["weight"] = 2.0
        one.info["forces_weight"] = 3.0
    weighted = next(rows_of(model, packed(alloys, model), LeastSquares(), torch.arange(len(data))))
    factor = (weighted.matrix**2).sum(1) / (plain.matrix**2).sum(1)
    n = len(alloys)
    # energies and six virials by 2, twelve forces by 6; squares are what is summed
    assert (np.isclose(factor, 2.0).sum(), np.isclose(factor, 6.0).sum()) == (7 * n, 12 * n)
    assert np.allclose((weighted.target / plain.target) ** 2, factor)


def test_equal_factors_leave_fewer_couplings():
    p, q = Factor(1, 0, 0), Factor(1, 1, 0)
    # (p·p)² is the only invariant of four equal vectors; (p·p)(q·q) and (p·q)² are the two of two pairs
    assert len(intermediate_degrees((p, p, p, p))) == 1
    assert len(intermediate_degrees((p, p, q, q))) == 2


def test_odd_sums_of_degrees_have_no_invariant():
    assert intermediate_degrees((Factor(1, 0, 0), Factor(1, 1, 0), Factor(1, 2, 0))) == ()


def test_basis_functions_are_linearly_independent(ethanol):
    model = LinearACE(elements=["H"], cutoff=4.0, order=4, level=7.0, core_repulsion=False)
    assert {one.order for one in model.invariants} == {1, 2, 3, 4}
    rng = np.random.default_rng(0)
    base = torch.from_numpy(rng.normal(size=(model.products.n_base, 3 * len(model.invariants))))
    values = model.products(base)
    # generic atomic bases: a dependent column would have a singular value at rounding, 1e-16
    ratio = torch.linalg.svdvals(values / values.norm(dim=1, keepdim=True))
    assert (ratio[-1] / ratio[0]).item() > 1e-6


def test_levels_are_nested():
    small = enumerate_invariants(2, 3, 8.0, 1.0, 2.0, 4)
    assert set(small) < set(enumerate_invariants(2, 3, 9.0, 1.0, 2.0, 4))


def test_potential_obeys_the_laws():
    def make():
        model = LinearACE(elements=["H", "O"], **SIZE)
        graph = build_graph(sample(), ["H", "O"], 3.5)
        model.standardise([graph])
        return randomised(model, sample())

    check_potential(make)


def sample():
    from gace.testing import sample_structures

    return sample_structures(["H", "O"], 3.5)


def test_isolated_atoms_have_no_energy(ethanol):
    model = randomised(LinearACE(elements=["H", "C", "O"], **SIZE), [ethanol])
    graph = build_graph([ethanol[:1]], model.elements, model.cutoff)
    assert energy_and_gradients(model, graph).energy.item() == pytest.approx(0.0, abs=1e-12)


def test_rows_times_coefficients_are_the_prediction(alloys):
    model = randomised(LinearACE(elements=["Au", "Cu"], **SIZE), alloys)
    graph = build_graph(alloys[:2], model.elements, model.cutoff)
    rows, found = design(model, graph, virial=True), energy_and_gradients(model, graph)
    c = model.coefficients.detach().flatten()
    for matrix, fixed, wanted in (
        (rows.energy, rows.fixed_energy, found.energy),
        (rows.forces, rows.fixed_forces, found.forces),
        (rows.virial, rows.fixed_virial, found.virial),
    ):
        # two orders of summation in float64
        assert torch.allclose(matrix.detach() @ c + fixed, wanted, rtol=1e-9, atol=1e-9)


def test_rows_do_not_depend_on_the_blocks(alloys, monkeypatch):
    """One atom at a time and all at once."""
    model = randomised(LinearACE(elements=["Au", "Cu"], **SIZE), alloys)
    graph = build_graph(alloys[:2], model.elements, model.cutoff)
    found = []
    for numbers in (1, 10**9):
        monkeypatch.setattr("gace.linear.design.BLOCK_NUMBERS", numbers)
        found.append(design(model, graph, virial=True))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [{"order": 1, "size": 12}, {"order": 3, "size": 90}, {"order": 4, "size": 160, "order_cost": 2.0}],
)
@pytest.mark.parametrize("elements", [["Si"], ["H", "O"]])
def test_jacobian_of_the_products_is_their_derivative(arguments, elements):
    products = LinearACE(elements=elements, cutoff=4.0, **arguments).products
    base = torch.randn(products.n_base, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = torch.func.jacrev(products)(base)  # (n_B, N, n_A, N)
    wanted = torch.stack([whole[:, atom, :, atom].T for atom in range(3)])
    assert wanted.abs().max() > 0
    assert torch.allclose(products.jacobian(base), wanted, rtol=1e-12, atol=1e-12)


def radial_functions(model, distances):
    """R_n of two equal atoms ``(R, n_max)``."""
    vectors = torch.zeros(1, len(distances), 3, dtype=torch.float64)
    vectors[0, :, 2] = torch.as_tensor(distances, dtype=torch.float64)
    species = torch.zeros(1, len(distances), dtype=torch.long)
    return model.functions_of(species[:, 0], species, vectors).radial[0]


def test_radial_functions_stay_bounded_where_bonds_are_short():
    """Molybdenum: two covalent radii are 3.08 Å, neighbours in the crystal 2.7 Å, in the melt 2.0 Å apart."""
    model = LinearACE(elements=["Mo"], cutoff=5.0, order=2, size=300)
    assert model.n_max > 8
    between = radial_functions(model, np.linspace(0.6 * 3.08, 4.999, 200))
    assert between.abs().max() <= 1.0 + 1e-12
    below = radial_functions(model, np.linspace(0.05, 0.6 * 3.08, 200))
    assert below.abs().max() < 30
    spread = between.std(0)
    assert spread[1:].min() > 0.1 * spread.max()  # none is a giant beside the others


def test_radial_functions_are_smooth_at_the_inner_end():
    model = LinearACE(elements=["Mo"], cutoff=5.0, order=2, size=300)
    inner = 0.6 * model.bond_length.item()

    def derivatives(distance):
        """First and second of the highest polynomial (the first function is the cutoff factor)."""
        r = torch.tensor([distance], dtype=torch.float64, requires_grad=True)
        found = radial_functions(model, r)[0]
        value = found[-1] / found[0]
        (slope,) = torch.autograd.grad(value, r, create_graph=True)
        return [slope.item(), torch.autograd.grad(slope.sum(), r)[0].item()]

    assert derivatives(inner - 1e-8) == pytest.approx(derivatives(inner + 1e-8), rel=1e-4)
    # below they level off: the slope that a polynomial goes on with is gone
    assert abs(derivatives(0.7 * inner)[0]) < 1e-3 * abs(derivatives(inner)[0])


def test_bundles_without_an_inner_reach_keep_their_radial_functions():
    model = LinearACE(elements=["Si"], **SIZE)
    old = {key: value for key, value in model.hyperparameters().items() if key != "inner_reach"}
    found = radial_functions(LinearACE.from_hyperparameters(old), [2.0, 3.0])
    r, length = torch.tensor([2.0, 3.0], dtype=torch.float64), model.bond_length.item()
    y, end = 1 / (1 + r / length), 1 / (1 + 3.5 / length)
    u = r / 3.5
    envelope = 1 - 6 * u**2 + 8 * u**3 - 3 * u**4
    assert torch.allclose(found[:, 1], envelope * (2 * (y - end) / (0.5 - end) - 1))


def random_rows(n=30, size=12):
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(n, size))
    return Rows(matrix, matrix @ rng.normal(size=size) + 0.1 * rng.normal(size=n), np.arange(n) // 5)


def test_both_forms_of_the_equations_agree():
    rows, widths = random_rows(), np.linspace(0.5, 2.0, 12)
    parts = Parts(2, 12)
    parts.add(Rows(rows.matrix[:20], rows.target[:20], rows.block[:20]))
    parts.add(Rows(rows.matrix[20:], rows.target[20:], rows.block[20:]))
    found = parts.whole().solve(widths, 0.3)
    assert np.allclose(solve_dual(rows, widths, 0.3).coefficients, found)


def test_crossed_residuals_are_those_of_fits_without_the_part():
    rows, widths = random_rows(), np.linspace(0.5, 2.0, 12)
    parts = Parts(3, 12)
    parts.add(rows)
    logs = []
    for number in range(3):
        own = rows.block % 3 == number
        fitted = solve_dual(Rows(*(one[~own] for one in rows)), widths, 0.3).coefficients
        for block in np.unique(rows.block[own]):
            left = (rows.target - rows.matrix @ fitted)[rows.block == block]
            logs.append(np.log(np.square(left).mean()))
    assert np.isclose(parts.crossed(widths, 0.3).score, np.exp(np.mean(logs)))


def test_some_structures_may_judge_for_all():
    rows, widths = random_rows(90), np.ones(12)
    parts = Parts(3, 12, judged_every=2)
    parts.add(rows)
    held = np.concatenate([one.block for several in parts.judges for one in several])
    assert sorted(set(held)) == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert parts.n_rows == 90
    assert parts.crossed(widths, 0.3).score > 0


def test_one_odd_structure_does_not_decide_the_prior():
    """Whatever is said of it when it is left out, the ridge stays that of the others."""
    rows, widths = random_rows(300), np.ones(12)
    odd = Rows(rows.matrix.copy(), rows.target.copy(), rows.block)
    odd.target[:5] += 1e3
    ridges = []
    for one in (rows, odd):
        parts = Parts(5, 12)
        parts.add(Rows(one.matrix[5:], one.target[5:], one.block[5:]))
        parts.judges[0].append(Rows(one.matrix[:5], one.target[:5], one.block[:5]))
        ridges.append(refine(lambda x, parts=parts: parts.crossed(widths, x), 1.0, True)[0])
    assert ridges[0] == ridges[1]


def test_left_out_residuals_are_those_of_fits_without_the_structure():
    rows, widths = random_rows(), np.ones(12)
    left_out = solve_dual(rows, widths, 0.3).left_out
    for block in rows.blocks():
        rest = np.ones(len(rows.target), dtype=bool)
        rest[block] = False
        fitted = solve_dual(Rows(*(one[rest] for one in rows)), widths, 0.3).coefficients
        assert np.allclose(rows.target[block] - rows.matrix[block] @ fitted, left_out[block])


def test_an_exact_fit_scores_its_floor():
    rows = random_rows()
    exact = rows._replace(target=rows.matrix @ np.arange(1.0, 13.0))
    parts = Parts(3, 12)
    parts.add(exact)
    assert 0 < parts.crossed(np.ones(12), 1e-13).score < 1.1e-10 * np.square(exact.target).mean()


def test_ridge_that_is_too_small_is_an_input_error():
    rows = random_rows()
    double = Rows(np.concatenate([rows.matrix] * 2), np.concatenate([rows.target] * 2), np.arange(60))
    with pytest.raises(InputError, match="too small"):
        solve_dual(double, np.ones(12), -1e-3)


def test_fit_of_a_linear_truth_is_exact(alloys):
    truth = randomised(LinearACE(elements=["Au", "Cu"], cutoff=3.5, size=15), alloys)
    graph = build_graph(alloys, truth.elements, truth.cutoff)
    found = energy_and_gradients(truth, graph)
    isolated = np.array([3.8, 3.5])
    labelled = []
    for index, atoms in enumerate(alloys):
        own = graph.structure == index
        energy = found.energy[index].item() + isolated[graph.species[own].numpy()].sum()
        labelled.append(set_labels(atoms, energy, found.forces[own].numpy()))
    model = LinearACE(elements=["Au", "Cu"], cutoff=3.5, size=15)
    fit(
        model,
        packed(labelled, model),
        LeastSquares(ridge=1e-12, smoothness=0, order_decay=1, stress_weight=0),
    )
    again = energy_and_gradients(model, graph)
    # the ridge, relative to forces of order 10 eV/Å
    assert torch.allclose(again.forces, found.forces, atol=1e-4)


def test_the_prior_is_chosen_on_all_structures(alloys):
    """With more rows than ``search_rows`` no handful of structures decides."""
    model = LinearACE(elements=["Au", "Cu"], cutoff=3.5, size=15)
    data = packed(alloys, model)
    chosen = fit(model, data, LeastSquares(search_rows=1))
    assert chosen.form == "primal"
    for changed in (chosen.ridge / 8, chosen.ridge * 8):
        settings = LeastSquares(
            ridge=changed, smoothness=chosen.smoothness, order_decay=chosen.order_decay, search_rows=1
        )
        assert fit(model, data, settings).left_out >= chosen.left_out
    for smoothness in (0.0, 2.0, 4.0):
        settings = LeastSquares(smoothness=smoothness, order_decay=0.3, search_rows=1)
        assert fit(model, data, settings).left_out >= chosen.left_out


def test_rows_in_many_pieces_are_the_rows_in_one(alloys, monkeypatch):
    model = LinearACE(elements=["Au", "Cu"], **SIZE)
    data, every = packed(alloys, model), torch.arange(len(alloys))
    (whole,) = rows_of(model, data, LeastSquares(), every)
    monkeypatch.setattr("gace.linear.fit.NUMBERS_AT_ONCE", 1.0)
    pieces = list(rows_of(model, data, LeastSquares(), every))
    assert len(pieces) == len(alloys)
    assert np.allclose(np.concatenate([one.matrix for one in pieces]), whole.matrix, atol=1e-12)


@pytest.fixture
def config(alloys, tmp_path):
    write_structures(tmp_path / "train.xyz", alloys)
    return {
        "data": {"train": "train.xyz", "validation": 2, "isolated_atoms": {"Cu": 3.5, "Au": 3.8}},
        "potential": {"preset": "linear-small", "cutoff": 4.0, "overrides": {"size": 60}},
    }


def test_train_command_leaves_a_bundle_that_runs(config, tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    arguments = [str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--quiet", "--json"]
    result = CliRunner().invoke(train_command, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output.splitlines()[-1])
    # EMT in small cells is nearly linear in such a basis; forces are of the order of 1 eV/Å
    assert summary["metrics"]["validation"]["forces"]["mae"] < 60
    potential = gace.load(tmp_path / "run/potential")
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.calc = potential.calculator()
    assert np.isfinite(atoms.get_stress()).all()
    assert potential.metadata["least_squares"]["ridge"] > 0


def test_linear_algebra_keeps_to_the_threads_it_is_given(config, tmp_path, monkeypatch):
    """By itself it takes every core, and sums in another order on another machine."""
    seen = []

    def threads():
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    def noting(*args, **kwargs):
        seen.extend(threads())
        return fit(*args, **kwargs)

    monkeypatch.setattr("gace.training.run.fit", noting)
    monkeypatch.chdir(tmp_path)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        assert 2 in before  # not all: PySCF brings a library of one thread
        train({**config, "threads": 1}, tmp_path / "run", progress=False)
        assert threads() == before
    assert seen
    assert set(seen) == {1}


def test_optimizer_names_the_linear_family(config, tmp_path):
    settings = {**config, "data": {**config["data"], "train": str(tmp_path / "train.xyz")}}
    settings["training"] = {"optimizer": "least-squares"}
    settings["potential"] = {"preset": "2L-small"}
    with pytest.raises(InputError, match="choose linear-small"):
        train(settings, tmp_path / "run", progress=False)
