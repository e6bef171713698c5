"""A learning rate from a short sweep: steps on training batches while the rate grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gace.config import parse_config
from gace.errors import InputError
from gace.files import write_atomic, write_json_atomic
from gace.potential.devices import resolve_device, resolve_dtype
from gace.training.config import TrainConfig
from gace.training.curve import Line, svg
from gace.training.losses import Weights, loss_terms, penalty
from gace.training.model import choose_cutoff, is_linear, make_model
from gace.training.optimizer import make_optimizer
from gace.training.prepare import check_writable, pack, read_data
from gace.training.run import reproducible
from gace.training.sampler import Sampler
from gace.training.schedule import check_weights, stage_weights

LOWEST, HIGHEST, STEPS = 1e-4, 10.0, 120
SMOOTHING = 0.85
GIVE_UP = 4.0
"""Loss relative to the best so far at which the sweep ends."""
SAFETY = 4.0
"""The suggestion is the rate of the lowest loss divided by this: at the lowest loss it is about to rise."""


class RateSweep(NamedTuple):
    """What the sweep saw."""

    rates: list[float]
    """Learning rates, growing."""
    losses: list[float]
    """Smoothed loss after a step with each."""
    suggestion: float

    def table(self, rows: int = 12) -> str:
        """A few rows of text."""
        step = max(1, len(self.rates) // rows)
        lines = [f"{rate:13.3g}  {loss:12.4g}" for rate, loss in zip(self.rates, self.losses, strict=True)]
        return "\n".join(["learning rate  smoothed loss", *lines[::step]])


def find_learning_rate(config: TrainConfig | Mapping[str, Any], out: str | Path) -> RateSweep:
    """Sweep the learning rate once; leaves ``learning_rates.json`` and ``learning_rates.svg`` in ``out``.

    The model starts as for training, every step is one of the configured optimiser on the next batch, and
    the rate grows geometrically from 1e-4 to 10 (in the configured unit) until the loss has risen again.
    The suggestion is the rate of the lowest smoothed loss divided by four.

    Raises:
        InputError: anything wrong with configuration or data, or a linear model.
    """
    if not isinstance(config, TrainConfig):
        config = parse_config(dict(config), TrainConfig)
    config = config.relative_to(Path.cwd()).with_learning_rate()
    if is_linear(config):
        raise InputError("a linear model is fitted exactly: it has no learning rate")
    out, device = Path(out), resolve_device(config.device)
    data = read_data(config)
    check_writable(out)
    with reproducible(config, device):
        packed, _ = pack(data, config, choose_cutoff(config, data), device, out)
        model = make_model(config, data, packed).to(device, resolve_dtype(config.dtype))
        sweep = _sweep(config, model, packed, data.n_new)
    content = {"suggestion": sweep.suggestion, "learning_rate": sweep.rates, "loss": sweep.losses}
    write_json_atomic(out / "learning_rates.json", content)
    line = Line("smoothed loss", sweep.rates, sweep.losses)
    figure = svg([line], "learning rate", f"suggested learning rate {sweep.suggestion:g}", sweep.suggestion)
    write_atomic(out / "learning_rates.svg", figure)
    return sweep


def _sweep(config: TrainConfig, model: Any, packed: Any, n_new: int) -> RateSweep:
    """The steps themselves."""
    settings = config.training
    check_weights(settings, packed)
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = make_optimizer(config, parameters)
    kind = penalty(settings.loss, settings.huber_delta, settings.huber_force)
    weights = stage_weights(settings, 0.0, packed.has_stress)
    weights = Weights(weights.energy * packed.has_energy, weights.forces * packed.has_forces, weights.stress)
    sampler = Sampler(packed.sizes, config, n_new)
    rates: list[float] = []
    losses: list[float] = []
    mean, best = 0.0, math.inf
    batches: list[torch.Tensor] = []
    for step in range(STEPS):
        if not batches:
            batches = sampler.batches(step // sampler.steps_per_epoch)
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("size", 1.0)
        optimizer.zero_grad()
        terms = loss_terms(model, packed.batch(batches.pop(0)), weights, kind, packed.complete)
        loss = float(terms[0].detach())
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or smoothed > GIVE_UP * best:
            break
        best = min(best, smoothed)
        rates.append(rate)
        losses.append(smoothed)
        torch.autograd.backward(terms[0], inputs=parameters)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or math.inf)
        optimizer.step()
    if not rates:
        raise InputError("the loss is not finite before the first step: check the labels")
    lowest = rates[losses.index(min(losses))]
    return RateSweep(rates, losses, float(f"{lowest / SAFETY:.2g}"))
