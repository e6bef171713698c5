"""A committee trained as one job: every step of all members is one evaluation.

On a GPU small batches are bound by the launching of kernels: the joint step is recorded there and replayed,
as the step of a single training is.
Each member keeps its own data, order, optimiser, averages, schedule and files, as if it were trained alone;
only losses and gradients are computed together, by the members' parameters stacked (``torch.vmap``).
"""

from __future__ import annotations

import copy
import json
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from gace.config import load_config
from gace.errors import GaceError
from gace.potential.graph_ace import AtomicOutput, GraphACE
from gace.potential.recorded import CudaGraphs, RecordedFunction, Recorder, wanted
from gace.structures.graph import Graph
from gace.training.batches import Batch
from gace.training.compiled_step import MAX_SHAPES, Largest, pad
from gace.training.config import TrainConfig
from gace.training.losses import Penalty, Weights, mean_known, residuals
from gace.training.outcome import TrainResult


class Stacked:
    """Models of one architecture evaluated at once, each on its own graph of one common shape."""

    def __init__(self, models: Sequence[GraphACE]) -> None:
        self.models = list(models)
        self.base = copy.deepcopy(models[0])
        like = next(models[0].parameters())
        self.scales = like.new_tensor([one.scale for one in models])
        buffers = [dict(one.named_buffers()) for one in models]
        self.shared = {
            name: value
            for name, value in buffers[0].items()
            if all(torch.equal(value, other[name]) for other in buffers)
        }
        self.own = {
            name: torch.stack([one[name] for one in buffers])
            for name in buffers[0]
            if name not in self.shared
        }

    def __call__(self, graph: Graph) -> AtomicOutput:
        """Energies of the atoms ``(M N,)`` of the members' graphs one after the other."""
        M = len(self.models)
        parameters = [dict(one.named_parameters()) for one in self.models]
        stacked = {name: torch.stack([one[name] for one in parameters]) for name in parameters[0]}
        N = graph.n_atoms // M
        first = torch.arange(M, device=graph.species.device)[:, None, None] * N
        fields = (
            graph.species.view(M, N),
            graph.neighbour.view(M, N, -1) - first,
            graph.edge_vector.unflatten(0, (M, N)),
        )

        def energy(
            parameters: dict[str, Tensor], own: dict[str, Tensor], scale: Tensor, *fields: Tensor
        ) -> Tensor:
            species, neighbour, vector = fields
            one = Graph(species, neighbour, vector, torch.zeros_like(species), vector.new_zeros(1))
            values = {**parameters, **own, **self.shared}
            self.base.scale = scale  # type: ignore[assignment]  # the one number that is no buffer
            return functional_call(self.base, values, (one,)).energy  # type: ignore[no-any-return]

        energies: Tensor = torch.vmap(energy)(stacked, self.own, self.scales, *fields)
        return AtomicOutput(energies.flatten(), energies.new_empty(0))


def joined(batches: Sequence[Batch], cutoff: float) -> tuple[Batch, int]:
    """Batches padded to one shape, one after the other, and the number of structures of each.

    Args:
        batches: of the members.
        cutoff: Å; added neighbour slots lie beyond.
    """
    largest = Largest(
        max(one.graph.n_atoms for one in batches),
        max(one.graph.neighbour.shape[1] for one in batches),
        max(one.graph.n_structures for one in batches),
    )
    padded = [pad(one, cutoff, largest, whole=True) for one in batches]
    atoms, structures = padded[0].graph.n_atoms, padded[0].graph.n_structures
    graph = Graph(
        torch.cat([one.graph.species for one in padded]),
        torch.cat([one.graph.neighbour + m * atoms for m, one in enumerate(padded)]),
        torch.cat([one.graph.edge_vector for one in padded]),
        torch.cat([one.graph.structure + m * structures for m, one in enumerate(padded)]),
        torch.cat([one.graph.volume for one in padded]),
    )
    rest = (torch.cat(parts) for parts in zip(*(one[1:] for one in padded), strict=True))
    return Batch(graph, *rest), structures


def losses(
    model: Callable[[Graph], AtomicOutput],
    batches: Sequence[Batch],
    weights: Sequence[Weights],
    kinds: Sequence[Penalty],
    cutoff: float,
) -> Tensor:
    """What :func:`gace.training.losses.loss_terms` says of each member ``(M, 4)``."""
    batch, structures = joined(batches, cutoff)
    return losses_of_joined(model, batch, structures, weights, kinds, weights)


