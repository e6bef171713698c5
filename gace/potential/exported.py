"""Export a potential to one file of machine code, and evaluate such a file.

The file is a package of PyTorch's ahead-of-time compiler (AOTInductor): code for one precision and one kind
of device, the parameters, and what a caller must know (elements, cutoff, energies of isolated atoms). It
holds for any number of atoms and neighbours, needs no compiler where it runs, and can be loaded by a C++
program without Python (``examples/cpp``). Loading it runs the code in it: load only what you exported.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gace.errors import BundleError, InputError
from gace.files import sync_folder
from gace.potential.compilation import compiler_available
from gace.potential.from_file import FilePotential
from gace.potential.kernels.calls import without_kernels
from gace.potential.potential import GraphPrediction, Potential
from gace.structures.graph import Graph, forces_from_edges

SUFFIX = ".pt2"
FORMAT_VERSION = 1
FIELD = "gace"
"""Entry of the package's metadata that holds ours, as JSON."""

MAX_ATOMS, MAX_SLOTS = 10_000_000, 4096
"""Sizes up to which the code is made to hold."""


def export(potential: Potential, path: str | Path) -> dict[str, Any]:
    """Write ``potential`` to ``path`` (``*.pt2``) as machine code; returns what the package says of itself.

    The code is for the potential's device and precision and takes 0.5 to 5 minutes to make. It gives the
    mean of the members; error bars and γ need the bundle.

    The code's function, for one or more structures in one graph of N atoms with J slots for neighbours, both
    at least 2::

        (species (N,) int64, neighbour (N, J) int64, edge_vector (N, J, 3))
            -> (energy (N,), forces (N, 3), virial (N, 3, 3))

    ``species`` indexes ``elements``; ``edge_vector`` is neighbour minus centre in Å; a slot without neighbour
    holds its own atom and a vector of twice the cutoff. Energies (eV) are without those of isolated atoms.
    The sum of the virials over a periodic structure, divided by the volume, is the stress, tension positive.

    Raises:
        InputError: ``path`` does not end in ``.pt2``, there is no C++ compiler, or ``potential`` is itself
            an exported file.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"an exported potential is a file *.gace or *{SUFFIX}, not '{path}'")
    potential.models("exported again")
    if not compiler_available():
        raise InputError("exporting needs a C++ compiler (c++, g++ or clang++) on the PATH")
    if not path.parent.is_dir():
        raise InputError(f"no such folder: {path.parent}")
    started = time.monotonic()
    described = {
        "format_version": FORMAT_VERSION,
        "elements": list(potential.elements),
        "cutoff": potential.cutoff,
        "isolated_atom_energies": potential.isolated_atom_energies,
        "level_of_theory": potential.level_of_theory,
        "n_members": len(potential.members),
        "device": potential.device.type,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "metadata": potential.metadata,
    }
    # the compiler wants the ending, and nothing half-made may stand under the final name
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        _compile(potential, made, json.dumps(described))
        made.replace(path)
    sync_folder(path.parent)
    return {**described, "bytes": path.stat().st_size, "seconds": round(time.monotonic() - started, 1)}


def _compile(potential: Potential, path: Path, described: str) -> None:
    import torch._inductor
    from torch.export import Dim
    from torch.export import export as trace
    from torch.fx.experimental.proxy_tensor import make_fx

    members = [copy.deepcopy(member).requires_grad_(False).eval() for member in potential.members]
    cutoff, device, dtype = potential.cutoff, potential.device, potential.dtype
    weights = potential.weights

    def evaluate(species: Tensor, neighbour: Tensor, edge_vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = torch.zeros_like(species)
        with torch.enable_grad():
            bonds = edge_vector.detach().requires_grad_()
            graph = Graph(species, neighbour, bonds, one, edge_vector.new_ones(1))
            energies = [w * member(graph).energy for w, member in zip(weights, members, strict=True)]
            energy = torch.stack(energies).sum(0)
            (gradient,) = torch.autograd.grad(energy.sum(), bonds)
        virial = torch.einsum("nja,njb->nab", edge_vector, gradient)
        forces = forces_from_edges(gradient, graph)
        return energy.detach(), forces.detach(), 0.5 * (virial + virial.transpose(1, 2)).detach()

    # sizes unlike each other and unlike any other of the model, so that none is taken for a constant
    N, J = 7, 5
    generator = torch.Generator().manual_seed(0)
    example = (
        torch.arange(N, device=device) % len(potential.elements),
        ((torch.arange(N)[:, None] + torch.arange(1, J + 1)) % N).to(device),
        (torch.rand(N, J, 3, generator=generator) + 0.3).to(device, dtype) * (cutoff / 4),
    )
    atoms, slots = Dim("atoms", min=2, max=MAX_ATOMS), Dim("slots", min=2, max=MAX_SLOTS)
    sizes = ({0: atoms}, {0: atoms, 1: slots}, {0: atoms, 1: slots})
    with without_kernels(), _quietly():
        graph = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
        program = trace(graph, example, dynamic_shapes=sizes)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"aot_inductor.metadata": {FIELD: described}}
        )


def load_exported(path: str | Path) -> ExportedPotential:
    """The potential in a file that :func:`export` wrote; its code is run, so load only your own.

    Raises:
        BundleError: no such file, no package of ours, or made for another kind of machine.
    """
    import torch._inductor

    path = Path(path)
    if not path.is_file():
        raise BundleError(f"no such file: {path}")
    try:
        with _quietly():
            code = torch._inductor.aoti_load_package(str(path))
            described = json.loads(code.get_metadata()[FIELD])
    except Exception as error:  # whatever is wrong with a file
        raise BundleError(f"{path} is no exported potential of gace for this machine: {error}") from None
    if described["format_version"] != FORMAT_VERSION:
        raise BundleError(f"{path} has format version {described['format_version']}: export it again")
    if described["device"] == "cuda" and not torch.cuda.is_available():
        raise BundleError(f"{path} was exported for a GPU, and torch sees none")
    return ExportedPotential(code, described, path.resolve())


class ExportedPotential(FilePotential):
    """A potential whose code was made ahead of time: the mean of its members, in one precision."""

    def __init__(self, code: Callable[..., Any], described: dict[str, Any], path: Path | None = None) -> None:
        """See :func:`load_exported`; ``path``: the file, which another process opens for itself."""
        self.code, self.path = code, path
        self._describe(described)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise InputError("an exported potential goes to another process by its file, and has none")
        return load_exported, (self.path,)

    def evaluate_graph(self, graph: Graph, uncertainty: bool = False) -> GraphPrediction:
        """Energies and derivatives of a batch; there are no error bars."""
        graph = graph.to(self.device, self.dtype)
        N, n_structures = graph.n_atoms, graph.n_structures
        species, structure = graph.species.cpu().numpy(), graph.structure.cpu().numpy()
        with torch.no_grad():
            found = self.code(*_padded(graph, self.cutoff))
        energy, forces, virial = (one[:N].double().cpu().numpy() for one in found)
        energies = energy + np.array([self.isolated_atom_energies[one] for one in self.elements])[species]
        totals, virials = np.zeros(n_structures), np.zeros((n_structures, 3, 3))
        np.add.at(totals, structure, energies)
        np.add.at(virials, structure, virial)
        return GraphPrediction(totals, forces, virials, energies, None, None, None)


def _padded(graph: Graph, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Species, neighbours and bonds, with at least two atoms and two slots."""
    N, J = graph.neighbour.shape
    rows, slots = max(0, 2 - N), max(0, 2 - J)
    species, neighbour, vector = graph.species, graph.neighbour, graph.edge_vector
    if rows or slots:
        species = pad(species, (0, rows))
        own = torch.arange(N + rows, device=neighbour.device)[:, None].expand(-1, J + slots)
        neighbour = torch.where(
            torch.arange(J + slots, device=own.device) < J, pad(neighbour, (0, slots, 0, rows)), own
        )
        far = vector.new_tensor([2 * cutoff, 0.0, 0.0]).expand(N + rows, J + slots, 3).clone()
        far[:N, :J] = vector
        vector = far
        if rows:
            neighbour[N:] = own[N:]
    return species, neighbour.contiguous(), vector.contiguous()


@contextmanager
def _quietly() -> Iterator[None]:
    """PyTorch's compiler warns of its own deprecated parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
