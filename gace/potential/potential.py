"""The potential as its users meet it: a committee of models, energies of isolated atoms, uncertainty."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from gace.errors import InputError
from gace.potential.compiled import evaluate_eagerly, evaluators
from gace.potential.derivatives import Prediction
from gace.potential.devices import differentiating, matmul_precision, resolve_device, resolve_dtype
from gace.potential.forks import one_thread_after_forks
from gace.potential.rebuild import raised
from gace.structures.graph import Graph
from gace.structures.neighbours import Neighbourhood, collate, neighbourhood

if TYPE_CHECKING:
    from gace.engines.calculator import PotentialCalculator
    from gace.potential.graph_ace import GraphACE
    from gace.uncertainty.container import Uncertainty

one_thread_after_forks()

TABLES_PAY = 2000
"""Atoms to be evaluated beyond which making tables takes less time than they save (four elements)."""

BATCH_ATOMS = {"cpu": 200, "cuda": 4000}
"""Atoms computed at once: on a CPU what its caches hold (2000 take three times as long per atom)."""


class StructurePrediction(NamedTuple):
    """What a potential says about one structure; uncertainties only where asked for and known."""

    energy: float
    """eV, isolated-atom energies included."""

    forces: NDArray[np.float64]
    """eV/Å ``(N, 3)``."""

    stress: NDArray[np.float64] | None
    """eV/Å³, tension positive ``(3, 3)``; None unless periodic in three directions."""

    energies: NDArray[np.float64]
    """Contribution of each atom, eV ``(N,)``; they sum to ``energy``."""

    energy_std: float | None = None
    """Standard deviation: the members' spread, scaled to held-out errors, eV."""

    forces_std: NDArray[np.float64] | None = None
    """The same for each force component, eV/Å ``(N, 3)``."""

    gamma: NDArray[np.float64] | None = None
    """Novelty grade of each atom ``(N,)``; 1 is the boundary of the training set."""


class GraphPrediction(NamedTuple):
    """Weighted mean over the members for a batch of structures, float64, on the CPU."""

    energy: NDArray[np.float64]
    """eV ``(B,)``."""

    forces: NDArray[np.float64]
    """eV/Å ``(N, 3)``."""

    virial: NDArray[np.float64]
    """Strain derivative of the energy, eV ``(B, 3, 3)``."""

    energies: NDArray[np.float64]
    """eV ``(N,)``."""

    energy_std: NDArray[np.float64] | None
    """eV ``(B,)``."""

    forces_std: NDArray[np.float64] | None
    """eV/Å ``(N, 3)``."""

    gamma: NDArray[np.float64] | None
    """``(N,)``."""


