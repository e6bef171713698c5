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
