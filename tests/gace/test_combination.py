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
from gace.potential.potential import Potential

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
