"""Levels of theory: one closed section for each engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gace.config import Closed
from gace.engines.named import arguments_in


class PySCFReference(Closed):
    """Kohn–Sham density functional theory of molecules by PySCF."""

    engine: Literal["pyscf"] = "pyscf"
    functional: str = "PBE"
    """Any functional PySCF knows by name."""
    basis: str = "def2-svp"
    """Any Gaussian basis PySCF knows by name."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = Field(default=None, ge=0)
    """Unpaired electrons of structures that do not state their own; None: the lowest possible, 0 or 1."""
    density_fit: bool = True
    """Resolution of identity for the Coulomb (and exchange) integrals."""
    auxiliary_basis: str | None = None
    """Fitting basis; None: the one PySCF pairs with ``basis``."""
    dispersion: Literal["d3bj", "d3zero", "d4"] | None = None
    """Empirical dispersion added to energy and forces (extra ``dispersion``)."""
    grid_level: int = Field(default=2, ge=0, le=9)
    """Fineness of the integration grid, as PySCF counts."""
    grid_response: bool = False
    """Include the movement of the grid in the forces: the net force becomes exactly zero."""
    conv_tol: float = Field(default=1e-8, gt=0, le=1e-4)
    """Energy change at which the self-consistent field counts as converged, Hartree."""
    max_cycle: int = Field(default=60, ge=1)
    """Cycles of the first attempt; remedies may use more."""
    memory_mb: int = Field(default=4000, ge=500)
    """Memory PySCF plans with, MB. Fixed, since its block sizes, and with them rounding, depend on it."""


class PySCFCrystalReference(Closed):
    """Insulating crystals by PySCF: Gaussians with GTH pseudopotentials, forces and stress on one grid."""

    engine: Literal["pyscf-gth"]
    functional: Literal["PBE", "BLYP", "PADE"] = "PBE"
    """Exchange and correlation, with the pseudopotentials made for it; ``PADE`` is the local density
    approximation."""
    basis: str = "gth-dzvp"
    """Gaussian basis made for GTH pseudopotentials, by PySCF's name."""
    cutoff: float = Field(default=200.0, gt=0)
    """Cutoff of the grid, Ry; first-row elements want more."""
    kpoints_distance: float | None = Field(default=None, gt=0)
    """Largest distance between k-points, 1/Å; None: the Γ point alone, for large cells."""
    conv_tol: float = Field(default=1e-9, gt=0, le=1e-5)
    """Energy change at which the self-consistent field counts as converged, Hartree."""
    max_cycle: int = Field(default=60, ge=1)
    """Cycles of the first attempt; remedies may use more."""
    gap_min: float = Field(default=0.1, gt=0)
    """Band gap, eV, below which a structure is refused: occupations are not smeared."""
    isolated_box: float = Field(default=8.0, gt=4)
    """Edge of the cubic cell around an isolated atom, Å."""
    memory_mb: int = Field(default=4000, ge=500)
    """Memory PySCF plans with, MB. Fixed, since its block sizes, and with them rounding, depend on it."""


