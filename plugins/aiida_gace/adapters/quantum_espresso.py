"""Quantum ESPRESSO through aiida-quantumespresso's ``PwBaseWorkChain``."""

from __future__ import annotations

import re
import shutil
import tempfile
import typing as t
from pathlib import Path

import numpy as np
from ase.units import GPa, Ry

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
from gace_platform.labelling.config import QuantumEspressoReference
from gace_platform.labelling.engines.base import Label
from gace_platform.labelling.engines.quantum_espresso import (
    MPI_AS_ROOT,
    WORDS,
    QuantumEspressoEngine,
    failure_class,
    is_isolated,
)

if t.TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import ProcessNode
    from ase import Atoms

OUTPUT = "aiida.out"
OUR_BUSINESS = ("handle_electronic_convergence_not_reached", "handle_diagonalization_errors")
"""Handlers of the base work chain that repeat their remedy: gace's ladder takes their place."""

RESTARTS = 3
"""Calculations of one attempt: the base work chain continues one that came near its time limit."""

DAY = 86400.0


class QuantumEspressoAdapter:
    """Inputs from the protocols, outputs in gace's units and signs."""

    def __init__(self, reference: QuantumEspressoReference) -> None:
        self.engine = QuantumEspressoEngine(reference)

    def prepare(self) -> None:
        """Make the code and the family of pseudopotentials in the loaded profile."""
        self._code()
        self._family()

    def builder(self, atoms: Atoms, remedy: int, time_limit: float | None) -> ProcessBuilder:
        """Inputs of a ``PwBaseWorkChain`` that computes energy, forces and stress."""
        from aiida import orm
        from aiida_quantumespresso.common.types import ElectronicType
        from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain

        reference = self.engine.reference
        alone = is_isolated(atoms)
        metal = reference.smearing is not None or alone
        overrides: dict[str, t.Any] = {
            "pseudo_family": self._family().label,
            "pw": {"parameters": self.engine.parameters(atoms, remedy)},
            "max_iterations": RESTARTS,
        }
        if reference.kpoints_distance is not None:
            overrides["kpoints_distance"] = reference.kpoints_distance
        structure = orm.StructureData(ase=_plain(atoms))
        builder = PwBaseWorkChain.get_builder_from_protocol(
            self._code(),
            structure,
            protocol=reference.protocol,
            overrides=overrides,
            electronic_type=ElectronicType.METAL if metal else ElectronicType.INSULATOR,
            options={
                "resources": {
                    "num_machines": 1,
                    "num_mpiprocs_per_machine": reference.processes,
                },
                "withmpi": reference.processes > 1,
                "max_wallclock_seconds": int(time_limit or DAY),
                **job_options(time_limit),
                # the price, also of a program that was ended from outside and did not tell its own
                "append_text": TIMES,
            },
        )
        if alone:
            gamma = orm.KpointsData()
            gamma.set_kpoints_mesh([1, 1, 1])
            builder.kpoints = gamma
            del builder.kpoints_distance
        builder.handler_overrides = orm.Dict({name: {"enabled": False} for name in OUR_BUSINESS})
        return builder

    def outcome(self, node: ProcessNode, atoms: Atoms) -> Outcome:
        """Energy, forces and stress of a converged calculation, else its failure class and last words."""
        jobs = sorted((job for job in node.called if _is_job(job)), key=lambda job: job.pk)
        outputs = [text_of(job, OUTPUT) for job in jobs]
        prices = [self._price(job, output) for job, output in zip(jobs, outputs, strict=True)]
        price = round(sum(prices), 3)
        if node.is_finished_ok:
            try:
                return Outcome(self._label(node, atoms), None, "", "", price)
            except (KeyError, AttributeError, ValueError) as error:
                message = f"the output holds no {error}"
                return Outcome(None, "parser", message, tail(outputs[-1]), price)
        job = jobs[-1] if jobs else node
        last = outputs[-1] if outputs else ""
        words = job.exit_message or str(node.exception or node.exit_message or "it left no output")
        errors = text_of(job, "_scheduler-stderr.txt")
        failure = failure_class(job.exit_status, last, errors)
        if jobs:
            failure = judged_by_the_clock(failure, job, prices[-1])
        return Outcome(None, failure, " ".join(words.split()), telling(last) or tail(errors), price)

    def _price(self, job: t.Any, output: str) -> float:
        """Processor time of one calculation, s: what the shell tells, else what the program does."""
        told = price_told(job)
        return told or core_seconds(output) * self.engine.reference.processes

    def _label(self, node: ProcessNode, atoms: Atoms) -> Label:
        found = node.outputs.output_parameters.get_dict()
        trajectory = node.outputs.output_trajectory
        forces = np.asarray(trajectory.get_array("forces")[-1], dtype=float)
        # AiiDA keeps Quantum ESPRESSO's own sign, in which compression is positive
        stress = -np.asarray(trajectory.get_array("stress")[-1], dtype=float) * GPa
        return Label(float(found["energy"]), forces, stress, self._evidence(found, atoms))

    def _evidence(self, found: dict[str, t.Any], atoms: Atoms) -> dict[str, t.Any]:
        """What the program says it did, beside what it was asked."""
        reference = self.engine.reference
        scf = (found.get("convergence_info") or {}).get("scf_conv") or {}
        evidence: dict[str, t.Any] = {
            "converged": scf.get("convergence_achieved"),
            "cycles": scf.get("n_scf_steps"),
            "asked": {
                "cutoff_wfc": reference.cutoff_wfc,
                "cutoff_rho": self.engine.cutoff_rho,
                "atoms": len(atoms),
            },
            "stated": {
                "cutoff_wfc": round(found["wfc_cutoff"] / Ry, 3),
                "cutoff_rho": round(found["rho_cutoff"] / Ry, 3),
                "atoms": found["number_of_atoms"],
            },
        }
        if (accuracy := scf.get("scf_error")) is not None:
            evidence["accuracy"] = accuracy * 2 * Ry
            evidence["threshold"] = self.engine.threshold(atoms) * Ry
        return evidence

    def _code(self) -> t.Any:
        exports = " ".join(f"{name}={value}" for name, value in MPI_AS_ROOT.items())
        text = f"export GACE_JOB=1 OMP_NUM_THREADS=1 {exports}"
        return local_code(self.engine.executable(), "quantumespresso.pw", text)

    def _family(self) -> t.Any:
        """The files of the reference as a family with its cutoffs, made offline at the first call."""
        from aiida import orm
        from aiida.common.exceptions import IntegrityError
        from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

        from gace_platform.ledger.keys import settings_hash

        symbols = sorted(self.engine.reference.pseudopotentials)
        settings = self.engine.settings()
        label = "gace/" + settings_hash(
            {name: settings[name] for name in ("pseudopotentials", "cutoff_wfc", "cutoff_rho")}
        )
        query = orm.QueryBuilder().append(CutoffsPseudoPotentialFamily, filters={"label": label})
        found = query.first(flat=True)
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                for symbol in symbols:
                    file = self.engine.file(symbol)
                    shutil.copyfile(file, Path(folder) / file.name)
                try:
                    found = CutoffsPseudoPotentialFamily.create_from_folder(
                        Path(folder), label, pseudo_type=_upf()
                    )
                except (IntegrityError, ValueError):
                    # another process was faster; a file that is no pseudopotential fails here again
                    found = query.first(flat=True)
                    if found is None:
                        raise
        if not found.get_cutoff_stringencies():
            cutoffs = {"cutoff_wfc": self.engine.reference.cutoff_wfc, "cutoff_rho": self.engine.cutoff_rho}
            found.set_cutoffs(dict.fromkeys(symbols, cutoffs), "as-asked", unit="Ry")
        return found


def telling(output: str) -> str:
    """The lines of an output that say what went wrong, and its last ones before the list of timings."""
    lines = output.partition("init_run     :")[0].splitlines()
    said = [line for line in lines if any(words.lower() in line.lower() for words, _ in WORDS)]
    return "\n".join(dict.fromkeys([*said[:5], *tail("\n".join(lines)).splitlines()]))


def core_seconds(output: str) -> float:
    """Processor time that pw.x states at its end, s; 0 if it did not get there."""
    match = re.search(r"PWSCF\s*:\s*(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:([\d.]+)s)?\s*CPU", output)
    if match is None:
        return 0.0
    days, hours, minutes, seconds = (float(one or 0) for one in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + seconds


def _plain(atoms: Atoms) -> Atoms:
    """Species, positions and cell alone."""
    from ase import Atoms as Structure

    return Structure(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=True)


def _is_job(node: t.Any) -> bool:
    from aiida import orm

    return isinstance(node, orm.CalcJobNode)


def _upf() -> t.Any:
    from aiida_pseudo.data.pseudo import UpfData

    return UpfData


__all__ = ["QuantumEspressoAdapter", "core_seconds"]
