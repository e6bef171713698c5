"""A file ``*.gace`` in the place of a bundle: for the commands, and for code that takes a potential."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from gace.native.model import NativeModel
from gace.potential.compiled import check_path
from gace.potential.devices import resolve_device, resolve_dtype
from gace.potential.potential import GraphPrediction, Potential
from gace.structures.graph import Graph


class NativePotential(Potential):
    """A potential evaluated by compiled C++ in one precision, on processors; error bars and γ included."""

    def __init__(self, model: NativeModel) -> None:
        """See :class:`gace.native.NativeModel`."""
        self.model = model
        described = model.described
        self.members, self.weights = [], tuple(described["weights"])
        self.elements, self.cutoff = model.elements, model.cutoff
        self.isolated_atom_energies = dict(described["isolated_atom_energies"])
        self.level_of_theory = described["level_of_theory"]
        self.metadata = dict(described["metadata"])
        self.uncertainty = None
        self._evaluators = None

    @classmethod
    def read(cls, path: str | Path) -> NativePotential:
        """The potential in a file that :func:`gace.native.write` wrote.

        Raises:
            BundleError: no such file, not one of ours, or damaged.
            MissingDependencyError: no C++ compiler where it has not been built yet what evaluates the file.
        """
        return cls(NativeModel(path))

    def __repr__(self) -> str:
        return f"NativePotential({''.join(self.elements)}, cutoff={self.cutoff:g} Å, {self.dtype})"

    def __copy__(self) -> NativePotential:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> NativePotential:
        other = copy.copy(self)  # the numbers in C++ do not change
        other.isolated_atom_energies, other.metadata = copy.deepcopy(
            (self.isolated_atom_energies, self.metadata), memo
        )
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).read, (self.model.path,)

    @property
    def device(self) -> torch.device:
        """Always a processor."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the numbers in the file."""
        found: torch.dtype = getattr(torch, self.model.described["dtype"])
        return found

    @property
    def has_error_bars(self) -> bool:
        """Whether energies and forces come with standard deviations."""
        return self.model.has_error_bars

    @property
    def has_novelty(self) -> bool:
        """Whether γ can be computed."""
        return self.model.has_novelty

    def to(
        self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> NativePotential:
        """Itself: the file has one precision, whichever is asked for.

        Raises:
            InputError: there is no such device or dtype.
        """
        if device is not None:
            resolve_device(device)
        if dtype is not None:
            resolve_dtype(dtype)
        return self

    def evaluated_by(self, path: str) -> NativePotential:
        """Itself: there is one way to evaluate it.

        Raises:
            InputError: an unknown path.
        """
        check_path(path)
        return self

    def evaluated_for(self, structures: Iterable[Atoms]) -> NativePotential:
        """Itself: as :meth:`evaluated_by`, however much there is to evaluate."""
        return self

    def evaluate_graph(self, graph: Graph, uncertainty: bool = False) -> GraphPrediction:
        """Energies and derivatives of a batch; error bars and γ where the file has them."""
        self.model.threads = torch.get_num_threads()
        species, neighbour, vector, structure = (
            one.detach().cpu().numpy()
            for one in (graph.species, graph.neighbour, graph.edge_vector.double(), graph.structure)
        )
        found = self.model.evaluate(species, neighbour, vector, structure, uncertainty=uncertainty)
        return GraphPrediction(*found)