class Faults(Closed):
    """Failures planted into a rehearsal; a structure's own follows from its content and the seed."""

    fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the structures that meet one."""
    hopeless: float = Field(default=0.1, ge=0, le=1)
    """Share of those for which no remedy helps."""
    seed: int = 0
    scratch: Path
    """Folder that remembers which structure has had its lost node."""


class TeacherReference(Closed):
    """A fast potential in the place of a quantum calculation, for rehearsals: any ASE calculator."""

    engine: Literal["teacher"]
    calculator: str
    """A known name (``tblite``, ``emt``, ``tersoff-si``, ``lj``) or ``module:factory``."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the calculator, for instance ``{method: GFN2-xTB}``."""
    version: str | None = None
    """Version of the calculator, part of the label key; None: that of the installed package it comes from."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    spin: int | None = Field(default=None, ge=0)
    """Unpaired electrons of structures that do not state their own; None: 0 (tblite: the lowest possible)."""
    faults: Faults | None = None
    """Failures to be rehearsed; they change no label."""


class QuantumEspressoReference(Closed):
    """Plane waves and pseudopotentials by Quantum ESPRESSO, run by AiiDA's ``PwBaseWorkChain``.

    What is not said here comes from the protocol.
    """

    engine: Literal["quantum-espresso"]
    pseudopotentials: dict[str, str] = Field(min_length=1)
    """File of the pseudopotential of each element (UPF); its functional is the functional."""
    pseudopotential_folder: Path | None = None
    """Folder of these files; None: ``$ESPRESSO_PSEUDO``, else where Debian's package has them."""
    executable: str = "pw.x"
    """The program, a name on the PATH or a path."""
    protocol: Literal["fast", "balanced", "stringent"] = "balanced"
    """Protocol of aiida-quantumespresso that the inputs start from."""
    cutoff_wfc: float = Field(gt=0)
    """Cutoff of the wave functions, Ry."""
    cutoff_rho: float | None = Field(default=None, gt=0)
    """Cutoff of the density, Ry; None: four times ``cutoff_wfc``, right for norm-conserving files only."""
    kpoints_distance: float | None = Field(default=None, gt=0)
    """Largest distance between k-points, 1/Å; None: the protocol's."""
    smearing: Literal["cold", "gaussian", "methfessel-paxton", "fermi-dirac"] | None = "cold"
    """Smearing of occupations; None: fixed occupations, for insulators only."""
    degauss: float = Field(default=0.01, gt=0)
    """Width of the smearing, Ry."""
    conv_thr_per_atom: float = Field(default=1e-10, gt=0, le=1e-6)
    """Energy error at which the self-consistent field counts as converged, Ry per atom."""
    max_cycle: int = Field(default=80, ge=1)
    """Cycles of the first attempt; remedies may use more."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    magnetisation: dict[str, float] | None = None
    """Starting magnetisation by element (-1 to 1); given: the calculation is spin-polarised."""
    dispersion: Literal["grimme-d2", "grimme-d3", "tkatchenko-scheffler", "xdm"] | None = None
    """Dispersion correction, by Quantum ESPRESSO's name."""
    isolated_box: float = Field(default=10.0, gt=4)
    """Edge of the cubic cell around an isolated atom, Å."""
    processes: int = Field(default=1, ge=1)
    """MPI processes of one calculation."""


class CP2KReference(Closed):
    """Gaussians and plane waves (GPW) with pseudopotentials by CP2K, run by AiiDA through aiida-cp2k."""

    engine: Literal["cp2k"]
    functional: Literal["PBE", "revPBE", "PBEsol", "BLYP", "PADE"] = "PBE"
    """Exchange and correlation; ``PADE`` is the local density approximation."""
    basis: str | dict[str, str] = "DZVP-MOLOPT-SR-GTH"
    """Name of the basis set, for all elements or by element."""
    basis_file: str = "BASIS_MOLOPT"
    """File of basis sets in CP2K's data folder."""
    potential: str | dict[str, str] | None = None
    """Name of the pseudopotential, for all elements or by element; None: that made for the functional."""
    potential_file: str = "GTH_POTENTIALS"
    """File of pseudopotentials in CP2K's data folder."""
    data_folder: Path | None = None
    """CP2K's data folder; None: ``$CP2K_DATA_DIR``, else where Debian's package has it."""
    executable: str = "cp2k"
    """The program, a name on the PATH or a path."""
    cutoff: float = Field(default=300.0, gt=0)
    """Cutoff of the finest grid, Ry."""
    rel_cutoff: float = Field(default=50.0, gt=0)
    """Cutoff of the grid that a Gaussian of exponent 1 is mapped onto, Ry."""
    kpoints_distance: float | None = Field(default=None, gt=0)
    """Largest distance between k-points, 1/Å; None: the Γ point alone, for large cells."""
    smearing: float | None = Field(default=None, gt=0)
    """Electronic temperature of a Fermi–Dirac smearing, K; None: fixed occupations, for insulators."""
    eps_scf: float = Field(default=1e-7, gt=0, le=1e-4)
    """Residual at which the self-consistent field counts as converged."""
    eps_default: float = Field(default=1e-12, gt=0, le=1e-8)
    """Accuracy of all integrals and grids, as CP2K counts."""
    max_cycle: int = Field(default=60, ge=1)
    """Cycles of the first attempt; remedies may use more."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    magnetisation: dict[str, float] | None = None
    """Starting moment by element, Bohr magnetons; given: the calculation is spin-polarised."""
    dispersion: Literal["DFTD3", "DFTD3(BJ)"] | None = None
    """Dispersion correction, by CP2K's name."""
    isolated_box: float = Field(default=10.0, gt=4)
    """Edge of the cubic cell around an isolated atom, Å."""
    processes: int = Field(default=1, ge=1)
    """MPI processes of one calculation."""


