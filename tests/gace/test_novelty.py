import time

import numpy as np
import pytest
import torch

from gace.errors import BundleError, InputError
from gace.uncertainty import Novelty
from gace.uncertainty.environments import shrunk_covariance

ELEMENTS = ["C", "H", "O", "N"]
SPECIES = [0, 0, 1, 1, 1, 1, 1, 1, 2]  # ethanol; nitrogen never occurs
N_FEATURES = 200


def ensemble(n_structures, seed, shift=0.0):
    """Correlated features of ethanol-like structures: 20 collective modes of decaying size, and noise."""
    rng = np.random.default_rng(seed)
    modes = np.random.default_rng(99).standard_normal((20, N_FEATURES))
    modes *= np.exp(-np.arange(20) / 3)[:, None]
    species = np.tile(SPECIES, n_structures)
    features = (rng.standard_normal((len(species), 20)) + shift) @ modes
    features += species[:, None] * np.linspace(-1, 1, N_FEATURES)
    features += 1e-3 * rng.standard_normal(features.shape)
    return torch.tensor(features), torch.tensor(species), np.repeat(np.arange(n_structures), len(SPECIES))


def fitted(n_structures, seed=0):
    features, species, structure = ensemble(n_structures, seed)
    return Novelty.fit(features, species, ELEMENTS, 0, structure)


@pytest.mark.parametrize("n_structures", [1, 3, 8, 40, 150])
def test_training_atoms_lie_within_the_boundary(n_structures):
    features, species, structure = ensemble(n_structures, 0)
    gamma = Novelty.fit(features, species, ELEMENTS, 0, structure).gamma(features, species)
    assert np.mean(gamma.numpy() <= 1) > 0.95


@pytest.mark.parametrize("n_structures", [8, 40, 150])
def test_new_atoms_of_the_same_ensemble_are_mostly_within(n_structures):
    gamma = fitted(n_structures).gamma(*ensemble(100, 7)[:2])
    assert np.mean(gamma.numpy() <= 1) > 0.9


@pytest.mark.parametrize("n_structures", [3, 8, 40, 150])
def test_far_atoms_are_far_beyond_the_boundary(n_structures):
    gamma = fitted(n_structures).gamma(*ensemble(50, 8, shift=15.0)[:2])
    assert float(gamma.quantile(0.05)) > 3


def test_gamma_grows_with_the_distance_from_the_training_set():
    novelty = fitted(40)
    medians = [float(novelty.gamma(*ensemble(50, 8, shift)[:2]).median()) for shift in (0, 2, 5, 10, 30)]
    assert medians == sorted(medians)


def test_an_in_sample_boundary_would_call_the_same_ensemble_novel():
    # why distances are held out: fitted on itself, a small set promises much too short distances
    features, species, structure = ensemble(8, 0)
    novelty = Novelty.fit(features, species, ELEMENTS, 0, structure)
    region = novelty.regions[0]
    own = region.distance(features[species == 0].numpy())
    median = np.median(own)
    in_sample = median + 3 * 1.4826 * np.median(np.abs(own - median))
    others, of_element, _ = ensemble(100, 7)
    new = region.distance(others[of_element == 0].numpy())
    assert np.mean(new <= in_sample) < 0.75
    assert np.mean(new <= region.boundary) > 0.9


def test_an_element_absent_from_training_is_infinitely_novel():
    novelty = fitted(8)
    features = ensemble(1, 0)[0][:2]
    assert torch.isinf(novelty.gamma(features, torch.tensor([3, 3]))).all()


def test_features_that_are_not_finite_are_infinitely_novel():
    features, species, _ = ensemble(2, 0)
    features[0, 3], features[1, 5] = torch.nan, torch.inf
    gamma = fitted(8).gamma(features, species)
    assert torch.isinf(gamma[:2]).all()
    assert torch.isfinite(gamma[2:]).all()


