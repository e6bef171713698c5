"""CP2K through aiida-cp2k's ``Cp2kCalculation``, with gace's own parser of single points."""

from __future__ import annotations

import shlex
import typing as t

import numpy as np

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
from gace_platform.labelling.config import CP2KReference
from gace_platform.labelling.engines.base import Label
from gace_platform.labelling.engines.cp2k import CP2KEngine
from gace_platform.labelling.engines.cp2k_output import abort_message, failure_class, telling
from gace_platform.labelling.engines.quantum_espresso import MPI_AS_ROOT

if t.TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode
    from ase import Atoms

OUTPUT = "aiida.out"
DAY = 86400.0


class CP2KAdapter:
    """One calculation per attempt: aiida-cp2k's restart handler is of no use to single points."""

    def __init__(self, reference: CP2KReference) -> None:
        self.engine = CP2KEngine(reference)

    def prepare(self) -> None:
        """Make the code in the loaded profile."""
        self._code()

    def builder(self, atoms: Atoms, remedy: int, time_limit: float | None) -> ProcessBuilder:
        """Inputs of a calculation of energy, forces and stress."""
        from aiida import orm
        from ase import Atoms as Structure

        try:
            from aiida_cp2k.calculations import Cp2kCalculation
        except ImportError:
            raise missing("aiida-cp2k", "cp2k") from None
        reference = self.engine.reference
        builder = Cp2kCalculation.get_builder()
        builder.code = self._code()
        plain = Structure(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=True)
        builder.structure = orm.StructureData(ase=plain)
        builder.parameters = orm.Dict(self.engine.parameters(atoms, remedy, time_limit))
        builder.metadata.options = {
            "resources": {"num_machines": 1, "num_mpiprocs_per_machine": reference.processes},
            "withmpi": reference.processes > 1,
            "max_wallclock_seconds": int(time_limit or DAY),
            **job_options(time_limit),
            "parser_name": "gace.cp2k",
            # the price: processor time of the shell and of all it ran, whatever became of the program
            "append_text": TIMES,
        }
        return builder

    def outcome(self, node: ProcessNode, atoms: Atoms) -> Outcome:
        """Energy, forces and stress of a converged calculation, else its failure class and last words."""
        output = text_of(node, OUTPUT)
        price = price_told(node)
        if node.is_finished_ok:
            label = self._label(node, atoms)
            if label.stress is None:  # it was asked for
                return Outcome(None, "parser", "the output holds no stress", tail(output), price)
            return Outcome(label, None, "", "", price)
        words = abort_message(output) or str(node.exception or node.exit_message or "it left no output")
        errors = text_of(node, "_scheduler-stderr.txt")
        failure = failure_class(output, errors)
        if failure != "disk" and node.exit_status in (110, 120, 140):  # AiiDA's own: memory, time, node
            failure = {110: "memory", 120: "timeout", 140: "killed"}[node.exit_status]
        failure = judged_by_the_clock(failure, node, price)
        log = telling(output) or tail(errors)
        return Outcome(None, failure, " ".join(words.split()), log, price)

    def _label(self, node: ProcessNode, atoms: Atoms) -> Label:
        reference = self.engine.reference
        found = node.outputs.output_parameters.get_dict()
        asked = {
            "cutoff": reference.cutoff,
            "rel_cutoff": reference.rel_cutoff,
            "atoms": len(atoms),
            "multiplicity": self.engine.charge_and_spin(atoms)[1] + 1,
        }
        evidence = {
            "converged": found["converged"],
            "cycles": found["cycles"],
            "asked": asked,
            "stated": {name: found[name] for name in asked},
        }
        stress = None if found["stress"] is None else np.array(found["stress"])
        return Label(float(found["energy"]), np.array(found["forces"]), stress, evidence)

    def _code(self) -> t.Any:
        variables = {
            "GACE_JOB": "1",
            "OMP_NUM_THREADS": "1",
            "CP2K_DATA_DIR": shlex.quote(str(self.engine.folder())),
            **MPI_AS_ROOT,
        }
        text = "export " + " ".join(f"{name}={value}" for name, value in variables.items())
        return local_code(self.engine.executable(), "cp2k", text)


__all__ = ["CP2KAdapter"]
