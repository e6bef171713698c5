"""The training loop: every step is a function of what the checkpoint holds, and of nothing else."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gace.errors import OutOfMemoryError, TrainingDivergedError
from gace.potential.graph_ace import GraphACE
from gace.training import checkpoint as saved
from gace.training.batches import Batch, Packed
from gace.training.compiled_step import compiled_step
from gace.training.config import TrainConfig
from gace.training.divergence import blame
from gace.training.division import Division
from gace.training.losses import Weights, loss_terms, penalty
from gace.training.metrics import MetricsFile
from gace.training.optimizer import make_optimizer
from gace.training.progress import ProgressBar
from gace.training.sampler import Sampler
from gace.training.schedule import Plateau, averaging_decay, check_weights, learning_rate, stage_weights
from gace.training.team import ALONE, Team
from gace.training.validation import validate

Ending = Literal["completed", "early_stopping", "max_minutes", "interrupted"]

# share of the training time that validation may take where the user leaves it open, and
# the cost of validating a structure relative to training on it
_VALIDATION_SHARE, _VALIDATION_COST = 0.05, 0.35


class Trainer:
    """Optimises a model on packed data; resumes from ``out/checkpoint``.

    Args:
        config: the whole configuration.
        model: on the device and in the precision of training.
        train: training data.
        validation: validation data, or None.
        out: folder of the run.
        fingerprint: identity of the run, stored with the checkpoint.
        started: ``time.monotonic()`` at the beginning of this process's share of the run.
        n_new: number of structures, at the front of ``train``, that every epoch visits; the others are
            replayed. Default: all.
        team: the processes that share the batches.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: GraphACE,
        train: Packed,
        validation: Packed | None,
        *,
        out: Path,
        fingerprint: dict[str, Any],
        started: float,
        n_new: int | None = None,
        team: Team = ALONE,
    ) -> None:
        check_weights(config.training, train)
        self.team = team
        self.config, self.settings = config, config.training
        self.model, self.train, self.validation = model, train, validation
        self.path, self.fingerprint = saved.checkpoint_path(out), fingerprint
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self._averages = [
            average
            for average, one in zip(self.averaged.parameters(), model.parameters(), strict=True)
            if one.requires_grad
        ]
        self.optimizer = make_optimizer(config, self.parameters)
        self.penalty = penalty(self.settings.loss, self.settings.huber_delta, self.settings.huber_force)
        self.has_stress = train.has_stress  # whether it counts, each stage says
        self.sampler = Sampler(train.sizes, config, len(train) if n_new is None else n_new)
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.total_epochs = self.settings.max_epochs
        if self.settings.max_steps is not None:
            self.total_epochs = max(1, round(self.settings.max_steps / self.steps_per_epoch))
        self.validate_every = self.settings.validate_every or self._validation_interval()
        self.score_weights = stage_weights(self.settings, 1.0, self.has_stress)
        self.compiled: Callable[[Batch, Weights], tuple[Tensor, list[Tensor]]] | None = compiled_step(
            config, model, train, self.sampler, self.penalty
        )
        self.division = Division(train, self.parameters)
        self.step, self.rate, self.plateau = 0, 0.0, Plateau()
        self.best: dict[str, Tensor] = {}
        self._records: list[Tensor] = []
        self._averaged_steps = 0
        self._order: tuple[int, list[Tensor]] = (-1, [])
        self._last_finite: dict[str, Tensor] = {}
        self._started, self._cpu_started = started, time.process_time()
        self._seconds_before, self._core_seconds_before = 0.0, 0.0
        self._agreed: float | None = None

    # ------------------------------------------------------------------ where we are

    @property
    def epochs_done(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Wall time of the run, interruptions left out; in a team the leader's at the last step."""
        if self._agreed is not None:
            return self._agreed
        return self._seconds_before + time.monotonic() - self._started

    @property
    def core_seconds(self) -> float:
        """CPU time of the run, resumed parts included."""
        return self._core_seconds_before + time.process_time() - self._cpu_started

    @property
    def out_of_time(self) -> bool:
        """Whether ``max_minutes`` have passed."""
        limit = self.settings.max_minutes
        return limit is not None and self.seconds >= 60 * limit

    def progress(self) -> float:
        """Share of the plan that is done: of the steps, or of the minutes if those run out first."""
        share = self.step / (self.total_epochs * self.steps_per_epoch)
        limit = self.settings.max_minutes
        return share if limit is None else min(1.0, max(share, self.seconds / (60 * limit)))

    def _validation_interval(self) -> int:
        """Epochs between validations such that they cost little; 20 in a run, one in ``patience`` or more."""
        if self.validation is None:
            return 1
        ratio = _VALIDATION_COST * len(self.validation) / len(self.train) / _VALIDATION_SHARE
        seldom = min(math.ceil(ratio), self.total_epochs // 20, self.settings.patience or self.total_epochs)
        return max(1, seldom)

    # ------------------------------------------------------------------ the loop

    def run(self, metrics: MetricsFile, bar: ProgressBar, interrupted: Callable[[], bool]) -> Ending:
        """Train from where the checkpoint left off until an ending.

        Raises:
            TrainingDivergedError: a loss or gradient is not finite.
        """
        self._remember()
        self._asked_to_stop(interrupted)
        last_checkpoint = self.seconds
        ending: Ending | None = None
        while ending is None:
            if self.epochs_done >= self.total_epochs:
                ending = "completed"
            elif self.plateau.exhausted(self.settings) and self.step % self.steps_per_epoch == 0:
                ending = "early_stopping"
            elif self.out_of_time and self.step > 0:
                ending = "max_minutes"
            else:
                try:
                    self._one_step()
                except OutOfMemoryError:
                    self._keep(metrics)
                    raise
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch(metrics, bar)
                if self._asked_to_stop(interrupted):
                    ending = "interrupted"
                elif self.seconds - last_checkpoint < self.settings.checkpoint_seconds:
                    continue
            self._check(self.epochs_done)
            self._keep(metrics)
            last_checkpoint = self.seconds
        self._core_seconds_before += self.team.total(self.core_seconds) - self.core_seconds
        return ending

    def _keep(self, metrics: MetricsFile) -> None:
        """The state after the last whole step, on disk."""
        metrics.flush()
        if self.team.leads:
            self.save()

    def _asked_to_stop(self, interrupted: Callable[[], bool]) -> bool:
        """Whether a signal has come; a team follows its leader in this and in what the clock says."""
        if self.team.size == 1:
            return interrupted()
        self._agreed = None
        stop, self._agreed = self.team.agree(interrupted(), self.seconds)
        return bool(stop)

    def _one_step(self) -> None:
        """One optimiser step on the next batch."""
        epoch, index = divmod(self.step, self.steps_per_epoch)
        progress = self.progress()
        weights = stage_weights(self.settings, progress, self.has_stress)
        rate = learning_rate(self.settings, self.step, progress, self.plateau.factor)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["size"]
        self.rate = rate
        indices = self._batches(epoch)[index]
        share = self.team.share(indices)
        batch = self.train.batch(share)
        weights = self._present(weights)
        own = self.team.weigh(weights, batch, indices)
        found = self.division(share, batch, own, self._differentiate, self.step)
        terms = self.team.add(weights, own, found, self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
        self.optimizer.step()
        self.step += 1
        if progress < 1 - self.settings.swa_fraction:
            self._averaged_steps = 0
        decay = averaging_decay(self.settings, self.step, self._averaged_steps)
        self._averaged_steps += 1
        torch._foreach_lerp_(self._averages, [one.detach() for one in self.parameters], 1 - decay)
        # stays on the device: looked at once per epoch
        self._records.append(torch.cat([terms.detach(), norm.detach().reshape(1)]))

    def _differentiate(self, batch: Batch, weights: Weights) -> Tensor:
        """Loss terms ``(4,)``; leaves the gradients at the parameters."""
        if self.compiled is not None and self.division.parts == 1:
            terms, gradients = self.compiled(batch, weights)
            for one, gradient in zip(self.parameters, gradients, strict=True):
                one.grad = gradient
            return terms
        self.optimizer.zero_grad()
        terms = loss_terms(self.model, batch, weights, self.penalty, self.train.complete)
        # naming the inputs spares the derivative by the bond vectors, which nobody asks for
        torch.autograd.backward(terms[0], inputs=self.parameters)
        return terms

    def _present(self, weights: Weights) -> Weights:
        """Weights without the terms that no structure has a label for."""
        energy, forces, stress = weights
        return Weights(energy * self.train.has_energy, forces * self.train.has_forces, stress)

    def _batches(self, epoch: int) -> list[Tensor]:
        """Indices of each batch of an epoch; sizes differ by one at most."""
        if self._order[0] != epoch:
            self._order = (epoch, self.sampler.batches(epoch))
        return self._order[1]

    def _check(self, epoch: int) -> Tensor | None:
        """The epoch's records ``(steps, 5)``, after making sure that all are finite."""
        if not self._records:
            return None
        records = torch.stack(self._records).cpu()
        broken = (~torch.isfinite(records).all(dim=1)).nonzero().flatten()
        if len(broken) == 0:
            return records
        first = int(broken[0])
        if self._last_finite:
            self.model.load_state_dict(self._last_finite)
        suspect = blame(self.model, self.train, self._batches(epoch)[first], self.score_weights, self.penalty)
        raise TrainingDivergedError(
            f"training diverged in epoch {epoch + 1}: loss or gradient is not finite for {suspect}; "
            "check its labels, or lower training.learning_rate"
        )

    def _remember(self) -> None:
        """Keep the parameters: from them a divergence in the next epoch is explained."""
        for name, one in self.model.state_dict().items():
            self._last_finite.setdefault(name, torch.empty_like(one)).copy_(one)

    def _end_epoch(self, metrics: MetricsFile, bar: ProgressBar) -> None:
        """Record the epoch that has just ended, and validate where it is time to."""
        epoch = self.epochs_done
        records = self._check(epoch - 1)
        assert records is not None  # an epoch has at least one step
        self._remember()
        loss, energy, forces, stress, norm = records.double().mean(0).tolist()
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": self.rate,
            "loss": loss,
            "terms": {"energy": energy, "forces": forces, "stress": stress},
            "gradient_norm": norm,
        }
        note = f"loss {loss:.3g}"
        last = epoch == self.total_epochs
        score = loss
        if self.validation is not None:
            if epoch % self.validate_every and not last:
                self._finish_line(metrics, bar, line, note)
                return
            found = validate(self.averaged, self.validation, self.score_weights)
            (score,) = self.team.agree(found["score"])
            line["validation"] = found
            if not math.isfinite(score):
                raise TrainingDivergedError(
                    f"training diverged: the validation error after epoch {epoch} is not finite; "
                    "lower training.learning_rate"
                )
            if found["forces"] is not None:
                note += f", validation forces {found['forces']['mae']:.1f} meV/Å"
        measure = () if self.validation is not None else self._weights_of_epoch
        if self.plateau.see(score, epoch, self.settings, measure) and self.validation is not None:
            self.best = {name: one.detach().clone() for name, one in self.averaged.state_dict().items()}
        self._finish_line(metrics, bar, line, note)

    @property
    def _weights_of_epoch(self) -> list[float]:
        """Of the loss, in the first and the last step of the epoch that has just ended."""
        whole = self.total_epochs * self.steps_per_epoch
        shares = (self.step - self.steps_per_epoch) / whole, (self.step - 1) / whole
        return [one for share in shares for one in stage_weights(self.settings, share, self.has_stress)]

    def _finish_line(self, metrics: MetricsFile, bar: ProgressBar, line: dict[str, Any], note: str) -> None:
        metrics.append(line)
        self._records.clear()
        bar.show(line["epoch"], note)

    def result(self) -> GraphACE:
        """The best averaged model on the validation data, or the last averaged one without such data."""
        if self.best:
            self.averaged.load_state_dict(self.best)
        return self.averaged

    # ------------------------------------------------------------------ state

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {
            **saved.with_prefix("model", self.model.state_dict()),
            **saved.with_prefix("averaged", self.averaged.state_dict()),
            **saved.with_prefix("best", self.best),
            **saved.optimizer_tensors(self.optimizer),
        }
        if self._records:
            tensors["records"] = torch.stack(self._records)
        plateau = {name: None if value == math.inf else value for name, value in asdict(self.plateau).items()}
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "plateau": plateau,
            "averaged_steps": self._averaged_steps,
            "parts": self.division.parts,
            "seconds": self.seconds,
            "core_seconds": self.core_seconds,
        }
        saved.save_checkpoint(self.path, tensors, state)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what :meth:`save` wrote."""
        self.model.load_state_dict(saved.without_prefix("model", tensors))
        self.averaged.load_state_dict(saved.without_prefix("averaged", tensors))
        self.best = saved.without_prefix("best", tensors)
        saved.restore_optimizer(self.optimizer, tensors)
        self._records = list(tensors["records"]) if "records" in tensors else []
        self.step, self._averaged_steps = state["step"], state.get("averaged_steps", 0)
        self.division.parts = max(self.division.parts, state.get("parts", 1))
        plateau: dict[str, Any] = {
            name: math.inf if value is None else value for name, value in state["plateau"].items()
        }
        self.plateau = Plateau(**plateau)
        self._seconds_before, self._core_seconds_before = state["seconds"], state["core_seconds"]
