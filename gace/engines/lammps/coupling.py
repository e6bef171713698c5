"""The potential as the external force of a LAMMPS instance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gace.engines.calculator import PotentialCalculator
from gace.errors import InputError, nearest
from gace.potential.potential import GraphPrediction, Potential

FIX = "gace"
"""Identifier of the fix unless another is named."""

GAMMA = "gamma"
"""Name of the per-atom property with the novelty grade; LAMMPS writes it ``d_gamma``."""


class Coupling:
    """Serves one ``fix external pf/callback`` of one LAMMPS instance; made by :func:`attach`.

    Attributes:
        evaluations: how often LAMMPS has asked.
        searches: how often neighbours had to be searched anew.
        energy: potential energy at the last evaluation, eV, isolated atoms included.
        gamma_max: largest novelty grade of any atom seen so far, or None.
        failure: what went wrong in an evaluation, or None. LAMMPS cannot be stopped from within
            the callback: forces become NaN, and a ``fix halt`` ends the run at the same step with an
            error of LAMMPS'.
    """

    def __init__(self, lmp: Any, calculator: PotentialCalculator, elements: Sequence[str], fix: str) -> None:
        """See :func:`attach`, which checks the arguments and makes the fixes."""
        self.evaluations = 0
        self.energy = float("nan")
        self.gamma_max: float | None = None
        self.failure: BaseException | None = None
        self._lmp = lmp
        self._calculator = calculator
        self._numbers = np.array([0, *(atomic_numbers[symbol] for symbol in elements)])  # types count from 1
        self._fix = fix

    @property
    def potential(self) -> Potential:
        """What computes the forces."""
        return self._calculator.potential

    @property
    def searches(self) -> int:
        """How often neighbours had to be searched anew."""
        return self._calculator.neighbours.searches

    def raise_failure(self) -> None:
        """Raise what an evaluation raised, if one did; LAMMPS' own error only says that it halted."""
        if self.failure is not None:
            raise self.failure

    def __call__(
        self,
        caller: Any,
        step: int,
        n_atoms: int,
        tag: NDArray[np.integer],
        positions: NDArray[np.float64],
        forces: NDArray[np.float64],
    ) -> None:
        """LAMMPS' callback: fill ``forces (N, 3)``, eV/Å, and set energy, virial and γ.

        Args:
            caller: unused.
            step: of LAMMPS.
            n_atoms: ``N``.
            tag: LAMMPS' atom identifiers ``(N,)``; the order of atoms changes between steps.
            positions: Å ``(N, 3)``.
            forces: eV/Å ``(N, 3)``, to be filled in.
        """
        if self.failure is None:
            try:
                if n_atoms == 0:  # all were deleted: nothing may be left of those
                    self._tell(0.0, np.zeros((3, 3)))
                    return
                self._serve(np.asarray(tag).reshape(-1), positions, forces)
                return
            # ctypes would print the exception and let LAMMPS go on without forces
            except BaseException as error:
                self.failure = error
                print(f"error at step {step}: {error or type(error).__name__}", file=sys.stderr)
                self._lmp.set_internal_variable(f"{self._fix}_failed", 1.0)
        forces[:] = np.nan

    def _serve(
        self, tag: NDArray[np.integer], positions: NDArray[np.float64], forces: NDArray[np.float64]
    ) -> None:
        """One evaluation, in the order of the identifiers: the sum does not depend on LAMMPS' order."""
        order = np.argsort(tag, kind="stable")
        result = self._evaluate(self._atoms(order, positions))
        forces[order] = result.forces
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        lmp, fix = self._lmp, self._fix
        self._tell(float(result.energy[0]), result.virial[0])
        lmp.fix_external_set_energy_peratom(fix, result.energies[back])
        if result.energy_std is not None:
            lmp.fix_external_set_vector(fix, 1, float(result.energy_std[0]))
        if result.gamma is not None:
            largest = float(result.gamma.max())
            self.gamma_max = largest if self.gamma_max is None else max(self.gamma_max, largest)
            lmp.fix_external_set_vector(fix, 2, largest)
            lmp.numpy.extract_atom(f"d_{GAMMA}")[: len(order)] = result.gamma[back]
        self.evaluations += 1

    def _tell(self, energy: float, virial: NDArray[np.float64]) -> None:
        """Give LAMMPS the energy (eV) and the virial (eV, ours) of all atoms together."""
        self.energy = energy
        self._lmp.fix_external_set_energy_global(self._fix, energy)
        (xx, xy, xz), (_, yy, yz), (_, _, zz) = -virial  # LAMMPS: pressure positive
        self._lmp.fix_external_set_virial_global(self._fix, [xx, yy, zz, xy, xz, yz])

    def _evaluate(self, atoms: Atoms) -> GraphPrediction:
        """Neighbours by our own search, which sees every image; then the potential."""
        calculator, potential = self._calculator, self.potential
        graph = calculator.graph(atoms)
        return potential.evaluate_graph(graph, calculator.uncertainty)

    def _atoms(self, order: NDArray[np.int64], positions: NDArray[np.float64]) -> Atoms:
        """The box and its atoms as they are now, in the order of the identifiers."""
        low, high, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        edges = np.subtract(high, low)
        cell = [[edges[0], 0.0, 0.0], [xy, edges[1], 0.0], [xz, yz, edges[2]]]
        kinds = self._lmp.numpy.extract_atom("type").reshape(-1)[: len(order)]
        return Atoms(self._numbers[kinds[order]], positions[order], cell=cell, pbc=np.array(periodic, bool))