def losses_of_joined(
    model: Callable[[Graph], AtomicOutput],
    batch: Batch,
    structures: int,
    weights: Sequence[Sequence[float | Tensor]],
    kinds: Sequence[Penalty],
    present: Sequence[Weights],
) -> Tensor:
    """As :func:`losses`, of what :func:`joined` gives.

    Args:
        model: the members, evaluated at once.
        batch: of all members, one after the other.
        structures: of each member.
        weights: energy, forces and stress of each member; numbers or tensors.
        kinds: penalty of each member.
        present: which terms are computed, where ``weights`` are tensors that cannot be looked at.
    """
    N = batch.graph.n_atoms // len(kinds)
    wanted = {name: any(getattr(one, name) > 0 for one in present) for name in ("forces", "stress")}
    found = residuals(model, batch, **wanted, create_graph=True)
    rows = []
    for m, (kind, amounts, there) in enumerate(zip(kinds, weights, present, strict=True)):
        own, atoms = slice(m * structures, (m + 1) * structures), slice(m * N, (m + 1) * N)
        of_atom = batch.weight[:, 1].index_select(0, batch.graph.structure[atoms])[:, None]
        terms = []
        for residual, label, weight, place, counts, force in (
            (found.energy_per_atom, batch.energy, batch.weight[own, 0], own, True, None),
            (found.forces, batch.forces, of_atom, atoms, there.forces > 0, batch.forces[atoms]),
            (
                found.virial_per_atom,
                batch.virial,
                batch.weight[own, 2, None, None],
                own,
                there.stress > 0,
                None,
            ),
        ):
            if residual is None or not counts:
                terms.append(batch.energy.new_zeros(()))
                continue
            missing = torch.isnan(label[place])
            filled = torch.where(missing, 0.0, residual[place])
            terms.append(mean_known(kind(filled, force), label[place], weight))
        total = sum(amount * term for amount, term in zip(amounts, terms, strict=True))
        rows.append(torch.stack([torch.as_tensor(total), *terms]))
    return torch.stack(rows)


