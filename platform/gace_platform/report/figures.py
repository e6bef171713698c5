"""The figures of the report as plain plotly dictionaries; plotly draws them in the browser."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np

from gace_platform.report.record import CampaignRecord, Estimate, GenerationRecord, Predictions

Figure = dict[str, Any]

CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#F0E442")
"""Colours of unordered things, told apart by colour-blind readers too (after Okabe and Ito)."""
SYMBOLS = ("circle", "diamond-open", "cross-thin-open", "square-open", "triangle-up-open")
"""Symbols of the sets in the parity plots."""
RAMP = ("#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")
"""Colours of the generations, early to late."""
LEAST = 1e-4
"""Least σ or error shown on a logarithmic axis, eV/Å."""
MAX_POINTS = 1000
"""Points drawn for one generation in one plot."""

AXIS: Figure = {
    "gridcolor": "#e6e8eb",
    "zeroline": False,
    "linecolor": "#9aa2ab",
    "ticks": "outside",
    "automargin": True,
}
LAYOUT: Figure = {
    "template": None,
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1d2329"},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "#ffffff",
    "margin": {"l": 64, "r": 44, "t": 16, "b": 52},
    "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": "#9aa2ab"},
    "hoverlabel": {"align": "left"},
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
}


def figures(record: CampaignRecord) -> dict[str, Figure]:
    """Every figure that ``record`` has the data for, by the id of its place on the page."""
    made = {
        "learning": learning_curve(record.generations),
        "parity-energy": parity(record.predictions, "energy"),
        "parity-force": parity(record.predictions, "force"),
        "uncertainty": uncertainty(record.predictions),
        "cost": cost(record.generations),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def learning_curve(generations: Sequence[GenerationRecord]) -> Figure | None:
    """Force MAE over the number of labels, one line per set, with bootstrap intervals."""
    traces = []
    for position, name in enumerate(set_names(generations)):
        points = [
            (one, one.errors[name].forces_mae)
            for one in generations
            if name in one.errors and one.errors[name].forces_mae is not None
        ]
        if points:
            traces.append(_curve(name, points, CATEGORIES[position % len(CATEGORIES)]))
    if not traces:
        return None
    return {
        "data": traces,
        "layout": _layout("labels", "force MAE, meV/Å", yaxis={"rangemode": "tozero"}),
    }


def _curve(name: str, points: Sequence[tuple[GenerationRecord, Estimate | None]], colour: str) -> Figure:
    known = [(one, error) for one, error in points if error is not None]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": text(name),
        "x": [one.n_labels for one, _ in known],
        "y": [error.value for _, error in known],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [0 if e.high is None else max(0.0, e.high - e.value) for _, e in known],
            "arrayminus": [0 if e.low is None else max(0.0, e.value - e.low) for _, e in known],
            "thickness": 1.3,
            "width": 4,
        },
        "text": [
            f"generation {one.generation}, {one.errors[name].n_structures} structures" for one, _ in known
        ],
        "hovertemplate": "%{y:.1f} meV/Å at %{x} labels<br>%{text}",
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 8},
    }


def parity(predictions: Sequence[Predictions], quantity: str) -> Figure | None:
    """Predicted against reference ``energy`` or ``force``: a colour per generation, a symbol per set."""
    shown = [
        one
        for one in sorted(predictions, key=lambda one: one.generation)
        if getattr(one, f"{quantity}_reference")
    ]
    if not shown:
        return None
    last = shown[-1].generation
    symbols = dict(zip(dict.fromkeys(one.set for one in shown), cycle(SYMBOLS), strict=False))
    traces: list[Figure] = []
    ends: list[float] = []
    for position, one in enumerate(shown):
        reference, predicted = getattr(one, f"{quantity}_reference"), getattr(one, f"{quantity}_predicted")
        keep = thin(len(reference))
        x, y = [reference[i] for i in keep], [predicted[i] for i in keep]
        ends += [min(x), max(x)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"generation {one.generation}",
                # one entry of the legend switches all sets of a generation
                "legendgroup": f"generation {one.generation}",
                "showlegend": position == 0 or shown[position - 1].generation != one.generation,
                "x": x,
                "y": y,
                "marker": _marker(shade(one.generation, last), symbols[one.set], 0.7),
                "hovertemplate": f"{text(one.set)}<br>reference %{{x:.4f}}<br>predicted %{{y:.4f}}",
            }
        )
    traces += [_key(name, symbol) for name, symbol in symbols.items()]
    traces.append(_line(min(ends), max(ends), "ideal"))
    unit = "eV/atom" if quantity == "energy" else "eV/Å"
    return {"data": traces, "layout": _layout(f"reference, {unit}", f"predicted, {unit}")}


def _key(name: str, symbol: str) -> Figure:
    """An entry of the legend without points: which symbol stands for a set."""
    marker = _marker("#777d84", symbol, 1.0)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text(name),
        "x": [None],
        "y": [None],
        "marker": marker,
    }


def _marker(colour: str, symbol: str, opacity: float) -> Figure:
    return {"color": colour, "symbol": symbol, "size": 6, "opacity": opacity}


def uncertainty(predictions: Sequence[Predictions]) -> Figure | None:
    """|error| of force components over their σ, with the lines |error| = σ and |error| = 2σ.

    Shows each set of the latest generation that has error bars.
    """
    having = [one for one in predictions if one.force_std]
    if not having:
        return None
    latest = max(one.generation for one in having)
    traces: list[Figure] = []
    ends: list[float] = []
    for position, one in enumerate(part for part in having if part.generation == latest):
        keep = thin(len(one.force_reference))
        std = np.array([one.force_std[i] for i in keep])
        error = np.array([abs(one.force_predicted[i] - one.force_reference[i]) for i in keep])
        # a logarithmic axis has no place for zero: such points lie at the edge
        std, error = np.maximum(std, LEAST), np.maximum(error, LEAST)
        ends += [float(std.min()), float(std.max())]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"generation {latest} · {text(one.set)}",
                "x": np.round(std, 6).tolist(),
                "y": np.round(error, 6).tolist(),
                "marker": {"color": CATEGORIES[position % len(CATEGORIES)], "size": 5, "opacity": 0.5},
                "hovertemplate": "σ %{x:.3g} eV/Å<br>|error| %{y:.3g} eV/Å",
            }
        )
    traces += [
        _line(min(ends), max(ends), "|error| = σ"),
        _line(min(ends), max(ends), "|error| = 2 σ", 2.0, "dot"),
    ]
    logarithmic = {"type": "log", "exponentformat": "none", "dtick": "D2"}
    return {
        "data": traces,
        "layout": _layout("predicted σ, eV/Å", "|error|, eV/Å", xaxis=logarithmic, yaxis=logarithmic),
    }


def cost(generations: Sequence[GenerationRecord]) -> Figure | None:
    """Core seconds by step, stacked for each generation."""
    steps = list(dict.fromkeys(step for one in generations for step in one.core_seconds))
    if not steps:
        return None
    traces = [
        {
            "type": "bar",
            "name": text(step),
            "x": [f"generation {one.generation}" for one in generations],
            "y": [one.core_seconds.get(step, 0.0) for one in generations],
            "marker": {"color": CATEGORIES[position % len(CATEGORIES)]},
            "hovertemplate": "%{y:.0f} core s",
        }
        for position, step in enumerate(steps)
    ]
    return {"data": traces, "layout": _layout("", "core seconds") | {"barmode": "stack"}}


def set_names(generations: Sequence[GenerationRecord]) -> list[str]:
    """Names of all sets with errors, in the order in which they first appear."""
    return list(dict.fromkeys(name for one in generations for name in one.errors))


def shade(generation: int, last: int) -> str:
    """Colour of a generation, the last being darkest."""
    position = 1.0 if last == 0 else generation / last
    return RAMP[round(position * (len(RAMP) - 1))]


def thin(n: int) -> list[int]:
    """Evenly spaced indices, at most ``MAX_POINTS`` of ``n``."""
    if n <= MAX_POINTS:
        return list(range(n))
    return np.linspace(0, n - 1, MAX_POINTS).round().astype(int).tolist()


def text(name: str) -> str:
    """A name as plotly shows it literally: plotly reads tags in its labels."""
    return html.escape(name)


def _line(low: float, high: float, name: str, factor: float = 1.0, dash: str = "dash") -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [low, high],
        "y": [factor * low, factor * high],
        "line": {"color": "#444b53", "width": 1.2, "dash": dash},
        "hoverinfo": "skip",
    }


def _layout(x: str, y: str, xaxis: Figure | None = None, yaxis: Figure | None = None) -> Figure:
    return {
        **LAYOUT,
        "xaxis": {**AXIS, "title": {"text": x}, **(xaxis or {})},
        "yaxis": {**AXIS, "title": {"text": y}, **(yaxis or {})},
    }


__all__ = ["figures"]
