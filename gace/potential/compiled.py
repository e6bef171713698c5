"""Ways of evaluating a potential: operation by operation, or by compiled code, block by block."""

from __future__ import annotations

import atexit
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from gace.errors import InputError
from gace.potential.blocks import block_size, energy_and_gradients_by_blocks, run_plainly
from gace.potential.compilation import CompiledFunction, compiler_available
from gace.potential.derivatives import Prediction, energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.potential.kernels import available
from gace.potential.kernels.calls import in_c
from gace.potential.recorded import Recorded, wanted
from gace.potential.tables import RadialTable, radial_tables
from gace.structures.graph import Graph

PATHS = ("eager", "tabulated", "compiled", "auto")
"""``eager``: operation by operation; ``tabulated``: likewise, radial functions read off tables
(:mod:`gace.potential.tables`); ``compiled``: wait for the code of each new shape of block;
``auto``: go operation by operation until the code is there (the last digits change then)."""

Evaluate = Callable[[Graph], Prediction]

BLOCK_BONDS = {"cpu": 2048, "cuda": 200_000}
"""Bonds, padding included, of one block of compiled code: on a CPU what its caches hold."""

EAGER_BONDS = 60_000
"""The same operation by operation on a CPU: larger blocks leave its caches, smaller ones cost calls."""

BYTES_OF_BOND = 8192
"""Memory of a GPU for each bond that is evaluated at once, in float32: ``2L-medium`` takes 900 by tables,
by networks and in larger presets it is more."""

MAX_SHAPES = 32
"""Pieces of code that are made at most; what comes later is evaluated operation by operation."""


def evaluators(members: Sequence[GraphACE], path: str, *, features: bool = True) -> list[Evaluate]:
    """One function from graph to prediction per member; members of one architecture share their code.

    Args:
        members: of a potential.
        path: one of :data:`PATHS`.
        features: whether those of the first member are asked for; where they take time of their own
            (linear ACE), there are none else.

    Raises:
        InputError: an unknown path, or ``compiled`` without a C++ compiler.
    """
    check_path(path)
    if path == "compiled" and not compiler_available():
        raise InputError("the compiled path needs a C++ compiler (c++, g++ or clang++) on the PATH")
    if path == "tabulated":
        found = []
        for number, member in enumerate(members):
            tables = radial_functions(member)
            whole = written_out(member, tables, features=features and number == 0)
            found.append(_launched(member, tables, whole))
        return found
    if path == "eager" or not compiler_available():
        return [_launched(member, None, None) for member in members]
    codes: dict[str, Code] = {}
    return [
        partial(codes.setdefault(_architecture(member), Code(wait=path == "compiled")), member)
        for member in members
    ]


def check_path(path: str) -> None:
    """Refuse what is none of :data:`PATHS`.

    Raises:
        InputError: an unknown path.
    """
    if path not in PATHS:
        raise InputError(f"no path called '{path}': choose {', '.join(PATHS[:-1])} or {PATHS[-1]}")


def written_out(
    model: GraphACE, tables: list[RadialTable] | None, *, features: bool = True
) -> Evaluate | None:
    """How a model is evaluated at once on a processor, its pass back written out; None where it is not."""
    if not in_c(next(model.parameters())):
        return None
    from gace.native.evaluation import evaluation_of

    return evaluation_of(model, tables, features=features)


