"""Finished calculations of an AiiDA group, read as labels: the source ``group`` of ``gace labels import``."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms
from ase.units import GPa

from gace.errors import InputError, nearest
from gace_platform.labelling.engines.base import Label
from gace_platform.labelling.imports import Found

if t.TYPE_CHECKING:
    from aiida.orm import ProcessNode

UNITS = {"eV": 1.0, "ev": 1.0}

DEFAULT_THRESHOLD = 1e-6
"""``conv_thr`` of a calculation that says nothing, Ry."""

LOOSEST_THRESHOLD = 1e-6
"""Energy error per atom up to which forces are worth a label, Ry, as in gace's own reference section."""

Reader = Callable[["ProcessNode"], Found]


class GroupSource:
    """Calculations of one group of an AiiDA profile.

    Args:
        label: of the group, or its UUID.
        profile: name of the profile; None: the default one, or the one that is loaded.

    Raises:
        InputError: no such profile or group.
        MissingDependencyError: AiiDA is not installed.
    """

    def __init__(self, label: str, profile: str | None) -> None:
        self.group = load_group(label, profile)

    def __iter__(self) -> Iterator[Found]:
        """Each calculation in the group, the oldest first: a label, or the reason why it is none."""
        for node in sorted(self.group.nodes, key=lambda one: one.pk):
            yield read(node)


def load_group(label: str, profile: str | None) -> t.Any:
    """The group called ``label`` (or with this UUID).

    Raises:
        InputError: there is none.
    """
    from aiida import load_profile, orm
    from aiida.common.exceptions import ConfigurationError, NotExistent
    from aiida.manage import get_manager

    loaded = get_manager().get_profile()
    if loaded is None or (profile is not None and loaded.name != profile):
        try:
            load_profile(profile, allow_switch=True)
        except ConfigurationError as error:
            raise InputError(f"AiiDA: {' '.join(str(error).split())}") from None
    try:
        return orm.load_group(label)
    except NotExistent:
        known = orm.QueryBuilder().append(orm.Group, project="label").all(flat=True)
        raise InputError(f"no AiiDA group '{label}'{nearest(label, known)}") from None


def read(node: t.Any) -> Found:
    """One node of a group as a label, or with the reason why it is none."""
    from aiida.orm import ProcessNode

    place = f"{getattr(node, 'process_label', None) or type(node).__name__} {node.uuid}"
    if not isinstance(node, ProcessNode):
        return Found(place, reason="no calculation")
    kind = node.process_type or "processes without a type"
    reader = next((one for name, one in READERS.items() if name in kind), None)
    if reader is None:
        return Found(place, reason=f"nobody reads {kind}")
    if not node.is_finished_ok:
        ending = node.exit_message or node.process_state or "it never ran"
        return Found(place, reason=f"it did not end well: {ending}")
    try:
        return reader(node)._replace(place=place)
    except (KeyError, AttributeError, ValueError, TypeError, IndexError) as error:
        # AiiDA's own NotExistentAttributeError and NotExistentKeyError are among these
        return Found(place, reason=f"its output holds no {error}")


def quantum_espresso(node: t.Any) -> Found:
    """A single point of ``PwCalculation`` or ``PwBaseWorkChain``."""
    inputs = node.inputs.pw if "pw" in node.inputs else node.inputs
    parameters = inputs.parameters.get_dict()
    kind = parameters.get("CONTROL", {}).get("calculation", "scf")
    if kind != "scf":
        return Found("", reason=f"a calculation of kind '{kind}' is no single point")
    results = node.outputs.output_parameters.get_dict()
    trajectory = node.outputs.output_trajectory
    scf = (results.get("convergence_info") or {}).get("scf_conv") or {}
    if scf.get("convergence_achieved") is False:
        return Found("", reason="the self-consistent field did not converge")
    threshold = parameters.get("ELECTRONS", {}).get("conv_thr", DEFAULT_THRESHOLD)
    if threshold / len(inputs.structure.sites) > LOOSEST_THRESHOLD:
        return Found("", reason=f"converged to {threshold:g} Ry only")
    forces = np.asarray(trajectory.get_array("forces")[-1], dtype=float)
    stress = None
    if "stress" in trajectory.get_arraynames():
        # AiiDA keeps Quantum ESPRESSO's own sign, in which compression is positive
        stress = -np.asarray(trajectory.get_array("stress")[-1], dtype=float) * GPa
    energy = float(results["energy"]) * UNITS[results.get("energy_units", "eV")]
    moment = results.get("total_magnetization")
    atoms = structure(inputs.structure, parameters.get("SYSTEM", {}).get("tot_charge", 0), moment)
    label = Label(energy, forces, stress, {"converged": True})
    return Found("", atoms, label, _espresso_settings(node, inputs))