class Potential:
    """One or more models that share elements and cutoff; the prediction is their mean.

    Attributes:
        members: the ``M`` models.
        weights: of the members in the mean; they sum to one.
        elements: element symbols in the order the models index them.
        cutoff: Å.
        isolated_atom_energies: eV by element symbol; part of every energy this class returns.
        level_of_theory: what the labels were computed with, or None.
        uncertainty: calibration of the committee and the novelty grade, or None.
        metadata: whatever the maker recorded (JSON-able), ``dataset_hash`` for one.
        matmul: precision of matrix products in float32 on a GPU, ``ieee`` or ``tf32``
            (:func:`gace.potential.devices.matmul_precision`).
    """

    matmul = "ieee"

    def __init__(
        self,
        members: Sequence[GraphACE],
        *,
        isolated_atom_energies: Mapping[str, float],
        level_of_theory: dict[str, Any] | None = None,
        uncertainty: Uncertainty | None = None,
        metadata: dict[str, Any] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Join models into a potential; ``weights`` are scaled to sum to one, None weighs all alike.

        Raises:
            InputError: no member, members that differ in elements or cutoff, an element
                without an isolated-atom energy, or weights that are not one positive number per member.
        """
        if not members:
            raise InputError("a potential needs at least one member")
        self.weights = _normalised(weights, len(members))
        frames = [member.hyperparameters() for member in members]
        self.members: list[GraphACE] = list(members)
        self.elements: tuple[str, ...] = tuple(frames[0]["elements"])
        self.cutoff = float(frames[0]["cutoff"])
        if any(tuple(one["elements"]) != self.elements or one["cutoff"] != self.cutoff for one in frames):
            raise InputError("the members of a potential must share elements (in order) and cutoff")
        absent = [symbol for symbol in self.elements if symbol not in isolated_atom_energies]
        if absent:
            raise InputError(f"no isolated-atom energy for {', '.join(absent)}")
        self.isolated_atom_energies = {
            symbol: float(isolated_atom_energies[symbol]) for symbol in self.elements
        }
        self.level_of_theory = level_of_theory
        self.uncertainty = uncertainty
        self.metadata = dict(metadata or {})
        self._evaluators: list[Callable[[Graph], Prediction]] | None = None

    def __repr__(self) -> str:
        return (
            f"Potential({''.join(self.elements)}, cutoff={self.cutoff:g} Å, members={len(self.members)}, "
            f"uncertainty={'yes' if self.uncertainty is not None else 'no'}, {self.device}, {self.dtype})"
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.members[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.members[0].parameters()).dtype

    @property
    def has_committee(self) -> bool:
        """Whether the spread of the members can be computed (``M`` ≥ 2)."""
        return len(self.members) > 1

    @property
    def has_error_bars(self) -> bool:
        """Whether energies and forces come with standard deviations."""
        fitted = self.uncertainty is not None and self.uncertainty.forces is not None
        return self.has_committee or fitted

    @property
    def has_novelty(self) -> bool:
        """Whether γ can be computed."""
        return self.uncertainty is not None and self.uncertainty.novelty is not None

    def models(self, purpose: str) -> list[GraphACE]:
        """The members, to be ``purpose``: "combined", say.

        Raises:
            InputError: there are none: an exported file holds code in their place.
        """
        if not self.members:
            raise InputError(f"an exported file cannot be {purpose}: give its bundle")
        return self.members

    @differentiating
    def to(
        self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> Potential:
        """This potential on another device or in another precision; itself when nothing changes.

        Raises:
            InputError: an unknown device or dtype.
        """
        target = self.device if device is None else resolve_device(device)
        precision = self.dtype if dtype is None else resolve_dtype(dtype)
        if (target, precision) == (self.device, self.dtype):
            return self
        other = copy.copy(self)
        wider = precision.itemsize > self.dtype.itemsize
        fresh = raised if wider else copy.deepcopy
        other.members = [fresh(member).to(device=target, dtype=precision) for member in self.members]
        other._evaluators = None
        return other

    @differentiating
    def evaluated_by(self, path: str) -> Potential:
        """This potential, evaluated by another path (as it is made: ``eager``).

        See :data:`gace.potential.compiled.PATHS`; the paths agree to rounding, ``tabulated`` to
        :data:`gace.potential.tables.TOLERANCE`. Without kernels ``tabulated`` is ``eager``.

        Raises:
            InputError: an unknown path, or ``compiled`` without a C++ compiler.
        """
        other = copy.copy(self)
        other._evaluators = evaluators(other.members, path, features=self.has_novelty)
        return other

    def evaluated_for(self, structures: Iterable[Atoms]) -> Potential:
        """This potential by tables where there is so much to evaluate that they pay (:data:`TABLES_PAY`).

        A path that was chosen stays.
        """
        if self._evaluators is not None or sum(map(len, structures)) < TABLES_PAY:
            return self
        return self.evaluated_by("tabulated")

    def neighbourhood(self, atoms: Atoms) -> Neighbourhood:
        """The graph of one structure in this potential's terms."""
        return neighbourhood(atoms, self.elements, self.cutoff)

    @differentiating
    def evaluate_graph(self, graph: Graph, uncertainty: bool = False) -> GraphPrediction:
        """Energies and derivatives of a batch, averaged over the members.

        Args:
            graph: made with this potential's elements and cutoff; moved to its device and dtype.
            uncertainty: also compute committee spread and γ where available.
        """
        graph = graph.to(self.device, self.dtype)
        if graph.edge_vector.is_inference():  # forces are derivatives, which such tensors do not have
            graph = Graph(*(one.clone() for one in graph))
        with matmul_precision(self.matmul, self.device):
            if self._evaluators is not None:
                outputs = [evaluate(graph) for evaluate in self._evaluators]
            else:
                outputs = [evaluate_eagerly(member, graph) for member in self.members]
        atomic = np.stack([_numpy(one.atomic_energy) for one in outputs])  # (M, N)
        forces = np.stack([_numpy(one.forces) for one in outputs])  # (M, N, 3)
        virial = np.tensordot(self.weights, [_numpy(one.virial) for one in outputs], 1)
        species, structure = graph.species.cpu().numpy(), graph.structure.cpu().numpy()
        isolated = np.array([self.isolated_atom_energies[symbol] for symbol in self.elements])[species]
        # summed in float64 whatever the model's precision: totals reach 1e4 eV
        cohesive = np.zeros((len(self.members), graph.n_structures))
        for member, values in enumerate(atomic):
            cohesive[member] = np.bincount(structure, weights=values, minlength=graph.n_structures)
        energy = np.tensordot(self.weights, cohesive, 1)
        np.add.at(energy, structure, isolated)
        energy_std = forces_std = gamma = None
        if uncertainty and self.has_error_bars:
            from gace.uncertainty.container import Uncertainty

            known = self.uncertainty or Uncertainty()
            sizes = np.bincount(structure, minlength=graph.n_structures)
            energy_std, forces_std = known.energy_std(cohesive, sizes), known.forces_std(forces)
        if uncertainty and self.uncertainty is not None and self.uncertainty.novelty is not None:
            gamma = _numpy(self.uncertainty.novelty.gamma(outputs[0].features.detach(), graph.species))
        energies = np.tensordot(self.weights, atomic, 1) + isolated
        mean = np.tensordot(self.weights, forces, 1)
        return GraphPrediction(energy, mean, virial, energies, energy_std, forces_std, gamma)

    def predict(
        self, structures: Sequence[Atoms], *, batch_atoms: int | None = None, uncertainty: bool = False
    ) -> list[StructurePrediction]:
        """Energy, forces and stress of each structure, in the order given.

        Args:
            structures: molecules and periodic cells, mixed as you like.
            batch_atoms: about how many atoms are computed at once (memory, speed); default
                :data:`BATCH_ATOMS` for the device.
            uncertainty: also fill ``energy_std``, ``forces_std`` and ``gamma`` where available.

        Raises:
            InputError: a structure holds an unknown element or has an impossible cell.
        """
        return list(self.predictions(structures, batch_atoms=batch_atoms, uncertainty=uncertainty))

    def predictions(
        self, structures: Sequence[Atoms], *, batch_atoms: int | None = None, uncertainty: bool = False
    ) -> Iterator[StructurePrediction]:
        """As :meth:`predict`, one at a time (for progress bars)."""
        limit = BATCH_ATOMS[self.device.type] if batch_atoms is None else batch_atoms
        for batch in self._batches(structures, limit):
            graph = collate(batch, self.cutoff, self.dtype, self.device)
            yield from self.split(graph, self.evaluate_graph(graph, uncertainty))

    def split(self, graph: Graph, result: GraphPrediction) -> Iterator[StructurePrediction]:
        """The results of a batch, structure by structure."""
        sizes = np.bincount(graph.structure.cpu().numpy(), minlength=graph.n_structures)
        ends = np.cumsum(sizes)
        volumes = graph.volume.cpu().numpy().astype(float)
        for index, (end, size, volume) in enumerate(zip(ends, sizes, volumes, strict=True)):
            own = slice(end - size, end)
            yield StructurePrediction(
                energy=float(result.energy[index]),
                forces=result.forces[own],
                stress=None if np.isnan(volume) else result.virial[index] / volume,
                energies=result.energies[own],
                energy_std=None if result.energy_std is None else float(result.energy_std[index]),
                forces_std=None if result.forces_std is None else result.forces_std[own],
                gamma=None if result.gamma is None else result.gamma[own],
            )

    def calculator(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        skin: float = 0.5,
        uncertainty: bool = True,
        path: str = "tabulated",
    ) -> PotentialCalculator:
        """An ASE calculator; see :class:`gace.engines.calculator.PotentialCalculator`."""
        from gace.engines.calculator import PotentialCalculator

        return PotentialCalculator(self.to(device, dtype), skin=skin, uncertainty=uncertainty, path=path)

    def _batches(self, structures: Sequence[Atoms], batch_atoms: int) -> Iterator[list[Neighbourhood]]:
        """Consecutive structures, limited in atoms and in padded bonds."""
        batch: list[Neighbourhood] = []
        atoms, slots = 0, 1
        for structure in structures:
            one = self.neighbourhood(structure)
            size, own = one.neighbour.shape
            widest = max(slots, own)
            if batch and (atoms + size > batch_atoms or (atoms + size) * widest > 32 * batch_atoms):
                yield batch
                batch, atoms, widest = [], 0, own
            batch.append(one)
            atoms, slots = atoms + size, widest
        if batch:
            yield batch


def _normalised(weights: Sequence[float] | None, n_members: int) -> tuple[float, ...]:
    """Weights that sum to one.

    Raises:
        InputError: not one positive number per member.
    """
    given = [1.0] * n_members if weights is None else [float(one) for one in weights]
    if len(given) != n_members or not all(0 < one < float("inf") for one in given):
        raise InputError(f"the weights of {n_members} members must be as many positive numbers (got {given})")
    total = sum(given)
    return tuple(one / total for one in given)


def _numpy(tensor: Any) -> NDArray[np.float64]:
    """A tensor (or array) as float64 on the CPU."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu().numpy()
    return np.asarray(tensor, dtype=np.float64)
