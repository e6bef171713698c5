"""What potentials have in common that come as one file, with one device and one precision."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Self

import torch
from ase import Atoms

from gace.potential.compiled import check_path
from gace.potential.devices import resolve_device, resolve_dtype
from gace.potential.potential import Potential


class FilePotential(Potential):
    """A potential without members of its own: what evaluates it is not changed, moved or copied.

    Attributes:
        described: what the file says of itself.
    """

    described: dict[str, Any]

    def _describe(self, described: dict[str, Any]) -> None:
        """Take over what the file says."""
        self.described = described
        self.members, self.weights = [], ()
        self.elements = tuple(described["elements"])
        self.cutoff = float(described["cutoff"])
        self.isolated_atom_energies = dict(described["isolated_atom_energies"])
        self.level_of_theory = described["level_of_theory"]
        self.metadata = dict(described["metadata"])
        self.uncertainty = None
        self._evaluators = None

    def __repr__(self) -> str:
        name, elements = type(self).__name__, "".join(self.elements)
        return f"{name}({elements}, cutoff={self.cutoff:g} Å, {self.device}, {self.dtype})"

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = copy.copy(self)  # what evaluates it does not change, and cannot be copied
        other.isolated_atom_energies, other.metadata = copy.deepcopy(
            (self.isolated_atom_energies, self.metadata), memo
        )
        return other

    @property
    def device(self) -> torch.device:
        """Where it is evaluated."""
        return torch.device(self.described["device"])

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        found: torch.dtype = getattr(torch, self.described["dtype"])
        return found

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Self:
        """Itself: there is one device and one precision, whichever is asked for.

        Raises:
            InputError: there is no such device or dtype.
        """
        if device is not None:
            resolve_device(device)
        if dtype is not None:
            resolve_dtype(dtype)
        return self

    def evaluated_by(self, path: str) -> Self:
        """Itself: there is one way to evaluate it.

        Raises:
            InputError: an unknown path.
        """
        check_path(path)
        return self

    def evaluated_for(self, structures: Iterable[Atoms]) -> Self:
        """Itself: as :meth:`evaluated_by`, however much there is to evaluate."""
        return self
