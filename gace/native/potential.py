"""A file ``*.gace`` in the place of a bundle: for the commands, and for code that takes a potential."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gace.native.model import NativeModel
from gace.potential.from_file import FilePotential
from gace.potential.potential import GraphPrediction
from gace.structures.graph import Graph


class NativePotential(FilePotential):
    """A potential evaluated by compiled C++ in one precision, on processors; error bars and γ included."""

    def __init__(self, model: NativeModel) -> None:
        """See :class:`gace.native.NativeModel`."""
        self.model = model
        self._describe(model.described)

    @classmethod
    def read(cls, path: str | Path) -> NativePotential:
        """The potential in a file that :func:`gace.native.write` wrote.

        Raises:
            BundleError: no such file, not one of ours, or damaged.
            MissingDependencyError: no C++ compiler where it has not been built yet what evaluates the file.
        """
        return cls(NativeModel(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model,)

    @property
    def has_error_bars(self) -> bool:
        """Whether energies and forces come with standard deviations."""
        return self.model.has_error_bars

    @property
    def has_novelty(self) -> bool:
        """Whether γ can be computed."""
        return self.model.has_novelty

    def evaluate_graph(self, graph: Graph, uncertainty: bool = False) -> GraphPrediction:
        """Energies and derivatives of a batch; error bars and γ where the file has them."""
        self.model.threads = torch.get_num_threads()
        species, neighbour, vector, structure = (
            one.detach().cpu().numpy()
            for one in (graph.species, graph.neighbour, graph.edge_vector.double(), graph.structure)
        )
        found = self.model.evaluate(species, neighbour, vector, structure, uncertainty=uncertainty)
        return GraphPrediction(*found)
