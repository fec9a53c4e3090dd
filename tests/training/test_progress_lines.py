"""The progress of a run as a reader finds it: cut, old, told twice; and as a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from training.progress_lines import ProgressLine, has_progress, read_progress, thinned, to_csv


def write(folder: Path, *lines: dict[str, Any] | str) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "progress.jsonl").write_text(text, encoding="utf-8")


def test_a_run_that_wrote_nothing_has_no_steps(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == [] and not has_progress(tmp_path)
    assert len(to_csv([]).splitlines()) == 1, "a table without rows still has its header"


def test_lines_of_an_older_version_are_read_and_what_they_lack_is_none(tmp_path: Path) -> None:
    write(
        tmp_path, {"step": 1, "steps": 9, "loss": 2, "learning_rate": 1e-4, "tokens": 40, "tokens_s": 9.5, "rss_mb": 812, "at": 5}
    )
    (line,) = read_progress(tmp_path)
    assert (line.stage, line.loss, line.rss_mb, line.grad_norm, line.cpu_watts) == ("sft", 2, 812, None, None)


def test_a_line_that_is_cut_or_is_no_step_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "loss": 2.0}, '{"step": 2, "loss": NaN}', "[]", {"loss": 1.0}, {"step": "3", "loss": 1.0})
    with (tmp_path / "progress.jsonl").open("ab") as file:
        file.write('{"step": 4, "loss": 1.0, "stage": "é'.encode()[:-1])
    assert [line.step for line in read_progress(tmp_path)] == [1]


def test_a_step_that_came_again_after_a_crash_is_the_later_one(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 9.0, "eval_loss": 8.0}, {"step": 2, "loss": 1.5})
    assert [(line.step, line.loss, line.eval_loss) for line in read_progress(tmp_path)] == [(1, 2.0, None), (2, 1.5, None)]


def test_the_table_has_one_header_with_units_and_an_empty_cell_for_what_was_not_read() -> None:
    lines = [
        ProgressLine(step=1, steps=2, loss=2.25, tokens_s=180.5, rss_mb=900.0, at=0.5),
        ProgressLine(step=2, steps=2, loss=1.5, eval_loss=1.75, stage="=cmd()"),
    ]
    head, *rows = csv.reader(to_csv(lines).splitlines())
    first, second = (dict(zip(head, row, strict=True)) for row in rows)
    assert {"tokens_per_s", "eta_s", "rss_mb", "cpu_percent", "cpu_watts", "cpu_energy_j", "at_utc"} <= set(head)
    assert (first["loss"], first["tokens_per_s"], first["eval_loss"]) == ("2.25", "180.5", "")
    assert first["at_utc"] == "1970-01-01T00:00:00.500+00:00"
    assert second["eval_loss"] == "1.75" and second["stage"] == "'=cmd()", "no spreadsheet runs it"


def test_thinning_keeps_the_first_and_the_last_step() -> None:
    lines = [ProgressLine(step=step, loss=1.0) for step in range(1, 102)]
    chosen = [line.step for line in thinned(lines, most=20)]
    assert len(chosen) <= 21 and chosen[0] == 1 and chosen[-1] == 101
    assert thinned([], most=20) == [] and len(thinned(lines[:3], most=20)) == 3
