"""The model training starts from: a preset adapted to the data, or an earlier bundle's parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gace.errors import InputError, nearest
from gace.linear.config import PRESETS as LINEAR_PRESETS
from gace.linear.model import LinearACE
from gace.potential.graph_ace import GraphACE
from gace.potential.presets import PRESETS
from gace.randomness import derive_seed
from gace.structures.graph import sum_structures
from gace.training.batches import Packed
from gace.training.config import PotentialConfig, TrainConfig
from gace.training.prepare import Data
from gace.training.statistics import bonding_energies, inner_cutoffs, label_scale
from gace.training.transfer import extended, freeze

DEFAULT_PRESET = "2L-small"
DEFAULT_LINEAR_PRESET = "linear-medium"

# the data decide these, and a model that goes on from another keeps the other's
_FROM_DATA = ("elements", "mean_neighbours", "scale", "seed", "inner_cutoffs", "close_limits")

FROM_DATA = "auto"
"""In the place of ``inner_cutoffs``: what the training structures say."""

CALIBRATION_STRUCTURES = 16
"""Structures on which the internal scales of a new model are measured."""


def architecture(config: PotentialConfig) -> dict[str, Any]:
    """Arguments of :class:`GraphACE` that the configuration decides.

    Raises:
        InputError: no such preset, or an override that is no argument of the model.
    """
    name = config.preset or DEFAULT_PRESET
    if name not in PRESETS:
        raise InputError(f"no preset called '{name}'{nearest(name, [*PRESETS, *LINEAR_PRESETS])}")
    known = sorted(
        set(GraphACE.__init__.__kwdefaults__ or {}) - {"seed", "cutoff", "scale", "mean_neighbours"}
    )
    for key in config.overrides:
        if key not in known:
            raise _unknown(key, known)
    arguments = {"inner_cutoffs": FROM_DATA, **PRESETS[name], **config.overrides}
    inner = arguments.get("inner_cutoffs")
    if not (inner is None or inner == FROM_DATA or isinstance(inner, dict)):
        raise InputError(
            f"potential.overrides.inner_cutoffs: write lengths by pair (C-H: 0.9) or {FROM_DATA}, not {inner}"
        )
    if config.cutoff is not None:
        arguments["cutoff"] = config.cutoff
    return arguments


def _unknown(key: str, known: Sequence[str]) -> InputError:
    """An override that is no argument of the model; the cutoff has a place of its own."""
    hint = "; its place is potential.cutoff" if key == "cutoff" else nearest(key, known)
    return InputError(f"unknown key 'potential.overrides.{key}'{hint}")


def is_linear(config: TrainConfig) -> bool:
    """Whether a linear ACE is asked for, to be fitted by least squares."""
    preset = config.potential.preset or ""
    return config.training.optimizer == "least-squares" or preset.startswith("linear-")


def linear_architecture(config: TrainConfig) -> dict[str, Any]:
    """Arguments of :class:`LinearACE` that the configuration decides.

    Raises:
        InputError: a preset of another family, an override that is no argument, or a start model.
    """
    name = config.potential.preset or DEFAULT_LINEAR_PRESET
    if name not in LINEAR_PRESETS:
        raise InputError(
            f"training.optimizer least-squares fits linear models: potential.preset '{name}' is none; "
            f"choose {', '.join(LINEAR_PRESETS)}"
        )
    if config.potential.start_from is not None:
        raise InputError("a linear model has no use for potential.start_from: its fit is exact")
    for key in ("freeze", "new_elements"):
        if getattr(config.potential, key):
            raise InputError(f"a linear model has no use for potential.{key}: all of it is fitted anew")
    known = sorted(set(LinearACE.__init__.__kwdefaults__ or {}) - {"cutoff"})
    for key in config.potential.overrides:
        if key not in known:
            raise _unknown(key, known)
    arguments = {**LINEAR_PRESETS[name], **config.potential.overrides}
    if config.potential.cutoff is not None:
        arguments["cutoff"] = config.potential.cutoff
    return arguments


def make_linear(config: TrainConfig, data: Data) -> LinearACE:
    """A linear model whose coefficients are still zero; float64, on the CPU."""
    model = LinearACE(**linear_architecture(config), elements=data.elements)
    model.set_shift(bonding_energies(data.train, data.train_labels, data.isolated_atoms))
    return model


def choose_cutoff(settings: TrainConfig, data: Data) -> float:
    """Cutoff of the model to be trained, Å.

    Raises:
        InputError: it differs from the start model's.
    """
    if is_linear(settings):
        return float(linear_architecture(settings)["cutoff"])
    config = settings.potential
    if data.start is None:
        return float(architecture(config)["cutoff"])
    if config.cutoff is not None and config.cutoff != data.start.cutoff:
        raise InputError(
            f"potential.cutoff {config.cutoff:g} Å differs from the start model's {data.start.cutoff:g} Å"
        )
    return data.start.cutoff


def make_model(config: TrainConfig, data: Data, packed: Packed) -> GraphACE:
    """A new model scaled to the data, or a copy of the start model; float64, on the CPU.

    Raises:
        InputError: an unknown preset or override, or a start model of another architecture.
    """
    if data.start is not None:
        model = _continued(config.potential, data, packed)
        freeze(model, config.potential.freeze)
        if model.shift.requires_grad:
            model = _realigned(model, data, packed)
        return model
    if config.potential.freeze:
        raise InputError("potential.freeze needs potential.start_from: there is nothing worth keeping")
    if config.potential.new_elements:
        raise InputError(
            "potential.new_elements needs potential.start_from; the elements of a new model are those of its "
            "data, or potential.elements"
        )
    arguments = architecture(config.potential)
    if arguments.get("inner_cutoffs") == FROM_DATA:
        lengths, limits = inner_cutoffs(packed, data.elements, float(arguments["cutoff"]))
        arguments |= {"inner_cutoffs": lengths, "close_limits": limits}
    try:
        model = GraphACE(
            **arguments,
            elements=data.elements,
            mean_neighbours=max(packed.mean_neighbours, 1.0),
            scale=label_scale(data.train, data.train_labels, data.isolated_atoms),
            seed=derive_seed(config.seed, "parameters"),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"potential.overrides: {error}") from None
    model.set_shift(bonding_energies(data.train, data.train_labels, data.isolated_atoms))
    # evenly spread over the data, whose order depends on their content only
    chosen = torch.linspace(0, len(packed) - 1, min(len(packed), CALIBRATION_STRUCTURES)).round().long()
    model.calibrate(packed.batch(chosen).graph.to("cpu", torch.float64))
    return model


def _continued(config: PotentialConfig, data: Data, packed: Packed) -> GraphACE:
    """A copy of a member of the start model, after checking that the configuration means the same model."""
    assert data.start is not None  # the caller has asked
    start = data.start.members[config.member]
    if not isinstance(start, GraphACE):
        raise InputError(
            f"potential.start_from: member {config.member} of {config.start_from} is no graph ACE, but a "
            f"{type(start).__name__}: training cannot go on from it (pretraining.teacher can learn from it)"
        )
    given = start.hyperparameters()
    if config.preset is not None or config.overrides:
        base = PotentialConfig(
            preset=config.preset or DEFAULT_PRESET, cutoff=config.cutoff, overrides=config.overrides
        )
        asked = {key: value for key, value in architecture(base).items() if key not in _FROM_DATA}
        wanted = GraphACE(**asked, elements=data.start.elements).hyperparameters()
        for key, value in wanted.items():
            if (
                key not in _FROM_DATA
                and given[key] != value
                and (config.preset is not None or key in config.overrides)
            ):
                raise InputError(
                    f"the start model has {key} {given[key]}, the configuration asks for {value}"
                )
    model = GraphACE(**given).double()
    model.load_state_dict({name: tensor.detach().cpu() for name, tensor in start.state_dict().items()})
    if config.new_elements:
        model = extended(model, config.new_elements).double()
    return _with_inner_cutoffs(model, config.overrides, packed)


def _with_inner_cutoffs(model: GraphACE, overrides: Mapping[str, Any], packed: Packed) -> GraphACE:
    """The model with inner cutoffs as asked for; if it has any, none tighter than the data allow."""
    given = model.hyperparameters()
    asked = overrides.get("inner_cutoffs", FROM_DATA if given["inner_cutoffs"] else None)
    if not asked:
        return model
    limits = overrides.get("close_limits", {})
    if asked == FROM_DATA:
        asked, limits = inner_cutoffs(packed, model.elements, model.cutoff)
        known, before = given["inner_cutoffs"], given["close_limits"]
        asked = {pair: min(length, known.get(pair, length)) for pair, length in asked.items()}
        limits = {element: max(limit, before.get(element, limit)) for element, limit in limits.items()}
    changed = GraphACE(**{**given, "inner_cutoffs": asked, "close_limits": limits}).double()
    changed.load_state_dict(model.state_dict())
    return changed


def _realigned(model: GraphACE, data: Data, packed: Packed) -> GraphACE:
    """The model with its mean bonding energies moved to the new labels.

    Another level of theory differs first of all by a constant per element; what it takes to learn
    that from gradients would spoil the rest.
    """
    predicted = np.zeros(len(packed))
    working = copy.deepcopy(model).to(packed.device, packed.dtype)
    with torch.no_grad():
        for chosen, batch in packed.in_order(max_atoms=512):
            predicted[chosen.numpy()] = sum_structures(working(batch.graph).energy, batch.graph).cpu().numpy()
    rest = [
        label if label.energy is None else label._replace(energy=label.energy - value)
        for label, value in zip(data.train_labels, predicted, strict=True)
    ]
    correction = bonding_energies(data.train, rest, data.isolated_atoms)
    model.set_shift({one: model.shift[i].item() + correction[one] for i, one in enumerate(model.elements)})
    return model
