"""Several potentials as one: the mean of their members, and a clear no to what does not belong together."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import gace
from gace.commands.combine import command
from gace.errors import InputError
from gace.linear.model import LinearACE
from gace.potential import combine
from gace.potential.bundle import save_bundle
from gace.potential.combination import LEAST_WEIGHT, fitted_weights
from gace.potential.potential import Potential
from gace.structures.io import write_structures

ENERGIES = {"H": 1.0, "C": 2.0, "O": 3.0}


@pytest.fixture
def pair(make_model):
    """A graph ACE and a linear ACE for the same labels."""
    graph = make_model()
    linear = LinearACE(elements=list(graph.elements), cutoff=graph.cutoff, size=20)
    with torch.no_grad():
        linear.coefficients.normal_(generator=torch.Generator().manual_seed(1))
    return [Potential([one], isolated_atom_energies=ENERGIES) for one in (graph, linear)]


def test_mean_of_all_members(pair, make_model, ethanol):
    third = Potential([make_model(seed=5), make_model(seed=6)], isolated_atom_energies=ENERGIES)
    whole = combine([*pair, third])
    (found,) = whole.predict([ethanol])
    single = [
        Potential([member], isolated_atom_energies=ENERGIES).predict([ethanol])[0]
        for one in (*pair, third)
        for member in one.members
    ]
    assert found.energy == pytest.approx(np.mean([one.energy for one in single]), abs=1e-9)
    np.testing.assert_allclose(found.forces, np.mean([one.forces for one in single], axis=0), atol=1e-9)


def test_other_labels_are_refused(pair, make_model):
    first = pair[0]
    other = Potential([make_model()], isolated_atom_energies={**ENERGIES, "C": 2.5})
    with pytest.raises(InputError, match=r"isolated-atom energy of C is 2\.0.* and 2\.5"):
        combine([first, other])
    other = Potential([make_model()], isolated_atom_energies=ENERGIES, level_of_theory={"functional": "PBE"})
    with pytest.raises(InputError, match="PBE"):
        combine([first, other])
    other = Potential([make_model(cutoff=3.0)], isolated_atom_energies=ENERGIES)
    with pytest.raises(InputError, match="cutoff 3 Å"):
        combine([first, other])
    with pytest.raises(InputError, match="two potentials or more"):
        combine([first])


def test_command(pair, tmp_path, ethanol):
    folders = [str(save_bundle(one, tmp_path / str(number))) for number, one in enumerate(pair)]
    out = tmp_path / "mean"
    result = CliRunner().invoke(command, [*folders, "--out", str(out), "--dtype", "float32", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["n_members"] == 2
    card = (out / "MODEL_CARD.md").read_text()
    assert card.startswith("# Graph ACE and Linear ACE potential for H, C, O\n")
    assert "### Combined potential 2\n" in card
    expected = np.mean([one.predict([ethanol])[0].energy for one in pair])
    assert gace.load(out, device="cpu").predict([ethanol])[0].energy == pytest.approx(expected, rel=1e-5)


def labelled(potentials, weights, structures):
    """Copies with the weighted mean of the potentials' predictions as labels."""
    copies = []
    for atoms in structures:
        found = [one.predict([atoms])[0] for one in potentials]
        copy = atoms.copy()
        copy.info["REF_energy"] = sum(w * one.energy for w, one in zip(weights, found, strict=True))
        copy.arrays["REF_forces"] = sum(w * one.forces for w, one in zip(weights, found, strict=True))
        copies.append(copy)
    return copies


@pytest.fixture
def shaken(ethanol):
    """Some distorted ethanols."""
    copies = []
    for seed in range(4):
        copy = ethanol.copy()
        copy.rattle(0.1, seed=seed)
        copies.append(copy)
    return copies


def test_weights_are_those_of_the_mean_in_every_quantity(pair, ethanol):
    whole = combine(pair, [1.0, 3.0])
    assert whole.weights == (0.25, 0.75)
    (found,) = whole.predict([ethanol])
    first, second = (one.predict([ethanol])[0] for one in pair)
    for name in ("energy", "forces", "energies"):
        expected = 0.25 * getattr(first, name) + 0.75 * getattr(second, name)
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-9)
    atoms = ethanol.copy()
    atoms.set_cell([9.0, 9.0, 9.0])
    atoms.pbc = True
    stresses = [one.predict([atoms])[0].stress for one in (whole, *pair)]
    np.testing.assert_allclose(stresses[0], 0.25 * stresses[1] + 0.75 * stresses[2], atol=1e-12)


def test_members_share_the_weight_of_their_potential(pair, make_model):
    three = Potential(
        [make_model(seed=5), make_model(seed=6)], isolated_atom_energies=ENERGIES, weights=[1.0, 2.0]
    )
    assert combine([three, pair[1]], [3.0, 1.0]).weights == pytest.approx((0.25, 0.5, 0.25))


def test_weights_are_kept_by_bundles_and_copies(pair, tmp_path):
    whole = combine(pair, [1.0, 3.0])
    loaded = gace.load(save_bundle(whole, tmp_path / "whole"), device="cpu")
    assert loaded.weights == (0.25, 0.75)
    assert whole.to(dtype="float32").weights == (0.25, 0.75)
    assert "weights of the members: 0.25, 0.75" in (tmp_path / "whole/MODEL_CARD.md").read_text()
    plain = json.loads((save_bundle(combine(pair), tmp_path / "plain") / "config.json").read_text())
    assert "member_weights" not in plain


def test_fitted_weights_find_those_of_the_labels(pair, shaken):
    found = fitted_weights(pair, labelled(pair, [0.3, 0.7], shaken))
    assert found == pytest.approx([0.3, 0.7], abs=2e-3)
    alone = fitted_weights(pair, labelled(pair, [1.2, -0.2], shaken))
    assert alone == pytest.approx([1.0 - LEAST_WEIGHT, LEAST_WEIGHT], abs=2e-3)
    for one in shaken:  # no labels
        one.calc = None
    with pytest.raises(InputError, match="no labels to fit the weights to"):
        fitted_weights(pair, shaken)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_impossible_weights_are_refused(pair, weights):
    with pytest.raises(InputError, match="weights"):
        combine(pair, weights)


def test_command_takes_and_fits_weights(pair, shaken, tmp_path):
    folders = [str(save_bundle(one, tmp_path / str(number))) for number, one in enumerate(pair)]

    def run(*more):
        return CliRunner().invoke(command, [*folders, "--out", str(tmp_path / "out"), "--json", *more])

    result = run("--weights", "1,3")
    assert result.exit_code == 0, result.output
    assert gace.load(tmp_path / "out", device="cpu").weights == (0.25, 0.75)
    held_out = tmp_path / "held-out.xyz"
    write_structures(held_out, labelled(pair, [0.6, 0.4], shaken))
    result = run("--fit-weights", str(held_out))
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["weights"] == pytest.approx([0.6, 0.4], abs=2e-3)
    for wrong, message in (
        (["--weights", "a,b"], "numbers separated by commas"),
        (["--weights", "1"], "as many"),
    ):
        refused = run(*wrong)
        assert refused.exit_code != 0
        assert message in str(refused.exception or refused.output)
