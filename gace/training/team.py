"""Several processes that train one model: each takes its share of every batch, gradients are summed.

The loss is a mean over the labels of a batch, so each process weighs its terms by its share of the labels:
the sum of the gradients is then the whole batch's, to rounding, and all processes take the same step. What
depends on the clock or on signals is decided by the first process; it alone writes files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from gace.errors import GaceError, InputError
from gace.training.losses import Weights

if TYPE_CHECKING:
    from gace.training.batches import Batch
    from gace.training.config import TrainConfig

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: reading data, compiling and the last evaluation take one of them
longer. A process that has ended is noticed at once."""


class Team:
    """One process among ``size``; alone if there is but one.

    Attributes:
        rank: number of this process; 0 leads.
        size: number of processes.
        device: where this process computes.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """This process's structures of a batch; one that does not count where there are too few."""
        own = indices[self.rank :: self.size]
        return own if len(own) else indices[:1]

    def weigh(self, weights: Weights, batch: Batch, indices: Tensor) -> Weights:
        """The weights times this process's share of the labels that each term is a mean of.

        Args:
            weights: of the terms for the whole batch.
            batch: this process's share of it.
            indices: all structures of the whole batch.
        """
        if self.size == 1:
            return weights
        if len(indices[self.rank :: self.size]) == 0:
            own = torch.zeros(3, dtype=torch.float64)
        else:
            labels = batch.energy, batch.forces, batch.virial
            own = torch.stack([(~torch.isnan(one)).sum() for one in labels]).cpu().double()
        total = own.clone()
        distributed.all_reduce(total)
        shares = (own / total.clamp(min=1)).tolist()
        return Weights(*(weight * share for weight, share in zip(weights, shares, strict=True)))

    def add(self, weights: Weights, own: Weights, terms: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Sum the gradients at the parameters over all processes; terms ``(4,)`` of the whole batch.

        Args:
            weights: of the terms for the whole batch.
            own: likewise, as :meth:`weigh` has made them for this process.
            terms: of its share.
            parameters: their gradients are replaced by the sum.
        """
        if self.size == 1:
            return terms
        gradients = [one.grad for one in parameters if one.grad is not None]
        shares = [part / whole if whole else 0.0 for part, whole in zip(own, weights, strict=True)]
        together = torch.cat(
            [terms[1:].detach() * terms.new_tensor(shares), *(g.reshape(-1) for g in gradients)]
        )
        distributed.all_reduce(together)
        found, *summed = together.split([3, *(one.numel() for one in gradients)])
        for one, value in zip(gradients, summed, strict=True):
            one.copy_(value.view_as(one))
        return torch.cat([(found * found.new_tensor(weights)).sum().reshape(1), found])

    def agree(self, *values: float) -> list[float]:
        """The leader's values."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(told, src=0)
        return told.tolist()

    def wait(self) -> None:
        """Until all processes have come here."""
        self.total(0.0)

    @contextlib.contextmanager
    def folder(self, out: Path) -> Iterator[Path]:
        """Where this process writes: ``out`` for the leader, for others a folder that vanishes."""
        if self.leads:
            yield out
            return
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)

    def total(self, value: float) -> float:
        """Sum over all processes."""
        if self.size == 1:
            return value
        summed = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(summed)
        return float(summed)


ALONE = Team(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def assembled(config: TrainConfig, out: Path, device: torch.device) -> Iterator[Team]:
    """This process's place in the team of ``config.training.processes``.

    The first process starts the others on the same machine and ends them with itself. Started by
    ``torchrun``, there are as many as it says, on as many machines.

    Raises:
        InputError: more processes than GPUs.
    """
    variables = os.environ
    if _MEMBER not in variables:
        for left in out.glob("team-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
    if "RANK" in variables and "WORLD_SIZE" in variables and "MASTER_ADDR" in variables:
        rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
        with _joined(
            rank, size, "env://", _own(device, int(variables.get("LOCAL_RANK", rank)), size)
        ) as team:
            yield team
    elif member := variables.get(_MEMBER):
        first, second, meeting = member.split(":", 2)
        rank, size = int(first), int(second)
        with _joined(rank, size, meeting, _own(device, rank, size)) as team:
            yield team
    elif config.training.processes == 1:
        yield Team(0, 1, device)
    else:
        size = config.training.processes
        own = _own(device, 0, size)
        with (
            tempfile.TemporaryDirectory(dir=out, prefix="team-") as folder,
            _others(config, out, Path(folder), size),
            _joined(0, size, f"file://{Path(folder).resolve() / 'meeting'}", own) as team,
        ):
            yield team


_MEMBER = "GACE_TEAM_MEMBER"
"""Variable that tells a process which of how many it is, and where they meet: ``rank:size:address``."""


def follows() -> bool:
    """Whether this process was started by the first of a team, which has pretrained if it was to be.

    Raises:
        InputError: started by ``torchrun``, where every process would pretrain.
    """
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        raise InputError("pretraining is for one command, not for torchrun: give training.processes instead")
    return _MEMBER in os.environ


def _own(device: torch.device, local: int, size: int) -> torch.device:
    """The device of a process: one GPU for each."""
    if device.type != "cuda":
        return device
    seen = torch.cuda.device_count()
    if local >= seen:
        raise InputError(f"training.processes is {size}, but torch sees {seen} GPU{'s' if seen > 1 else ''}")
    return torch.device("cuda", local)


@contextlib.contextmanager
def _joined(rank: int, size: int, meeting: str, device: torch.device) -> Iterator[Team]:
    """Meet the others; gloo carries what is on the processor (by the loopback interface on one machine)."""
    if meeting.startswith("file://"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Team(rank, size, device)
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _others(config: TrainConfig, out: Path, folder: Path, size: int) -> Iterator[None]:
    """Processes 1 … size - 1, each in a folder of its own; none outlives this one."""
    written = folder / "config.json"
    written.write_text(config.model_dump_json())
    meeting = f"file://{folder.resolve() / 'meeting'}"
    started = []
    for rank in range(1, size):
        command = [sys.executable, "-m", "gace.training.team", str(written), str(out), str(os.getpid())]
        environment = {**os.environ, _MEMBER: f"{rank}:{size}:{meeting}"}
        started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
    try:
        yield
    except BaseException as error:
        for one in started:
            one.send_signal(signal.SIGTERM)
        broken = [rank for rank, one in enumerate(started, 1) if _ended(one) not in (0, -signal.SIGTERM, 130)]
        if broken and isinstance(error, RuntimeError) and not isinstance(error, GaceError):
            raise RuntimeError(f"process {broken[0]} of {size} failed; what it said stands above") from error
        raise
    finally:
        for one in started:
            _ended(one)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Exit code of a process that is about to end, or is ended."""
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _die_with(parent: int) -> None:
    """End this process when its parent has gone: nobody waits for what it computes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def _member(written: str, out: str, parent: str) -> None:
    """A process of the team other than the first."""
    from gace.training.config import TrainConfig
    from gace.training.run import train

    _die_with(int(parent))
    try:
        train(TrainConfig.model_validate_json(Path(written).read_text()), out, progress=False)
    except (GaceError, KeyboardInterrupt):
        sys.exit(130)  # the first process meets the same and says so


if __name__ == "__main__":
    _member(*sys.argv[1:])
