"""The course of a run as a picture: an SVG made by hand, so that no plotting library is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx_ghn.finetuning.history import History

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 30, 40
MOST_POINTS = 600
"""A line of more points would look the same and be large."""

TRAIN, VALIDATION = "#4477aa", "#cc6677"

MOST_MARKS = 50
"""A line of more points has no marks."""

Point = tuple[float, float]
Line = tuple[str, str, Sequence[Point]]
"""Name, colour, and (step, value) of the points."""


def draw(history: History) -> str:
    """Loss by step, and below it the top-1 of validations where there are some.

    Returns:
        A complete SVG document.
    """
    train = _thinned(history.losses)
    losses = [(v.step, v.loss) for v in history.validations if v.loss is not None]
    panels: dict[str, list[Line]] = {
        "loss": [("training", TRAIN, train), ("validation", VALIDATION, losses)]
    }
    if history.validations:
        shares = [(v.step, 100 * v.top1) for v in history.validations]
        panels["top-1 in %"] = [("validation", VALIDATION, shares)]
    return chart(panels)


def chart(panels: Mapping[str, Sequence[Line]]) -> str:
    """Panels one below the other, each with lines over steps.

    Args:
        panels: By their titles, the lines of each.

    Returns:
        A complete SVG document.
    """
    height = HEIGHT * len(panels)
    body = "".join(
        f'<g transform="translate(0 {HEIGHT * index})">{_panel(title, lines)}</g>'
        for index, (title, lines) in enumerate(panels.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>{body}</svg>\n'
    )


def _thinned(losses: Sequence[float]) -> list[Point]:
    """Step and loss; of long runs the means of equal stretches."""
    stretch = max(1, math.ceil(len(losses) / MOST_POINTS))
    points = []
    for start in range(0, len(losses), stretch):
        part = losses[start : start + stretch]
        points.append((start + (len(part) + 1) / 2, sum(part) / len(part)))
    return points


def _panel(title: str, lines: Sequence[Line]) -> str:
    """Axes with ticks, a legend, and a line for each (name, colour, points)."""
    points = [point for _, _, line in lines for point in line]
    if not points:
        return ""
    xs = _ticks(0, max(1.0, *(x for x, _ in points)))
    ys = _ticks(min(y for _, y in points), max(y for _, y in points))

    def place(step: float, value: float) -> Point:
        across = (step - xs[0]) / (xs[-1] - xs[0])
        up = (value - ys[0]) / (ys[-1] - ys[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    parts = [_text(LEFT, 18, title, 'font-weight="bold"')]
    for tick in xs:
        x, y = place(tick, ys[0])
        parts.append(_text(x, y + 18, f"{tick:g}", 'text-anchor="middle"'))
    for tick in ys:
        x, y = place(xs[0], tick)
        parts.append(f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(x - 8, y + 4, f"{tick:g}", 'text-anchor="end"'))
    for index, (name, colour, line) in enumerate(lines):
        places = [place(*point) for point in line]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        if len(line) <= MOST_MARKS:
            parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in places]
        left = WIDTH - RIGHT - 90 * (len(lines) - index)
        parts.append(_text(left, 18, name, f'fill="{colour}"'))
    parts.append(_text(WIDTH / 2, HEIGHT - 6, "step", 'text-anchor="middle"'))
    return "".join(parts)


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{text}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, some five of them, that hold `low` and `high` between them."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / 4)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(number * step, 10) for number in range(first, last + 1)]
