"""The quality gate: what a finished calculation must satisfy to become a label."""

import numpy as np
import pytest
from ase import Atoms

from gace_platform.labelling.config import QualityGate
from gace_platform.labelling.gate import objection


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"energy": np.nan}, "not finite"),
        ({"forces": np.full((2, 3), np.inf)}, "not finite"),
        ({"forces": np.array([[200.0, 0, 0], [-200.0, 0, 0]])}, "max_force"),
        ({"forces": np.array([[1.0, 0, 0], [0, 0, 0]])}, "max_net_force"),
        ({"stress": np.eye(3) * 5}, "max_stress"),
        ({"energy": -1000.0}, "binding energy"),
        ({}, None),
    ],
)
def test_the_gate_names_what_it_objects_to(changes, reason):
    label = {"energy": -1.0, "forces": np.zeros((2, 3)), "stress": None, **changes}
    found = objection(
        Atoms("Ar2", [[0, 0, 0], [4, 0, 0]]), **label, limits=QualityGate(), isolated={"Ar": 0.0}
    )
    assert found is None if reason is None else reason in found


def twisted(pbc):
    """Forces that cancel in the sum and still turn two atoms about each other."""
    atoms = Atoms("Ar2", [[0, 0, 0], [4, 0, 0]], cell=[20, 20, 20], pbc=pbc)
    return objection(atoms, -1.0, np.array([[0, 1.0, 0], [0, -1.0, 0]]), None, QualityGate())


def test_forces_that_turn_a_molecule_are_refused():
    assert "net torque of 2.000 eV/Å" in twisted(False)


def test_a_periodic_cell_may_feel_a_torque():
    assert twisted(True) is None