def _espresso_settings(node: t.Any, inputs: t.Any) -> dict[str, t.Any]:
    """What decides the value of the label, but for the structure."""
    namelists = inputs.parameters.get_dict()
    system = {**namelists.get("SYSTEM", {})}
    for name in ("nat", "ntyp", "tot_charge"):
        system.pop(name, None)
    settings: dict[str, t.Any] = {
        "engine": "quantum-espresso",
        "code_version": node.outputs.output_parameters.get_dict().get("creator_version"),
        "system": {
            name: system[name] for name in sorted(system) if name not in ("nat", "ntyp", "tot_charge")
        },
        "pseudopotentials": {kind: inputs.pseudos[kind].md5 for kind in sorted(inputs.pseudos)},
    }
    # a work chain says how dense its k-points are; a bare calculation says only which they were
    if "kpoints_distance" in node.inputs:
        settings["kpoints_distance"] = node.inputs.kpoints_distance.value
    else:
        kpoints = inputs.kpoints if "kpoints" in inputs else node.inputs.kpoints
        settings["kpoints"] = [list(part) for part in kpoints.get_kpoints_mesh()]
    return settings


def cp2k(node: t.Any) -> Found:
    """A single point of ``Cp2kCalculation`` read by gace's own parser."""
    results = node.outputs.output_parameters.get_dict()
    parameters = node.inputs.parameters.get_dict()
    if not results["converged"]:
        return Found("", reason="the self-consistent field did not converge")
    force_eval = parameters["FORCE_EVAL"]
    dft = force_eval["DFT"]
    charge, unpaired = dft.get("CHARGE", 0), dft.get("MULTIPLICITY", 1) - 1
    stress = None if results.get("stress") is None else np.array(results["stress"])
    label = Label(float(results["energy"]), np.array(results["forces"]), stress, {"converged": True})
    # how the field was converged is a remedy's business; how well, and its smearing, move the label
    method = {name: value for name, value in dft.items() if name not in ("CHARGE", "MULTIPLICITY", "SCF")}
    method["SCF"] = {name: dft.get("SCF", {}).get(name) for name in ("EPS_SCF", "SMEAR")}
    cell = ("CELL", "COORD")
    subsys = {name: value for name, value in force_eval.get("SUBSYS", {}).items() if name not in cell}
    settings = {
        "engine": "cp2k",
        "code_version": results.get("version"),
        "dft": method,
        "subsys": subsys,
    }
    return Found("", structure(node.inputs.structure, charge, unpaired), label, settings)


def structure(node: t.Any, charge: float, unpaired: float | None) -> Atoms:
    """AiiDA's structure with charge and number of unpaired electrons in ``info``."""
    found = node.get_ase()
    # an alloy's or an isotope's kind would lose what it is
    if node.is_alloy or node.has_vacancies:
        raise ValueError("pure sites")
    atoms = Atoms(found.get_chemical_symbols(), positions=found.positions, cell=found.cell, pbc=found.pbc)
    atoms.info.update(charge=round(float(charge)), spin=abs(round(float(unpaired or 0))))
    return atoms


READERS: dict[str, Reader] = {
    "quantumespresso.pw": quantum_espresso,
    "cp2k": cp2k,
}
"""Who reads which kind of process: the first whose name is part of the process type."""

__all__ = ["READERS", "GroupSource", "read"]
