"""A training as small charts: pure functions from its steps to inline SVG, in the page's colours and with the words beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from training.progress_lines import ProgressLine, thinned

MOST_POINTS = 300
"""More points than this make a curve slower, not clearer."""
WIDTH, HEIGHT = 200, 48
TRAINING, HELD_OUT = "training", "held-out rows"
COLOURS = {TRAINING: "#3f78b5", HELD_OUT: "#c77700", "training (dpo)": "#2f8f57", "training (kto)": "#2f8f57"}
"""The colours of the losses, which stand out on white and on black."""

Point = tuple[int, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve: its points (step, value), what it shows, and how it is said; "" says nothing."""

    points: Sequence[Point]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One small chart: curves from 0 to `top` (None: the highest value), the newest value in `unit`, a remark under it."""

    title: str
    curves: Sequence[Curve]
    unit: str = ""
    top: float | None = None
    remark: str = ""


def losses(lines: Sequence[ProgressLine]) -> dict[str, list[Point]]:
    """Return the curves of the loss by name: one a stage, and the held-out rows where they were measured."""
    curves: dict[str, list[Point]] = {}
    for stage in dict.fromkeys(line.stage for line in lines):
        name = TRAINING if stage == "sft" else f"{TRAINING} ({stage})"
        curves[name] = [(line.step, line.loss) for line in lines if line.stage == stage]
    curves[HELD_OUT] = [(line.step, line.eval_loss) for line in lines if line.eval_loss is not None]
    return {name: thinned(points, most=MOST_POINTS) for name, points in curves.items() if points}


def charts_html(lines: Sequence[ProgressLine], *, run_id: str) -> str:
    """Return the small charts of a training and the link to its figures, or a sentence where there are none yet."""
    if not lines:
        return '<p class="ns-empty">No training step was written yet.</p>'
    drawn = "".join(_chart(chart) for chart in charts(lines) if any(curve.points for curve in chart.curves))
    link = (
        f'<p class="ns-after-charts"><a class="ns-download" href="/admin/runs/{escape(run_id)}/metrics.csv" download>'
        f"Download CSV</a></p>"
    )
    return f'<div class="ns-charts">{drawn}</div>{link}'


def charts(lines: Sequence[ProgressLine]) -> list[Chart]:
    """Return what a training can show beside its loss; a chart of what could not be read has no points."""
    last = lines[-1]
    free = f"{_said(last.available_mb / 1024)} GB left on the machine" if last.available_mb is not None else ""
    return [
        Chart(title="Learning rate", curves=(_curve(lines, "learning_rate"),)),
        Chart(title="Gradient norm", curves=(_curve(lines, "grad_norm"),)),
        Chart(title="Speed", unit="tokens/s", curves=(_curve(lines, "tokens_s"),)),
        Chart(
            title="CPU",
            unit="%",
            top=100.0,
            curves=(_curve(lines, "cpu_percent", name="training"), _curve(lines, "machine_percent", name="everything")),
        ),
        Chart(title="Memory", unit="GB", curves=(_curve(lines, "rss_mb", scale=1 / 1024),), remark=free),
        Chart(title="Free disk", unit="GB", curves=(_curve(lines, "disk_free_mb", scale=1 / 1024),)),
        Chart(title="GPU", unit="%", top=100.0, curves=(_curve(lines, "gpu_percent"),)),
        Chart(title="GPU memory", unit="GB", curves=(_curve(lines, "gpu_mb", scale=1 / 1024),)),
        Chart(title="Energy, CPU", unit="Wh", curves=(_energy(lines, "cpu_energy_j"),), remark=_watts(last.cpu_watts)),
        Chart(title="Energy, GPU", unit="Wh", curves=(_energy(lines, "gpu_energy_j"),), remark=_watts(last.gpu_watts)),
    ]


def _curve(lines: Iterable[ProgressLine], field: str, *, scale: float = 1.0, name: str = "") -> Curve:
    points = [(line.step, getattr(line, field)) for line in lines]
    return Curve(points=[(step, value * scale) for step, value in points if value is not None], name=name)


def _energy(lines: Iterable[ProgressLine], field: str) -> Curve:
    """Return the sum so far: each step tells what was spent since the one before."""
    spent = _curve(lines, field, scale=1 / 3600).points
    sums = accumulate(value for _, value in spent)
    return Curve(points=[(step, total) for (step, _), total in zip(spent, sums, strict=True)])


def _watts(watts: float | None) -> str:
    return f"{_said(watts)} W at last" if watts is not None else ""


def _chart(chart: Chart) -> str:
    curves = [Curve(points=thinned(curve.points, most=MOST_POINTS), name=curve.name) for curve in chart.curves if curve.points]
    newest = curves[0].points[-1][1]
    remark = chart.remark or ", ".join(
        f"{curve.name} {_said(curve.points[-1][1])} {chart.unit}" for curve in curves if curve.name
    )
    return (
        f'<figure class="ns-chart"><figcaption>{escape(chart.title)}'
        f"<b>{_said(newest)}{escape(f' {chart.unit}' if chart.unit else '')}</b></figcaption>"
        f"{_svg(chart, curves)}<small>{escape(remark) or _range(curves[0].points)}</small></figure>"
    )


def _range(points: Sequence[Point]) -> str:
    values = [value for _, value in points]
    return f"{_said(min(values))} to {_said(max(values))}"


def _svg(chart: Chart, curves: Sequence[Curve]) -> str:
    steps = [step for curve in curves for step, _ in curve.points]
    left, right = min(steps), max(steps)
    if left == right:
        return ""
    top = chart.top or max(value for curve in curves for _, value in curve.points) or 1.0

    def place(point: Point) -> str:
        across, up = (point[0] - left) / (right - left), min(1.0, max(0.0, point[1] / top))
        return f"{WIDTH * across:.1f},{HEIGHT * (1 - up):.1f}"

    drawn = "".join(
        f'<polyline class="ns-curve{number}" points="{" ".join(map(place, curve.points))}"/>'
        for number, curve in enumerate(curves, start=1)
    )
    said = "; ".join(f"{curve.name} from {_said(curve.points[0][1])} to {_said(curve.points[-1][1])}" for curve in curves)
    label = escape(f"{chart.title} over steps {left} to {right}: {said.strip()}")
    return f'<svg viewBox="0 -1 {WIDTH} {HEIGHT + 2}" preserveAspectRatio="none" role="img" aria-label="{label}">{drawn}</svg>'


def _said(value: float) -> str:
    """Return a number as it is read: three digits that count, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