def _launched(model: GraphACE, tables: list[RadialTable] | None, whole: Evaluate | None) -> Evaluate:
    """Operation by operation, or by ``whole``; on a GPU small structures as one recording."""
    evaluate = partial(evaluate_eagerly, model, tables=tables, whole=whole)
    if not wanted(next(model.parameters()).device):
        return evaluate
    bonds = eager_bonds(next(model.parameters()))
    # what is recorded keeps its memory, and large work need not be: launches are lost in it
    return partial(_replayed, Recorded(evaluate, max_bonds=bonds // 2), model.cutoff)


def _replayed(recorded: Recorded, cutoff: float, graph: Graph) -> Prediction:
    """Shapes are padded so that they come again."""
    return recorded(pad_slots(graph, cutoff))


def evaluate_eagerly(
    model: GraphACE,
    graph: Graph,
    tables: Sequence[RadialTable] | None = None,
    whole: Evaluate | None = None,
) -> Prediction:
    """At once if the graph is small, else block by block.

    Args:
        model: the potential.
        graph: on its device and in its precision.
        tables: radial functions of each layer in the place of its network.
        whole: evaluates any graph by itself; None: operation by operation.
    """
    if whole is not None:
        return whole(graph)
    slots = graph.neighbour.shape[1]
    bonds = eager_bonds(graph.edge_vector)
    size = block_size(graph.n_atoms, slots, bonds)
    size = -(-graph.n_atoms // -(-graph.n_atoms // size))  # equal blocks: none is filled up with nothing
    if size >= graph.n_atoms:
        return energy_and_gradients(model if tables is None else lambda one: model(one, tables), graph)
    return energy_and_gradients_by_blocks(model, graph, size, tables=tables)


def eager_bonds(x: Tensor) -> int:
    """Bonds, padding included, that are evaluated at once where ``x`` lies: half of a GPU's memory."""
    if x.device.type != "cuda":
        return EAGER_BONDS
    memory = torch.cuda.get_device_properties(x.device).total_memory
    return memory // (2 * BYTES_OF_BOND * x.element_size() // 4)


def radial_functions(model: GraphACE) -> list[RadialTable] | None:
    """A graph ACE's radial functions, where there are kernels that read them."""
    if not isinstance(model, GraphACE) or not available(next(model.parameters())):
        return None
    return radial_tables(model)


class Code:
    """Compiled functions of the blocks of one architecture, one per function and shape of block.

    Neighbour slots are padded to a coarse grid and structures are cut into blocks, so that shapes
    are few: a structure that grows or breathes soon finds code that is there. A copy begins with none:
    neither code nor the thread that makes it can be copied.

    Args:
        wait: whether a call waits for missing code or goes on operation by operation.

    Attributes:
        functions: code by name and shape.
        seconds: time spent on making code so far.
    """

    def __init__(self, *, wait: bool) -> None:
        self.wait = wait
        self.functions: dict[tuple[object, ...], CompiledFunction] = {}
        self.seconds = 0.0
        self._wanted: set[tuple[object, ...]] = set()
        self._failed = False
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    def __reduce__(self) -> tuple[Callable[[], Code], tuple[()]]:
        return partial(type(self), wait=self.wait), ()

    def __call__(self, model: GraphACE, graph: Graph) -> Prediction:
        """Evaluate ``model``, by compiled code as far as it is there."""
        graph = pad_slots(graph, model.cutoff)
        slots = graph.neighbour.shape[1]
        size = block_size(graph.n_atoms, slots, BLOCK_BONDS[_kind(graph)])
        if size < graph.n_atoms:
            return energy_and_gradients_by_blocks(model, graph, size, self._run)
        names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
        state = [one.detach() for one in (*model.parameters(), *model.buffers())]

        def whole(*arguments: Tensor) -> list[Tensor]:
            parameters = dict(zip(names, arguments[: len(names)], strict=True))
            found = energy_and_gradients(
                lambda graph: functional_call(model, parameters, (graph,)),
                Graph(*arguments[len(names) :]),
            )
            return list(found)

        return Prediction(*self._run(f"whole {graph.n_structures}", whole, [*state, *graph]))

    def _run(
        self, name: str, function: Callable[..., list[Tensor]], arguments: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        # what precedes are parameters, whose shapes are the architecture's
        shape = next(one.shape for one in reversed(arguments) if one.ndim == 3 and one.shape[-1] == 3)
        key = (name, *shape)
        found = self.functions.get(key)
        if found is None and not self._failed and key not in self._wanted and len(self._wanted) < MAX_SHAPES:
            self._wanted.add(key)
            make = partial(self._make, key, function, list(arguments))
            if self.wait:
                make()
            else:
                self._later(make)
            found = self.functions.get(key)
        if found is None:
            return run_plainly(name, function, arguments)
        return found(*arguments)

    def _later(self, make: Callable[[], None]) -> None:
        """Make code in a thread of its own, one piece after the other."""
        self._queue.put(make)
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, daemon=True)
            self._worker.start()
            atexit.register(self._end)

    def _work(self) -> None:
        while (make := self._queue.get()) is not None:
            make()

    def _end(self) -> None:
        """Wait for the piece in the making: cut off inside the compiler it would abort the whole program."""
        self._failed = True
        self._queue.put(None)
        if self._worker is not None:
            self._worker.join()

    def _make(
        self, key: tuple[object, ...], function: Callable[..., list[Tensor]], arguments: list[Tensor]
    ) -> None:
        """Make one piece of code; a failure leaves the plain evaluation in place."""
        if self._failed:
            return
        try:
            made = CompiledFunction(function, arguments)
        except Exception as error:  # whatever the compiler says, there is a slower way
            self._failed = True
            warnings.warn(f"no compiled code could be made, going on without: {error}", stacklevel=2)
            return
        self.seconds += made.seconds
        self.functions[key] = made


def pad_slots(graph: Graph, cutoff: float) -> Graph:
    """The graph with its neighbour axis padded to a multiple of about a sixteenth of its length."""
    N, J = graph.neighbour.shape
    step = max(1, 2 ** (J.bit_length() - 4))
    more = -J % step
    if more == 0:
        return graph
    own = torch.arange(N, device=graph.neighbour.device)[:, None].expand(N, more)
    far = graph.edge_vector.new_zeros(N, more, 3)
    far[..., 0] = 2 * cutoff
    return graph._replace(
        neighbour=torch.cat([graph.neighbour, own], dim=1),
        edge_vector=torch.cat([graph.edge_vector, far], dim=1),
    )


def _kind(graph: Graph) -> str:
    """Where sizes of blocks are concerned, a device is a CPU or like a GPU."""
    return "cpu" if graph.edge_vector.device.type == "cpu" else "cuda"


def _architecture(model: GraphACE) -> str:
    """What compiled code depends on."""
    values = model.hyperparameters()
    of_data = ("seed", "scale", "mean_neighbours", "close_limits")
    kept = {k: v for k, v in values.items() if k not in of_data}
    kept["inner_cutoffs"] = bool(values.get("inner_cutoffs"))  # the lengths are arguments
    return repr(sorted(kept.items()))
