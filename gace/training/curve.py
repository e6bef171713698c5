"""The learning curve of a run: a table for the terminal, a figure without any plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 640, 400, 60
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart by colour-blind eyes, too."""
MOST_POINTS = 600


class Line(NamedTuple):
    """One line of a figure; values that are not positive are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def lines_of(metrics: Sequence[dict[str, Any]]) -> list[Line]:
    """Loss and validation errors over the epochs of a metrics file."""
    found = [Line("loss", [one["epoch"] for one in metrics], [one["loss"] for one in metrics])]
    for key, name in (
        ("energy_per_atom", "validation energy MAE, meV/atom"),
        ("forces", "validation forces MAE, meV/Å"),
        ("stress", "validation stress MAE, meV/Å³"),
    ):
        own = [one for one in metrics if (one.get("validation") or {}).get(key)]
        if own:
            found.append(
                Line(name, [one["epoch"] for one in own], [one["validation"][key]["mae"] for one in own])
            )
    return found


def table(metrics: Sequence[dict[str, Any]], rows: int = 8) -> str:
    """The learning curve in a few lines of text, epochs spaced by factors."""
    lines = lines_of(metrics)
    last = len(metrics)
    picked = sorted({round(last ** (k / (rows - 1))) for k in range(rows)}) if last else []
    text = ["epoch  " + "  ".join(line.name for line in lines)]
    for number in picked:
        epoch = metrics[number - 1]["epoch"]
        cells = []
        for line in lines:
            earlier = [y for x, y in zip(line.x, line.y, strict=True) if x <= epoch]
            cells.append(f"{earlier[-1]:.4g}".rjust(len(line.name)) if earlier else "–".rjust(len(line.name)))
        text.append(f"{epoch:5d}  " + "  ".join(cells))
    return "\n".join(text)


def svg(lines: Sequence[Line], x_label: str, title: str, mark: float | None = None) -> str:
    """A figure with logarithmic axes.

    Args:
        lines: what to draw.
        x_label: below the horizontal axis.
        title: above the figure.
        mark: where to draw a vertical line.
    """
    points = [
        (line.name, [(x, y) for x, y in zip(line.x, line.y, strict=True) if x > 0 and 0 < y < math.inf])
        for line in lines
    ]
    xs = [x for _, own in points for x, _ in own] or [1.0]
    ys = [y for _, own in points for _, y in own] or [1.0]
    (x0, x1), (y0, y1) = _range(xs), _range(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x0) / (x1 - x0)
        up = (math.log10(y) - y0) / (y1 - y0)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    parts += _grid((x0, x1), (y0, y1), place)
    for number, (name, own) in enumerate(points):
        colour = COLOURS[number % len(COLOURS)]
        thin = own[:: max(1, len(own) // MOST_POINTS)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in thin))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        where = f'x="{WIDTH - MARGIN}" y="{MARGIN - 6 + 16 * number}" text-anchor="end"'
        parts.append(f'<text {where} fill="{colour}">{escape(name)}</text>')
    if mark is not None:
        a, _ = place(mark, 10**y0)
        parts.append(
            f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}" '
            'stroke="black" stroke-dasharray="4 3"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Decades that hold the values, never of no width."""
    low, high = math.log10(min(values)), math.log10(max(values))
    return (low, high) if high - low > 0.1 else (low - 0.5, high + 0.5)


def _grid(x: tuple[float, float], y: tuple[float, float], place: Any) -> list[str]:
    """Axes with a tick at every power of ten inside, at the ends where there is none."""
    parts = [
        f'<path d="M{MARGIN},{MARGIN} V{HEIGHT - MARGIN} H{WIDTH - MARGIN}" fill="none" stroke="black"/>'
    ]
    for (low, high), across in ((x, True), (y, False)):
        decades = list(range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1))
        ticks = [10.0**power for power in decades] if len(decades) > 1 else [10**low, 10**high]
        for value in ticks:
            a, b = place(value, 10 ** y[0]) if across else place(10 ** x[0], value)
            where = (
                f'x="{a:.1f}" y="{b + 16:.1f}" text-anchor="middle"'
                if across
                else f'x="{a - 6:.1f}" y="{b + 4:.1f}" text-anchor="end"'
            )
            parts.append(f"<text {where}>{value:.3g}</text>")
    return parts
