"""VASP through aiida-vasp's ``VaspCalculation``."""

from __future__ import annotations

import typing as t

import numpy as np
from ase import Atoms
from ase.units import GPa

from aiida_gace.adapters.base import (
    TIMES,
    Outcome,
    judged_by_the_clock,
    local_code,
    price_told,
    tail,
    text_of,
)
from aiida_gace.computers import job_options
from gace.errors import missing
from gace_platform.labelling.config import VaspReference
from gace_platform.labelling.engines.base import Label
from gace_platform.labelling.engines.crystals import disk_is_full
from gace_platform.labelling.engines.quantum_espresso import is_isolated
from gace_platform.labelling.engines.vasp import VaspEngine

if t.TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode

OUTPUT = "vasp_output"
KILOBAR = 0.1 * GPa
DAY = 86400.0
FREE_ENERGY = "energy_free"
"""The energy that VASP's forces are the slope of; its energy at zero broadening is not."""

EXIT_CODES = {
    110: "memory", 120: "timeout", 140: "killed", 100: "killed", 333: "crashed", 350: "parser", 351: "parser",
    352: "crashed", 700: "killed", 701: "unconverged", 703: "crashed", 704: "parser", 1002: "parser",
    1004: "parser", 1005: "parser",
}  # fmt: skip
"""Failure class by the exit code of ``VaspCalculation``; the words of the output may know better."""

WORDS = (
    ("EDDDAV", "diagonalisation"),
    ("ZHEGV", "diagonalisation"),
    ("EDDRMM", "diagonalisation"),
    ("EDWAV", "diagonalisation"),
    ("inconsistent Bravais", "diagonalisation"),
    ("not Hermitian", "diagonalisation"),
    ("RHOSYG", "diagonalisation"),
    ("too close", "geometry"),
    ("oom-kill", "memory"),
    ("insufficient virtual memory", "memory"),
    ("DUE TO TIME LIMIT", "timeout"),
)
"""What VASP (or the queue) prints when it fails, in the order in which it decides."""


class VaspAdapter:
    """One calculation per attempt: gace's ladder is in the place of aiida-vasp's own handlers."""

    def __init__(self, reference: VaspReference) -> None:
        self.engine = VaspEngine(reference)

    def prepare(self) -> None:
        """Make the code and the potentials in the loaded profile."""
        self._code()
        for symbol in self.engine.reference.potentials:
            self._potential(symbol)

    def builder(self, atoms: Atoms, remedy: int, time_limit: float | None) -> ProcessBuilder:
        """Inputs of a calculation of energy, forces and stress."""
        from aiida import orm

        try:
            from aiida_vasp.calcs.vasp import VaspCalculation
        except ImportError:
            raise missing("aiida-vasp", "vasp") from None
        reference = self.engine.reference
        ordered = atoms[element_order(atoms)]
        builder = VaspCalculation.get_builder()
        builder.code = self._code()
        builder.structure = structure = orm.StructureData(ase=plain(ordered))
        builder.parameters = orm.Dict(self.engine.parameters(ordered, remedy))
        builder.potential = {symbol: self._potential(symbol) for symbol in set(atoms.get_chemical_symbols())}
        builder.kpoints = orm.KpointsData()
        builder.kpoints.set_cell_from_structure(structure)
        if is_isolated(atoms) or reference.kpoints_distance is None:
            builder.kpoints.set_kpoints_mesh([1, 1, 1])
        else:
            builder.kpoints.set_kpoints_mesh_from_density(reference.kpoints_distance)
        parser = {"energy_type": [FREE_ENERGY]}
        builder.settings = orm.Dict({"parser_settings": parser, "poscar_precision": 15})
        builder.metadata.options = {
            "resources": {"num_machines": 1, "num_mpiprocs_per_machine": reference.processes},
            "withmpi": reference.processes > 1,
            "max_wallclock_seconds": int(time_limit or DAY),
            # the price: processor time of the shell and of all it ran, whatever became of the program
            "append_text": TIMES,
            **job_options(time_limit),
        }
        return builder

    def outcome(self, node: ProcessNode, atoms: Atoms) -> Outcome:
        """Energy, forces and stress of a converged calculation, else its failure class and last words."""
        output = text_of(node, OUTPUT)
        price = price_told(node)
        if node.is_finished_ok:
            try:
                return Outcome(self._label(node, atoms), None, "", "", price)
            except (KeyError, AttributeError, ValueError, TypeError) as error:
                return Outcome(None, "parser", f"the output holds no {error}", tail(output), price)
        errors = text_of(node, "_scheduler-stderr.txt")
        words = str(node.exit_message or node.exception or "it left no output")
        failure = failure_class(node.exit_status, f"{output}\n{errors}")
        failure = judged_by_the_clock(failure, node, price)
        return Outcome(None, failure, " ".join(words.split()), tail(output) or tail(errors), price)

    def _label(self, node: t.Any, atoms: Atoms) -> Label:
        """In the order of ``atoms``, which is not that of the POSCAR."""
        found = node.outputs.misc.get_dict()
        back = np.argsort(element_order(atoms))
        forces = np.asarray(found["forces"], dtype=float).reshape(-1, 3)[back]
        # VASP counts compression as positive
        stress = -np.asarray(found["stress"], dtype=float).reshape(3, 3) * KILOBAR
        status = found["run_status"]
        reference = self.engine.reference
        evidence = {
            "converged": bool(status["electronic_converged"]),
            "asked": {"version": reference.version},
            "stated": {"version": str(found["version"])},
        }
        return Label(float(found["total_energies"][FREE_ENERGY]), forces, stress, evidence)

    def _code(self) -> t.Any:
        return local_code(self.engine.executable(), "vasp.vasp", "export GACE_JOB=1 OMP_NUM_THREADS=1")

    def _potential(self, symbol: str) -> t.Any:
        """The POTCAR of an element as aiida-vasp keeps it; made at the first call."""
        from aiida_vasp.data.potcar import PotcarData

        return PotcarData.get_or_create_from_file(self.engine.file(symbol))[0]


def element_order(atoms: Atoms) -> np.ndarray:
    """Order in which equal elements stand together, as a POSCAR with one POTCAR each wants them ``(N,)``."""
    return np.argsort(atoms.numbers, kind="stable")


def plain(atoms: Atoms) -> Atoms:
    """Elements, positions and cell alone."""
    return Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=True)


def failure_class(exit_status: int | None, output: str) -> str:
    """Class of a failure by the program's words, else by AiiDA's exit code."""
    if disk_is_full(output):
        return "disk"
    for words, name in WORDS:
        if words in output:
            return name
    return EXIT_CODES.get(exit_status or 0, "error")


__all__ = ["VaspAdapter", "element_order", "failure_class"]