class Meeting:
    """Where the members' trainings, a thread each, meet at every step.

    The last to come computes for all that are still in training.
    """

    def __init__(self, members: int) -> None:
        self._condition = threading.Condition()
        self._present = set(range(members))
        self._models: dict[int, tuple[GraphACE, Penalty]] = {}
        self._waiting: dict[int, tuple[Batch, Weights]] = {}
        self._results: dict[int, tuple[Tensor, list[Tensor]] | BaseException] = {}
        self._stacked: tuple[tuple[int, ...], Stacked] | None = None
        self._recorder: Recorder | None = None
        self._failed = False
        self._recorded: dict[tuple[object, ...], RecordedFunction] = {}
        self.evaluations = 0

    def step(self, member: int, model: GraphACE, kind: Penalty) -> Callable[..., tuple[Tensor, list[Tensor]]]:
        """A member's step: batch and weights to terms ``(4,)`` and gradients of its parameters."""
        self._models[member] = model, kind

        def differentiate(batch: Batch, weights: Weights) -> tuple[Tensor, list[Tensor]]:
            with self._condition:
                self._waiting[member] = batch, weights
                self._compute_if_complete()
                self._condition.wait_for(lambda: member in self._results)
                found = self._results.pop(member)
            if isinstance(found, BaseException):
                raise found
            return found

        return differentiate

    def leave(self, member: int) -> None:
        """A member's training has ended: the others go on without."""
        with self._condition:
            self._present.discard(member)
            self._compute_if_complete()

    def _compute_if_complete(self) -> None:
        if not self._present or self._waiting.keys() != self._present:
            return
        waiting, self._waiting = self._waiting, {}
        try:
            found = self._evaluate(tuple(sorted(waiting)), waiting)
            self._results.update(found)
        except BaseException as error:
            self._results.update(dict.fromkeys(waiting, error))
        self._condition.notify_all()

    def _evaluate(
        self, members: tuple[int, ...], waiting: dict[int, tuple[Batch, Weights]]
    ) -> dict[int, tuple[Tensor, list[Tensor]]]:
        if self._stacked is None or self._stacked[0] != members:
            self._stacked = members, Stacked([self._models[one][0] for one in members])
            self._recorded.clear()
        models, kinds = zip(*(self._models[one] for one in members), strict=True)
        batches, weights = zip(*(waiting[one] for one in members), strict=True)
        self.evaluations += 1
        batch, structures = joined(batches, models[0].cutoff)
        stacked = self._stacked[1]
        trained = [[one for one in model.parameters() if one.requires_grad] for model in models]
        flat = [one for each in trained for one in each]

        def step(*arguments: Tensor) -> list[Tensor]:
            n_graph = len(Graph._fields)
            graph, (*labels, amounts) = Graph(*arguments[:n_graph]), arguments[n_graph:]
            with torch.enable_grad():
                terms = losses_of_joined(
                    stacked, Batch(graph, *labels), structures, [*amounts.unbind()], kinds, weights
                )
                gradients = torch.autograd.grad(terms[:, 0].sum(), flat, allow_unused=True)
            # contiguous: fused Adam reads gradients as if they lay as the parameters do
            filled = [
                torch.zeros_like(one) if gradient is None else gradient.contiguous()
                for one, gradient in zip(flat, gradients, strict=True)
            ]
            return [terms.detach(), *filled]

        amounts = batch.energy.new_tensor(weights)
        terms, *gradients = self._run(step, [*batch.graph, *batch[1:], amounts], structures, weights)
        filled = iter(gradients)
        return {
            # the next recorded step writes where these lie, and members take theirs in a thread of their own
            member: (row.clone(), [next(filled).clone() for _ in each])
            for member, row, each in zip(members, terms, trained, strict=True)
        }

    def _run(
        self,
        step: Callable[..., list[Tensor]],
        arguments: list[Tensor],
        structures: int,
        weights: Sequence[Weights],
    ) -> Sequence[Tensor]:
        """The step, on a GPU as a recording of its shape where there is one or one can be made."""
        if self._failed or not wanted(arguments[0].device):
            return step(*arguments)
        key = (*arguments[1].shape, structures, *((one.forces > 0, one.stress > 0) for one in weights))
        if key not in self._recorded:
            if len(self._recorded) == MAX_SHAPES:
                return step(*arguments)
            self._recorder = self._recorder or CudaGraphs()
            try:
                self._recorded[key] = RecordedFunction(step, arguments, record=self._recorder)
            except RuntimeError as error:  # an operation that cannot be recorded, or no memory
                self._failed = True
                warnings.warn(
                    f"the joint step could not be recorded, going on without: {error}", stacklevel=2
                )
                return step(*arguments)
        return self._recorded[key](*arguments)


def train_together(
    configs: Sequence[TrainConfig], outs: Sequence[str | Path]
) -> list[TrainResult | GaceError]:
    """Train members of one architecture at once; each leaves in its folder what :func:`gace.train` leaves.

    A folder that holds a finished or an interrupted training goes on from there, as it would alone.

    Args:
        configs: one per member, alike in potential, device, precision and loss.
        outs: their folders.

    Returns:
        The result of each member, or why it has none (a training that diverged).
    """
    from gace.training.run import train

    meeting = Meeting(len(configs))
    results: list[TrainResult | GaceError | BaseException] = [GaceError("not trained")] * len(configs)

    def one(member: int) -> None:
        try:
            results[member] = train(configs[member], outs[member], progress=False, meeting=(meeting, member))
        except BaseException as error:
            results[member] = error
        finally:
            meeting.leave(member)

    torch.set_num_threads(configs[0].threads)  # each training puts back what it found
    threads = [threading.Thread(target=one, args=(member,)) for member in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results:
        if isinstance(found, BaseException) and not isinstance(found, GaceError):
            raise found
    return results  # type: ignore[return-value]


def _main(folders: Sequence[str]) -> int:
    """Train what stands in ``config.yaml`` of each folder into ``run`` there; 0 if all ended well.

    Why a member failed is left in ``error.json`` of its folder, as ``GACE_ERROR_FILE`` has it.
    """
    configs = [load_config(Path(one) / "config.yaml", TrainConfig).relative_to(Path(one)) for one in folders]
    results = train_together(configs, [Path(one) / "run" for one in folders])
    failed = False
    for folder, found in zip(folders, results, strict=True):
        if isinstance(found, GaceError):
            failed = True
            note = {"error": type(found).__name__, "message": str(found)}
            (Path(folder) / "error.json").write_text(json.dumps(note) + "\n", encoding="utf-8")
            sys.stderr.write(f"{folder}: {found}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
