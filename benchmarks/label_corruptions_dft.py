"""The spoiled labels of ``label_corruptions.py`` that PySCF has to compute."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Hartree

from gace.errors import LabelError
from gace.randomness import generator
from gace.structures.io import set_labels, write_structures
from gace_platform.labelling.config import PySCFReference
from gace_platform.labelling.engines.pyscf import PySCFEngine

ACCOUNT = "account"
"""Where a label keeps what the program said of it, as JSON."""

FUNCTIONALS = {
    "BLYP": {"functional": "BLYP"},
    "B3LYP": {"functional": "B3LYP"},
    "PBE0": {"functional": "PBE0"},
    "PBE/6-31G*": {"functional": "PBE", "basis": "6-31g*"},
}
"""Settings that differ from PBE/def2-SVP, by name."""

EACH = 15
"""Structures computed with each of them."""

STOPPED = 60
"""Structures whose self-consistent field is stopped after 2 to 6 cycles."""

ATOMS = ("C", "H", "O")


def prepare(structures: Sequence[Atoms], cache: Path) -> None:
    """Compute what is to be planted and keep it in ``cache`` (extended XYZ)."""
    order = [int(one) for one in generator(0, "computed").permutation(len(structures))]
    frames = [frame for symbol in ATOMS for frame in atoms_of(symbol)]
    for place, (name, settings) in enumerate(FUNCTIONALS.items()):
        engine = PySCFEngine(PySCFReference(**settings))
        for number in order[place * EACH : (place + 1) * EACH]:
            frames.append(labelled(engine, structures[number], name))
            write_structures(cache, frames)
            print(len(frames), name, file=sys.stderr)
    first = len(FUNCTIONALS) * EACH
    for number in order[first : first + STOPPED]:
        frames.append(stopped_early(structures[number], 2 + number % 5))
        write_structures(cache, frames)
        print(len(frames), "stopped", file=sys.stderr)


def labelled(engine: PySCFEngine, atoms: Atoms, name: str) -> Atoms:
    """A structure with the label of another level of theory; its calculation converged."""
    found = engine.run(atoms, 0)
    return _kept(atoms, found.energy, found.forces, name, {"converged": True})


def stopped_early(atoms: Atoms, cycles: int) -> Atoms:
    """A structure whose field was stopped after a few cycles, with energy and forces as they were then."""
    engine = PySCFEngine(PySCFReference())
    field = engine._self_consistent_field(atoms, 0, io.StringIO())
    field.max_cycle = cycles
    energy = float(field.kernel()) * Hartree
    if field.converged:
        raise LabelError(f"the field of structure {atoms.info['number']} converged in {cycles} cycles")
    account = {"converged": bool(field.converged), "cycles": cycles}
    return _kept(atoms, energy, engine._forces(field), "unconverged", account)


def atoms_of(symbol: str) -> list[Atoms]:
    """An isolated atom in its ground state, and with the next lower spin where there is one."""
    engine = PySCFEngine(PySCFReference())
    right = engine.isolated_atom(symbol)
    frames = [right]
    if right.info["spin"] >= 2:
        wrong = right.copy()
        wrong.info["spin"] = right.info["spin"] - 2
        frames.append(wrong)
    found = []
    for atom, name in zip(frames, ("atom", "wrong"), strict=False):
        atom.info["number"] = -1
        found.append(_kept(atom, _energy(engine, atom), np.zeros((1, 3)), f"{name} {symbol}", {}))
    return found


def _energy(engine: PySCFEngine, atom: Atoms) -> float:
    """Energy of the first remedy whose field converges, eV: an atom in the wrong state is a hard case.

    The engine itself would refuse some of them as excited states; a program without that check would not.
    """
    for attempt in range(len(engine.remedies()) - 1):
        field = engine._self_consistent_field(atom, attempt, io.StringIO())
        with contextlib.suppress(np.linalg.LinAlgError):
            energy = float(field.kernel()) * Hartree
            if field.converged:
                return energy
    raise LabelError(f"no remedy helps for {atom.symbols} with {atom.info['spin']} unpaired electrons")


def _kept(atoms: Atoms, energy: float, forces: np.ndarray, name: str, account: dict) -> Atoms:
    plain = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions)
    plain.info.update(number=int(atoms.info["number"]), spoiled=name, account=json.dumps(account))
    return set_labels(plain, energy, forces)
