"""The charts of a training: what is drawn, what is left out, and what is said."""

from __future__ import annotations

import re
from typing import Any

from assistant.web.metric_charts import HELD_OUT, MOST_POINTS, TRAINING, charts_html, losses
from training.progress_lines import ProgressLine


def steps(count: int, **values: Any) -> list[ProgressLine]:
    return [ProgressLine(step=step, loss=2 - step / count, **values) for step in range(1, count + 1)]


def titles(html: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?)<b>", html)


def test_a_night_without_a_step_is_a_sentence() -> None:
    assert charts_html([], run_id="r0001") == '<p class="ns-empty">No training step was written yet.</p>'
    assert losses([]) == {}


def test_only_what_could_be_read_is_drawn() -> None:
    plain = charts_html(steps(5, tokens_s=180.0, rss_mb=2048.0), run_id="r0001")
    assert titles(plain) == ["Speed", "Memory"] and "180 tokens/s" in plain and "2 GB" in plain
    rich = charts_html(steps(5, gpu_percent=50.0, cpu_watts=28.0, cpu_energy_j=3600.0, gpu_energy_j=1.0), run_id="r0001")
    assert titles(rich) == ["GPU", "Energy, CPU", "Energy, GPU"] and "28 W at last" in rich


def test_energy_is_the_sum_so_far_in_watt_hours() -> None:
    html = charts_html(steps(5, cpu_energy_j=3600.0), run_id="r0001")
    assert "<b>5 Wh</b>" in html and "from 1 to 5" in html


def test_a_single_step_has_its_numbers_and_no_line() -> None:
    html = charts_html(steps(1, tokens_s=180.0), run_id="r0001")
    assert "180 tokens/s" in html and "<svg" not in html


def test_a_curve_stays_inside_of_its_picture_and_says_where_it_leads() -> None:
    lines = [ProgressLine(step=step, loss=1.0, cpu_percent=value) for step, value in ((1, 50.0), (2, 104.0), (3, 0.0))]
    html = charts_html(lines, run_id="r0001")
    assert 'points="0.0,24.0 100.0,0.0 200.0,48.0"' in html
    assert "CPU over steps 1 to 3: training from 50 to 0" in html


def test_the_losses_of_stages_and_of_held_out_rows_are_curves_of_their_own() -> None:
    lines = [*steps(3), ProgressLine(step=4, loss=0.69, stage="dpo"), ProgressLine(step=5, loss=0.6, stage="dpo", eval_loss=0.7)]
    curves = losses(lines)
    assert list(curves) == [TRAINING, f"{TRAINING} (dpo)", HELD_OUT]
    assert curves[f"{TRAINING} (dpo)"] == [(4, 0.69), (5, 0.6)] and curves[HELD_OUT] == [(5, 0.7)]


def test_a_long_night_is_thinned_and_keeps_its_last_step() -> None:
    (points,) = losses(steps(5 * MOST_POINTS)).values()
    assert len(points) <= MOST_POINTS + 1 and points[-1][0] == 5 * MOST_POINTS


def test_a_run_id_cannot_break_out_of_the_link() -> None:
    assert "<script" not in charts_html(steps(2, tokens_s=1.0), run_id='"><script>')