class VaspReference(Closed):
    """Plane waves with PAW potentials by VASP, run by AiiDA through aiida-vasp.

    The program and its potentials are licensed: both are the user's own.
    """

    engine: Literal["vasp"]
    version: str
    """Version of the program, such as ``6.4.2``; part of the label key, and compared with what it prints."""
    potentials: dict[str, str] = Field(min_length=1)
    """Folder of the potential of each element, such as ``{Ge: Ge_d}``."""
    potential_folder: Path | None = None
    """Folder of these folders, such as ``potpaw_PBE.64``; None: ``$VASP_PP_PATH``."""
    executable: str = "vasp_std"
    """The program, a name on the PATH or a path."""
    encut: float = Field(gt=0)
    """Cutoff of the plane waves, eV."""
    functional: Literal["PBE", "PBEsol", "revPBE", "AM05"] | None = None
    """Exchange and correlation; None: that which the potentials were made for."""
    kpoints_distance: float | None = Field(default=None, gt=0)
    """Largest distance between k-points, 1/Å; None: the Γ point alone, for large cells."""
    smearing: Literal["gaussian", "methfessel-paxton", "fermi-dirac", "tetrahedron"] = "gaussian"
    sigma: float = Field(default=0.05, gt=0)
    """Width of the smearing, eV; labels are the free energy, which forces belong to."""
    ediff: float = Field(default=1e-6, gt=0, le=1e-4)
    """Energy change at which the self-consistent field counts as converged, eV."""
    max_cycle: int = Field(default=100, ge=1)
    """Cycles of the first attempt; remedies may use more."""
    charge: int = 0
    """Total charge (e) of structures that do not state their own."""
    magnetisation: dict[str, float] | None = None
    """Starting moment by element, Bohr magnetons; given: the calculation is spin-polarised."""
    dispersion: Literal["D3", "D3BJ", "TS"] | None = None
    isolated_box: float = Field(default=10.0, gt=4)
    """Shortest edge of the cell around an isolated atom, Å."""
    processes: int = Field(default=1, ge=1)
    """MPI processes of one calculation."""
    tags: dict[str, Any] = Field(default_factory=dict)
    """Further INCAR tags in lower case, such as ``{ldau: true}``; part of the label key."""


Reference = Annotated[
    PySCFReference
    | PySCFCrystalReference
    | TeacherReference
    | QuantumEspressoReference
    | CP2KReference
    | VaspReference,
    Field(discriminator="engine"),
]


def located(reference: Reference, folder: Path) -> Reference:
    """The same reference with its relative paths counted from ``folder``."""
    if isinstance(reference, TeacherReference):
        if reference.faults is not None:
            scratch = (folder / reference.faults.scratch.expanduser()).resolve()
            faults = reference.faults.model_copy(update={"scratch": scratch})
            reference = reference.model_copy(update={"faults": faults})
        arguments = arguments_in(reference.calculator, reference.kwargs, folder)
        if arguments == reference.kwargs:  # what was left open stays so
            return reference
        return reference.model_copy(update={"kwargs": arguments})
    if isinstance(reference, QuantumEspressoReference) and reference.pseudopotential_folder is not None:
        path = (folder / reference.pseudopotential_folder.expanduser()).resolve()
        return reference.model_copy(update={"pseudopotential_folder": path})
    if isinstance(reference, CP2KReference) and reference.data_folder is not None:
        path = (folder / reference.data_folder.expanduser()).resolve()
        return reference.model_copy(update={"data_folder": path})
    if isinstance(reference, VaspReference) and reference.potential_folder is not None:
        path = (folder / reference.potential_folder.expanduser()).resolve()
        return reference.model_copy(update={"potential_folder": path})
    return reference
