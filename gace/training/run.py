"""``gace.train``: one run from a configuration to a bundle, resumable at any moment."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import yaml
from threadpoolctl import threadpool_limits

from gace.config import parse_config
from gace.errors import InputError
from gace.files import write_atomic
from gace.linear.anchors import anchors_of
from gace.linear.fit import fit
from gace.linear.model import LinearACE
from gace.memory import told
from gace.potential.devices import matmul_precision, resolve_device, resolve_dtype
from gace.potential.graph_ace import GraphACE
from gace.training import checkpoint as saved
from gace.training.batches import Packed
from gace.training.config import TrainConfig
from gace.training.curve import lines_of, svg
from gace.training.metrics import MetricsFile, read_metrics
from gace.training.model import choose_cutoff, is_linear, make_linear, make_model
from gace.training.outcome import Outcome, TrainResult, read_result, write_result
from gace.training.prepare import Data, check_writable, pack, read_data
from gace.training.pretraining.run import pretrained
from gace.training.progress import ProgressBar
from gace.training.team import assembled, follows
from gace.training.trainer import Trainer

if TYPE_CHECKING:
    from gace.training.together import Meeting

FEWER = "have fewer trainings at a time (cluster.workers), or a smaller potential.preset"


def train(
    config: TrainConfig | Mapping[str, Any],
    out: str | Path,
    *,
    progress: bool = True,
    meeting: tuple[Meeting, int] | None = None,
) -> TrainResult:
    """Train a potential, or go on with a run that was interrupted.

    A finished run is not repeated: its result is returned. Interrupted by SIGINT or SIGTERM, the run
    saves its state and raises :class:`KeyboardInterrupt`; after SIGKILL it goes on from the last checkpoint.
    Either way the outcome is the uninterrupted run's, bit for bit (unless ``max_minutes`` decides).

    Args:
        config: the configuration; relative paths are taken from the current folder.
        out: folder of the run; gets ``potential/``, ``metrics.jsonl``, ``learning_curve.svg``,
            ``config.yaml``, ``summary.json``.
        progress: show a progress bar on standard error (a line now and then if that is no terminal).
        meeting: where this member of a committee computes its steps together with the others
            (:func:`gace.training.together.train_together`).

    Raises:
        InputError: anything wrong with configuration, data or folder, before anything is computed.
        TrainingDivergedError: a loss is not finite; the message names the structures.
        OutOfMemoryError: not even one structure at a time fits; the state is saved, the same call goes on.
        KeyboardInterrupt: interrupted by a signal, state saved.
    """
    out = Path(out)
    if not isinstance(config, TrainConfig):
        config = parse_config(dict(config), TrainConfig)
    config = config.relative_to(Path.cwd())
    device = resolve_device(config.device)
    notes: dict[str, Any] = {}
    if config.pretraining is not None and not follows():
        check_writable(out)
        config, notes = pretrained(config, out, progress=progress)
    started = time.monotonic()  # after a pretraining: `max_minutes` are the labels' own
    config = config.with_learning_rate()
    data = read_data(config)
    cutoff = choose_cutoff(config, data)
    check_writable(out)
    fingerprint = data.fingerprint(config)
    finished = _finished(out, fingerprint)
    if finished is not None:
        return finished
    if is_linear(config):
        with reproducible(config, device):
            return _fit_linear(config, data, cutoff, fingerprint, out, progress)
    with (
        reproducible(config, device),
        _signals() as interrupted,
        assembled(config, out, device) as team,
        team.folder(out) as own,
    ):
        device = team.device
        with told("laying out the training data", "data.on_disk: true keeps neighbour lists in files"):
            packed, validation = pack(data, config, cutoff, device, own)
        checkpoint = saved.load_checkpoint(saved.checkpoint_path(out), device)
        if checkpoint is not None:
            _same_run(checkpoint[1]["fingerprint"], fingerprint, out)
        model = make_model(config, data, packed).to(device, resolve_dtype(config.dtype))
        trainer = Trainer(
            config,
            model,
            packed,
            validation,
            out=out,
            fingerprint=fingerprint,
            started=started,
            n_new=data.n_new,
            team=team,
        )
        if meeting is not None:
            trainer.compiled = meeting[0].step(meeting[1], model, trainer.penalty)
            trainer.division.forbid()  # the others wait for the whole batch
        if checkpoint is not None:
            trainer.restore(*checkpoint)
        team.wait()
        _write_config(config, data, model, own)
        metrics = MetricsFile(own / "metrics.jsonl", trainer.epochs_done)
        with (
            contextlib.closing(metrics),
            ProgressBar(trainer.total_epochs, trainer.epochs_done, progress and team.leads) as bar,
        ):
            for warning in data.warnings:
                bar.warn(warning)
            with told("validating", FEWER):
                ending = trainer.run(metrics, bar, interrupted)
        if ending == "interrupted":
            raise KeyboardInterrupt(
                f"interrupted after {trainer.step} steps; the same command goes on from here"
            )
        result = None
        if team.leads:
            figure = svg(lines_of(read_metrics(out / "metrics.jsonl")), "epoch", "learning curve")
            write_atomic(out / "learning_curve.svg", figure)
            result = _finish(trainer, data, packed, validation, ending, out, notes)
            if progress:
                _say_more(result, data)
        team.wait()
        return result or _finished(out, fingerprint)  # type: ignore[return-value]


def _fit_linear(
    config: TrainConfig, data: Data, cutoff: float, fingerprint: dict[str, Any], out: Path, progress: bool
) -> TrainResult:
    """The outcome of a least-squares fit: float64, on the CPU, in one go."""
    started, cpu_started = time.monotonic(), time.process_time()
    packed, validation = pack(
        data, config.model_copy(update={"dtype": "float64"}), cutoff, torch.device("cpu"), out
    )
    model = make_linear(config, data)
    _write_config(config, data, model, out)
    with ProgressBar(1, 0, progress) as bar:
        for warning in data.warnings:
            bar.warn(warning)
        settings = config.training.least_squares
        anchors = anchors_of(model, data.train, data.train_labels, data.isolated_atoms, settings)
        found = fit(model, packed, settings, lambda text: bar.show(0, text), anchors)
    core_seconds = time.process_time() - cpu_started
    outcome = Outcome(
        model, "completed", 1, 1, time.monotonic() - started, core_seconds, {"least_squares": found._asdict()}
    )
    result = write_result(outcome, config, data, packed, validation, fingerprint=fingerprint, out=out)
    line = {"epoch": 1, "step": 1, "least_squares": found._asdict(), **result.metrics}
    write_atomic(out / "metrics.jsonl", json.dumps(line, allow_nan=False) + "\n")
    if progress:
        _say_more(result, data)
    return result


def _say_more(result: TrainResult, data: Data) -> None:
    """Print the warnings that only the trained model could give."""
    for warning in result.warnings[len(data.warnings) :]:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def _finish(
    trainer: Trainer,
    data: Data,
    packed: Packed,
    validation: Packed | None,
    ending: str,
    out: Path,
    notes: dict[str, Any],
) -> TrainResult:
    """The outcome of a training by gradients."""
    return write_result(
        Outcome(
            model=trainer.result(),
            ending=ending,
            epochs=math.ceil(trainer.step / trainer.steps_per_epoch),
            steps=trainer.step,
            seconds=trainer.seconds,
            core_seconds=trainer.core_seconds,
            notes=notes,
        ),
        trainer.config,
        data,
        packed,
        validation,
        fingerprint=trainer.fingerprint,
        out=out,
    )


def _finished(out: Path, fingerprint: dict[str, Any]) -> TrainResult | None:
    """The result of a run that is complete already."""
    found = read_result(out)
    if found is None:
        return None
    result, earlier = found
    _same_run(earlier, fingerprint, out)
    return result


def _same_run(earlier: dict[str, Any], now: dict[str, Any], out: Path, prefix: str = "") -> None:
    """Refuse to mix two runs in one folder, naming what differs."""
    for key in sorted({*earlier, *now}):
        before, after = earlier.get(key), now.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict) and not prefix and "." not in key:
            _same_run(before, after, out, f"{key}.")
        elif key.startswith("data.") and isinstance(before, str):
            raise InputError(f"{out} holds a run on other data ({key}): choose another --out or delete it")
        raise InputError(
            f"{out} holds a run with {prefix}{key} = {before}, now {after}: choose another --out or delete it"
        )


def _write_config(config: TrainConfig, data: Data, model: GraphACE | LinearACE, out: Path) -> None:
    """``config.yaml`` with every value as used."""
    content = json.loads(config.model_dump_json())
    content["data"]["isolated_atoms"] = data.isolated_atoms
    content["potential"]["elements"] = data.elements
    content["potential"]["cutoff"] = model.hyperparameters()["cutoff"]
    if config.pretraining is not None:
        content["potential"]["start_from"] = None  # made by the run itself
    write_atomic(out / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


@contextlib.contextmanager
def reproducible(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Threads and precision as configured, whatever the process has set; no time lost on denormal numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    try:
        # the sums of linear algebra depend on the number too, and by itself it takes all cores
        with (
            threadpool_limits(config.threads, user_api="blas"),
            matmul_precision(config.training.matmul, device),
        ):
            yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM has come; a second one acts at once."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    before: dict[int, Any] = {}
    numbers = (int(signal.SIGINT), int(signal.SIGTERM))

    def note(number: int, frame: FrameType | None) -> None:
        seen.set()
        signal.signal(number, before[number])

    for number in numbers:
        before[number] = signal.signal(number, note)
    try:
        yield seen.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
