"""The authors' program trained for so many CPU seconds on one core (`benchmarks/same_time.py`).

Run by a Python that has tensorpotential (academic licence), which gace does not need:
``VENV/bin/python benchmarks/tensorpotential_accuracy.py TRAIN TEST --seconds 300``. Prints one line of JSON.

Its own command trains, with the settings its template gives: Huber losses (0.01) of energy, forces and stress
weighted 16 : 32 : 128, Adam at 0.008 with a cosine to a twelfth, moving average 0.99, gradients clipped to
norm 1, compiled by XLA; the cutoff is 5 Å as for all. Compiling is not counted. The number of updates that
the cosine is laid out for comes from a first, short training, which is not counted either.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import contextlib  # noqa: E402
import io  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

warnings.filterwarnings("ignore")
# before TensorFlow, of whose two Keras versions it chooses one; and the presets fill its registry
import tensorpotential.potentials.presets  # noqa: E402, F401, I001
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import yaml  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import write  # noqa: E402
from peer_accuracy import Prediction, Sets, arguments, read_sets, report  # noqa: E402
from tensorpotential.calculator import TPCalculator  # noqa: E402
from tensorpotential.cli.gracemaker import main as gracemaker  # noqa: E402
from tensorpotential.potentials.registry import REGISTERED_PRESETS  # noqa: E402
from tensorpotential.tensorpot import TensorPotential  # noqa: E402

PRESETS = {"fs": "FS", "1l": "GRACE_1LAYER_latest", "2l": "GRACE_2LAYER_latest"}
CUTOFF = 5.0
RATE = 0.008
PROBED = 20
"""Steps of the first training, whose median tells the time of one."""


class SpentError(Exception):
    """The budget is spent."""


class Clock:
    """Processor time of the optimiser's steps but for those that compile a new shape."""

    def __init__(self, seconds: float, updates: int) -> None:
        self.seconds, self.updates = seconds, updates
        self.steps: list[float] = []
        self.done = 0
        self.potential: Any = None
        self._shapes: set[tuple[Any, ...]] = set()

    @property
    def spent(self) -> float:
        """CPU seconds counted."""
        return sum(self.steps)

    def timed(self, step: Any) -> Any:
        """The same step, clocked."""

        def run(*args: Any, **kwargs: Any) -> Any:
            shape = tuple(tuple(np.shape(one)) for one in tf.nest.flatten((args, kwargs)))
            started = time.process_time()
            result = step(*args, **kwargs)
            for value in tf.nest.flatten(result):
                np.asarray(value)
            if shape in self._shapes:
                self.steps.append(time.process_time() - started)
            self._shapes.add(shape)
            self.done += 1
            if self.spent > self.seconds or self.done >= self.updates:
                raise SpentError
            return result

        return run


def main() -> None:
    """Train, evaluate, print."""
    args = arguments(__doc__, model="1l-medium")
    family, size = args.model.split("-")
    sets = read_sets(args)
    tf.random.set_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _write_labels(sets)
        probe = _train(args, family, size, Clock(1e9, PROBED), 1000, sets.with_stress)
        planned = max(PROBED, round(args.seconds / statistics.median(probe.steps)))
        clock = _train(args, family, size, Clock(args.seconds, 10**9), planned, sets.with_stress)
        trained = clock.potential
        trained._swap_variables(trained._get_ema_optimizer())
        trained.model.save_model("saved")
        calculator = TPCalculator(model="saved", mode="diverse", pad_neighbors_fraction=0.3)

        def predict(atoms: Any) -> Prediction:
            atoms = atoms.copy()
            atoms.calc = calculator
            stress = atoms.get_stress(voigt=False) if sets.with_stress else None
            return float(atoms.get_potential_energy()), atoms.get_forces(), stress

        parameters = int(sum(np.prod(one.shape) for one in trained.model.variables_to_train))
        numbers = {"cpu_seconds": round(clock.spent), "updates": clock.done, "parameters": parameters}
        report(args, "tensorpotential", args.model, sets, predict, planned=planned, **numbers)


def _write_labels(sets: Sets) -> None:
    """Training structures with their labels as results, the shifts taken off."""
    labelled = []
    for atoms in sets.train:
        bare = atoms.copy()
        bare.info.clear()
        for name in [name for name in bare.arrays if name.startswith("REF_")]:
            del bare.arrays[name]
        results = {
            "energy": float(atoms.info["REF_energy"]) - sets.base(atoms),
            "forces": atoms.arrays["REF_forces"],
        }
        if sets.with_stress:
            results["stress"] = np.asarray(atoms.info["REF_stress"], dtype=float)
        bare.calc = SinglePointCalculator(bare, **results)
        labelled.append(bare)
    write("train.extxyz", labelled)
    write("valid.extxyz", labelled[:: max(1, len(labelled) // 10)])


def _train(args: Any, family: str, size: str, clock: Clock, planned: int, stress: bool) -> Clock:
    """Run its command until the clock is used up, the rate laid out for so many updates."""
    kwargs = dict(REGISTERED_PRESETS[PRESETS[family]]._settings[size])
    kwargs.pop("rcut", None)
    loss = {
        "energy": {"weight": 16, "type": "huber", "delta": 0.01},
        "forces": {"weight": 32, "type": "huber", "delta": 0.01},
    }
    if stress:
        loss["stress"] = {"weight": 128, "type": "huber", "delta": 0.01}
    here = Path.cwd()
    content = {
        "seed": args.seed,
        "cutoff": CUTOFF,
        "data": {
            "filename": str(here / "train.extxyz"),
            "test_filename": str(here / "valid.extxyz"),
            "reference_energy": 0,
            "save_dataset": False,
        },
        "potential": {
            "preset": PRESETS[family],
            "kwargs": kwargs,
            "scale": True,
            "param_dtype": "float32",
        },
        "fit": {
            "loss": loss,
            "target_total_updates": planned,
            "optimizer": "Adam",
            "opt_params": {"learning_rate": RATE, "use_ema": True, "ema_momentum": 0.99, "clipnorm": 1.0},
            "scheduler": "cosine_decay",
            "scheduler_params": {"minimum_learning_rate": RATE / 12},
            "batch_size": args.batch_size,
            "test_batch_size": 8,
            "jit_compile": True,
            "train_max_n_buckets": "auto",
            "test_max_n_buckets": 1,
            "checkpoint_freq": 1000000,
            "progressbar": False,
            "train_shuffle": True,
            "eval_init_stats": False,
        },
    }
    Path("input.yaml").write_text(yaml.safe_dump(content))
    decorate = TensorPotential.decorate_tf_function

    def decorated(self: Any, *args: Any, **kwargs: Any) -> None:
        decorate(self, *args, **kwargs)
        clock.potential = self
        self.distributed_train_step = clock.timed(self.distributed_train_step)

    TensorPotential.decorate_tf_function = decorated
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            gracemaker(["input.yaml"])
    except SpentError:
        pass
    except BaseException:
        print(said.getvalue()[-2000:], file=sys.stderr)
        raise
    finally:
        TensorPotential.decorate_tf_function = decorate
    return clock


if __name__ == "__main__":
    main()
