"""A process that has computed on several threads may be forked."""

import subprocess
import sys

SCRIPT = """
import multiprocessing
import torch
from ase.build import bulk
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential

torch.set_num_threads(2)
sizes = dict(l_max=[1], order=2, channels=4, radial_hidden=[4], densities=2, readout_hidden=2)
model = GraphACE(elements=["Si"], cutoff=3.5, **sizes)
calculator = Potential([model], isolated_atom_energies={"Si": 0.0}).calculator(path="PATH")

def energy(amplitude):
    atoms = bulk("Si", cubic=True) * (3, 3, 3)
    atoms.rattle(amplitude, seed=1)
    return calculator.get_potential_energy(atoms)

expected = energy(0.1)
energy(0.0)
with multiprocessing.get_context("fork").Pool(1) as pool:
    found = pool.apply_async(energy, [0.1]).get(timeout=60)
assert abs(found - expected) < 1e-9, (found, expected)
assert torch.get_num_threads() == 2
"""


def test_a_forked_process_does_not_wait_for_its_parents_threads():
    for path in ("tabulated", "eager"):
        command = [sys.executable, "-c", SCRIPT.replace("PATH", path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
