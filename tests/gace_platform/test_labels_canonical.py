"""A label is computed for the canonical form and handed out in the frame asked for."""

import json

import numpy as np
import pytest
from ase.build import bulk, molecule

from gace.engines.named import make_calculator
from gace.structures.io import read_structures, write_structures
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.run import run_labels


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=(9, 3))
    return atoms, "tblite", {"method": "GFN2-xTB"}


def silicon():
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.positions += np.random.default_rng(0).normal(scale=0.1, size=(8, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.eye(3, k=1)), scale_atoms=True)
    return atoms, "tersoff-si", {}


@pytest.mark.parametrize("make", [ethanol, silicon])
def test_a_turned_and_reordered_copy_is_free_and_has_its_own_forces(make, tmp_path):
    atoms, name, arguments = make()
    copy = atoms[np.random.default_rng(1).permutation(len(atoms))]
    copy.rotate(50, (1, 2, -1), rotate_cell=bool(atoms.pbc.any()))
    copy.positions += [0.2, -1.0, 0.4]
    write_structures(tmp_path / "pool.xyz", [atoms, copy])
    config = LabelConfig(
        reference={"engine": "teacher", "calculator": name, "kwargs": arguments},
        structures=tmp_path / "pool.xyz",
        store=tmp_path / "store",
    )
    summary = run_labels(config, tmp_path / "out")
    assert (summary["computed"], summary["reused"]) == (1, 1)
    rows = json.loads((tmp_path / "out" / "labels.json").read_text())["structures"]
    assert rows[0]["key"] == rows[1]["key"]
    for asked, labelled in zip(
        [atoms, copy], read_structures(tmp_path / "out" / "labelled.xyz"), strict=True
    ):
        asked.calc = make_calculator(name, **arguments)
        np.testing.assert_allclose(labelled.positions, asked.positions, atol=1e-7)
        # the file holds eight decimals, and canonical positions are rounded to 1e-9 Å
        np.testing.assert_allclose(labelled.info["REF_energy"], asked.get_potential_energy(), atol=1e-5)
        np.testing.assert_allclose(labelled.arrays["REF_forces"], asked.get_forces(), atol=2e-5)
        if asked.pbc.any():
            stress = asked.get_stress(voigt=False)
            np.testing.assert_allclose(labelled.info["REF_stress"], stress, atol=1e-6)
