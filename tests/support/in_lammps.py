"""What LAMMPS says of its atoms; it has the computes ``virial`` (pressure) and ``energies`` (pe/atom)."""

import numpy as np


def spoken(lmp):
    """Energy, forces and energies by identifier, and stress in ASE's order, as LAMMPS has them."""
    n_atoms = lmp.get_natoms()
    order = np.argsort(lmp.numpy.extract_atom("id")[:n_atoms])
    pressure = np.array(lmp.numpy.extract_compute("virial", 0, 1)) / lmp.extract_global("nktv2p")
    return {
        "energy": lmp.get_thermo("pe"),
        "forces": lmp.numpy.extract_atom("f")[:n_atoms][order].copy(),
        "energies": lmp.numpy.extract_compute("energies", 1, 1)[:n_atoms][order].copy(),
        "stress": -pressure[[0, 1, 2, 5, 4, 3]],
    }
