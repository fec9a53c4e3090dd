"""Small charts as inline SVG: bars with intervals, and lines. They take the page's colours, widths and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

BAR_HEIGHT = 18
LINE_HEIGHT = 220
MARKS = 4
"""Lines across a chart of values over steps."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: who, the value in [0, 1] with its interval, and over how many items."""

    name: str
    css: str
    mean: float
    low: float
    high: float
    items: int


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Return a group of bars from 0 to 1, each with its interval as a line over its end; the words stand beside the picture."""
    body = "".join(_bar(row) for row in rows)
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{body}</figure>'


def _bar(row: Bar) -> str:
    end, low, high = (100 * min(1.0, max(0.0, value)) for value in (row.mean, row.low, row.high))
    middle = BAR_HEIGHT / 2
    svg = (
        f'<svg width="100%" height="{BAR_HEIGHT}" role="img" aria-label="{escape(row.name)}: {row.mean:.2f}, '
        f'95 % interval {row.low:.2f} to {row.high:.2f}">'
        f'<rect class="track" width="100%" height="{BAR_HEIGHT}" rx="3"/>'
        f'<rect class="{row.css}" width="{end:.2f}%" height="{BAR_HEIGHT}" rx="3"/>'
        f'<line class="interval" x1="{low:.2f}%" x2="{high:.2f}%" y1="{middle:g}" y2="{middle:g}"/>'
        + "".join(
            f'<line class="interval" x1="{at:.2f}%" x2="{at:.2f}%" y1="{middle - 4:g}" y2="{middle + 4:g}"/>'
            for at in (low, high)
        )
        + "</svg>"
    )
    return (
        f'<div class="bar"><span class="who">{escape(row.name)}</span>{svg}<span class="value">{row.mean:.2f} '
        f"<small>({row.low:.2f} to {row.high:.2f}; {row.items})</small></span></div>"
    )


def lines(title: str, series: Mapping[str, Sequence[Point]], *, x_name: str) -> str:
    """Return curves over one axis, "" without two points to join; `series` maps a curve's name to its points (x, y)."""
    drawn = {name: [point for point in points if all(map(_finite, point))] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if len(points) > 1}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    left, right = min(xs), max(xs)
    bottom, top = min(0.0, *ys), max(ys) or 1.0

    def place(point: Point) -> str:
        across = (point[0] - left) / ((right - left) or 1)
        up = (point[1] - bottom) / ((top - bottom) or 1)
        return f"{1000 * across:.1f},{1000 * (1 - up):.1f}"

    grid = "".join(
        f'<line class="grid" x1="0" x2="1000" y1="{1000 * at / MARKS:g}" y2="{1000 * at / MARKS:g}"/>' for at in range(5)
    )
    curves = "".join(
        f'<polyline class="curve curve{number}" points="{" ".join(map(place, points))}"/>'
        for number, points in enumerate(drawn.values(), start=1)
    )
    said = "; ".join(f"{name}: from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in drawn.items())
    keys = "".join(
        f'<span><svg width="18" height="10" aria-hidden="true"><line class="curve curve{number}" x1="0" x2="18" y1="5" y2="5"/>'
        f"</svg> {escape(name)}</span>"
        for number, name in enumerate(drawn, start=1)
    )
    scale = "".join(f"<span>{top - (top - bottom) * at / MARKS:.2f}</span>" for at in range(MARKS + 1))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><div class="lines"><div class="scale">{scale}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" height="{LINE_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}; {escape(said)}">{grid}{curves}</svg>'
        f'<div class="steps"><span>{left:g}</span><span>{escape(x_name)}</span><span>{right:g}</span></div></div>'
        f'<p class="keys">{keys}</p></figure>'
    )


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