def attach(
    lmp: Any,
    potential: Potential | str | Path,
    *,
    elements: Sequence[str],
    fix: str = FIX,
    device: str | None = None,
    dtype: str | None = None,
    skin: float = 0.5,
    uncertainty: bool = True,
    path: str = "tabulated",
) -> Coupling:
    """Let a potential act on all atoms of a LAMMPS instance.

    The box must exist, in ``units metal``, on one MPI rank. The fix is made unless the input has made
    it (``fix gace all external pf/callback 1 1``); its energy is part of the potential energy, its
    virial of the pressure. ``f_gace[1]`` is the standard deviation of the energy (eV) and
    ``f_gace[2]`` the largest novelty grade, where the potential has them, and ``d_gamma`` the grade of
    each atom.

    Args:
        lmp: a ``lammps.lammps`` instance; see :func:`gace.engines.lammps.library.open_lammps`.
        potential: a potential, or the folder or ``models:/`` URI of one.
        elements: the element of each of LAMMPS' atom types, from type 1 on.
        fix: identifier of the fix.
        device: ``cpu``, ``cuda`` or ``auto``; None leaves a given potential where it is.
        dtype: ``float64`` or ``float32``; None leaves a given potential as it is.
        skin: Å by which neighbour lists reach beyond the cutoff, to be reused between steps.
        uncertainty: whether to compute error bars and γ where the potential has them.
        path: ``tabulated``, ``eager``, ``compiled`` or ``auto``; see :meth:`Potential.evaluated_by`.

    Returns:
        The coupling; it lives as long as ``lmp`` does.

    Raises:
        InputError: no box, other units, several ranks, no atom identifiers, or elements that do not
            fit the types or the potential.
    """
    if not isinstance(potential, Potential):
        from gace.potential.bundle import load

        potential = load(potential, device=device or "auto", dtype=dtype or "float64")
    _check(lmp, potential, elements)
    calculator = potential.calculator(device, dtype, skin=skin, uncertainty=uncertainty, path=path)
    coupling = Coupling(lmp, calculator, elements, fix)
    if not lmp.has_id("fix", fix):
        _command(lmp, f"fix {fix} all external pf/callback 1 1")
    _command(lmp, f"fix_modify {fix} energy yes virial yes")
    lmp.fix_external_set_vector_length(fix, 2)
    if uncertainty and potential.has_novelty:
        _command(lmp, f"fix {fix}_{GAMMA} all property/atom d_{GAMMA}")
    # the only way to end a run from within the callback: an error of LAMMPS' own, raised at the step's end
    _command(lmp, f"variable {fix}_failed internal 0.0")
    _command(lmp, f"fix {fix}_guard all halt 1 v_{fix}_failed > 0.5 error hard message no")
    lmp.set_fix_external_callback(fix, coupling, lmp)
    return coupling


def _check(lmp: Any, potential: Potential, elements: Sequence[str]) -> None:
    """Refuse what this coupling cannot serve, before anything is computed."""
    ranks = lmp.extract_setting("world_size")
    if ranks > 1:
        raise InputError(
            f"LAMMPS runs on {ranks} MPI ranks, but this coupling serves one: start it without mpirun"
        )
    if not lmp.extract_setting("box_exist"):
        raise InputError("LAMMPS has no simulation box yet: the fix must stand after read_data or create_box")
    units = lmp.extract_global("units")
    if units != "metal":
        raise InputError(f"LAMMPS' units are '{units}'; the potential needs 'units metal' (eV, Å, ps)")
    if lmp.get_natoms() and not lmp.numpy.extract_atom("id")[: lmp.get_natoms()].all():
        raise InputError("LAMMPS keeps no atom identifiers: leave out 'atom_modify id no'")
    kinds = lmp.extract_setting("ntypes")
    if len(elements) != kinds:
        raise InputError(
            f"LAMMPS has {kinds} atom types, but {len(elements)} elements were named: "
            "one for each type, in order"
        )
    for symbol in elements:
        if symbol not in potential.elements:
            raise InputError(f"the potential has no element '{symbol}'{nearest(symbol, potential.elements)}")


def _command(lmp: Any, command: str) -> None:
    """Give LAMMPS a command of ours.

    Raises:
        InputError: LAMMPS refuses it; what the input has made before is in the way.
    """
    try:
        lmp.command(command)
    except Exception as error:  # LAMMPS' module raises bare Exception
        raise InputError(f"LAMMPS refuses '{command}': {' '.join(str(error).split())}") from None