def test_identical_environments_give_a_finite_scale():
    features = torch.ones(6, 4, dtype=torch.float64)
    novelty = Novelty.fit(features, torch.zeros(6, dtype=torch.int64), ["Si"], 0, np.arange(6))
    gamma = novelty.gamma(torch.cat([features[:1], 2 * features[:1]]), torch.zeros(2, dtype=torch.int64))
    assert gamma[0] == 0
    assert 1 < gamma[1] < torch.inf


def test_separate_clusters_leave_the_space_between_them_novel():
    rng = np.random.default_rng(0)
    sides = np.repeat([-20.0, 20.0], 300)
    features = rng.standard_normal((600, 6))
    features[:, 0] += sides
    species = np.zeros(600, dtype=int)
    novelty = Novelty.fit(features, species, ["Si"], 0, np.arange(600) % 50)
    between = torch.zeros(1, 6, dtype=torch.float64)
    assert novelty.gamma(between, torch.tensor([0])).item() > 2


def test_the_same_seed_gives_the_same_bits():
    one, two = fitted(8), fitted(8)
    features, species, _ = ensemble(20, 3)
    assert torch.equal(one.gamma(features, species), two.gamma(features, species))


def test_single_precision_features_give_nearly_the_same_gamma():
    novelty = fitted(40)
    features, species, _ = ensemble(20, 3)
    exact, rounded = novelty.gamma(features, species), novelty.gamma(features.float(), species)
    # features are good to 1e-7 of their size; the ridge bounds how much whitening can magnify that
    torch.testing.assert_close(exact, rounded, rtol=1e-3, atol=1e-3)


def test_arrays_survive_a_file_without_pickle(tmp_path):
    novelty = fitted(8)
    np.savez(tmp_path / "novelty.npz", **novelty.arrays())
    with np.load(tmp_path / "novelty.npz", allow_pickle=False) as stored:
        again = Novelty.from_arrays(stored)
    features, species, _ = ensemble(5, 3)
    assert again.elements == ELEMENTS
    assert again.kind == "mahalanobis-clusters"
    assert torch.equal(again.gamma(features, species), novelty.gamma(features, species))


def test_another_kind_of_gamma_is_refused():
    arrays = fitted(3).arrays() | {"novelty.kind": np.array("maxvol")}
    with pytest.raises(BundleError, match="maxvol"):
        Novelty.from_arrays(arrays)


def test_arrays_of_a_wrong_shape_are_refused():
    arrays = fitted(3).arrays()
    arrays["novelty.H.offset"] = arrays["novelty.H.offset"][:, 1:]
    with pytest.raises(BundleError, match=r"novelty\.H\.offset"):
        Novelty.from_arrays(arrays)


def test_a_missing_array_is_refused():
    arrays = fitted(3).arrays()
    del arrays["novelty.H.centre"]
    with pytest.raises(BundleError, match=r"novelty\.H\.centre"):
        Novelty.from_arrays(arrays)


def test_a_broken_training_feature_is_refused():
    features, species, structure = ensemble(3, 0)
    features[4, 4] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        Novelty.fit(features, species, ELEMENTS, 0, structure)


def test_gamma_costs_little_enough_for_every_few_steps():
    novelty = fitted(150)
    features, species, _ = ensemble(3, 3)
    novelty.gamma(features, species)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        novelty.gamma(features, species)
        times.append(time.perf_counter() - start)
    assert min(times) < 5e-3  # a force call for these 27 atoms takes some 36 ms


def test_shrinkage_vanishes_with_many_rows():
    rng = np.random.default_rng(0)
    true = np.diag([4.0, 1.0, 0.25])
    rows = rng.standard_normal((50_000, 3)) @ np.sqrt(true)
    np.testing.assert_allclose(shrunk_covariance(rows, prior=1.0), true, atol=0.05)


def test_shrinkage_keeps_few_rows_invertible():
    rows = np.random.default_rng(0).standard_normal((5, 30))
    assert np.linalg.eigvalsh(shrunk_covariance(rows, prior=1.0)).min() > 0.01
