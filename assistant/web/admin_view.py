"""What the admin page shows, as HTML and rows: pure functions over the records of the stores. Every value is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from assistant.web.messages import version_name, when
from feedback.audit import AuditEntry
from feedback.turns import FailedAnswer
from training.progress_lines import ProgressLine
from training.registry import AdapterRow
from training.runs import Run

VERDICTS = {
    "PROMOTE": "the candidate was measurably better, and was put into service",
    "HOLD": "the data could not tell, so nothing changed",
    "REJECT": "the candidate was worse, so nothing changed",
}
Cell = tuple[str, str]  # class, HTML


def duration(start: str, end: str | None) -> str:
    """Return the time between two stored times, roughly; until now when there is no end."""
    last = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return span((last - datetime.fromisoformat(start)).total_seconds())


def span(seconds: float) -> str:
    """Return a length of time, roughly: "40 s", "12 min", "1 h 5 min"."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def facts_html(facts: Iterable[tuple[str, str, str]]) -> str:
    """Return the few facts at the top: (name, value, small print)."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{f'<small>{escape(small)}</small>' if small else ''}</dd></div>"
        for name, value, small in facts
    )
    return f'<dl class="ns-facts">{items}</dl>'


def last_night_html(last: Run | None, *, examples: int, refused: int) -> str:
    """Return the last night's verdict and why."""
    if last is None:
        return panel("Last night", '<p class="ns-empty">No night has run yet. Rate and correct some answers, then start one.</p>')
    if last.outcome == "succeeded":
        verdict = last.verdict or "HOLD"
        head = f'<p><span class="ns-{verdict}">{verdict}</span>: {escape(VERDICTS[verdict])}.</p>'
    else:
        outcome = escape((last.outcome or "").capitalize())
        head = f'<p><span class="ns-failed-outcome">{outcome}</span>: what serves did not change.</p>'
    learned = f", {plural(examples, 'example')}, {plural(refused, 'rated answer')} left out" if examples or refused else ""
    small = f"{last.id}, {when(last.created_at)}, took {duration(last.created_at, last.finished_at)}{learned}"
    reason = f"<p>{escape(last.reason)}</p>" if last.reason else ""
    return panel("Last night", f'{head}{reason}<p class="ns-empty">{escape(small)}</p>')


def running_night_html(
    running: Run | None, progress: Sequence[ProgressLine], *, next_night: str, examined: tuple[int, int] | None = None
) -> str:
    """Return how far the running night is, or when the next one starts; `examined`: how many answers, of how many."""
    if running is None:
        return panel("Tonight", f"<p>No night is running. {escape(next_night)}</p>")
    text = f"{running.id} is {running.state}, since {duration(running.created_at, None)}."
    if progress and running.state == "training":
        newest = progress[-1]
        text += f" Step {newest.step} of {newest.steps or '?'}, loss {newest.loss:.3f}"
        text += f", about {span(newest.eta_s)} left" if newest.eta_s is not None else ""
        text += f", {newest.tokens_s:.0f} tokens/s." if newest.tokens_s else "."
    elif running.state == "training":
        text += " No step is done yet: the curves appear with the first ones."
    if examined and running.state == "examining":
        text += f" {examined[0]:,} of {examined[1]:,} answers written."
    return panel(
        "Tonight", f'<p role="status">{escape(text)}</p><p class="ns-empty">Started by {escape(running.requested_by)}.</p>'
    )


def read_examination(file: Path) -> tuple[int, int] | None:
    """Return how many answers an examination has written, and of how many; None when it has not begun, or is writing this."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return int(data["done"]), int(data["total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ratings_html(count: int) -> str:
    """Return the heading of the ratings by day, with a sentence in the place of an empty plot."""
    empty = '<p class="ns-empty">Nobody has rated or corrected an answer yet.</p>' if not count else ""
    return panel("Ratings and corrections by day", empty)


def runs_html(runs: Sequence[Run]) -> str:
    """Return the table of nights, newest first."""
    rows = [
        (
            ("ns-tight", _with_report(run)),
            tight(when(run.created_at)),
            tight(duration(run.created_at, run.finished_at) if run.finished_at else run.state),
            ("ns-tight", _outcome(run)),
            tight(run.candidate or ""),
            cell(run.reason),
        )
        for run in runs
    ]
    return panel("Nights", table(("Run", "Started", "Took", "Result", "Adapter", "Why"), rows, empty="No night has run yet."))


def adapters_html(rows: Sequence[AdapterRow], *, serving: str) -> str:
    """Return the table of adapters, newest first, the base model last."""
    cells = [
        (
            tight(row.version + (" (in service)" if row.version == serving else "")),
            tight(row.status),
            tight(row.run_id or "imported"),
            tight(when(row.created_at)),
            tight(when(row.promoted_at) or "never"),
        )
        for row in reversed(rows)
    ]
    base = tight("base" + (" (in service)" if serving == "base" else ""))
    cells.append((base, tight("the model without an adapter"), tight(""), tight(""), tight("")))
    return panel("Adapters", table(("Version", "Gate", "Run", "Published", "Last promoted"), cells, empty=""))


def errors_html(errors: Sequence[FailedAnswer], refused: Sequence[AuditEntry]) -> str:
    """Return the table of failed answers and of adapters that could not be put into service, newest first."""
    failed = [(each.at, each.user_name, each.question, each.adapter, each.error) for each in errors]
    swaps = [(each.at, each.actor, "(a swap)", str(each.detail["version"]), str(each.detail["reason"])) for each in refused]
    rows = [
        (tight(when(at)), tight(who), cell(question), tight(version_name(adapter)), cell(error))
        for at, who, question, adapter, error in sorted([*failed, *swaps], reverse=True)
    ]
    empty = "No answer has failed, and no adapter was refused."
    return panel("Last errors", table(("When", "Who", "Question", "Adapter", "Error"), rows, empty=empty))


def _with_report(run: Run) -> str:
    """Return a run's id, which leads to the report of its examination where there was one."""
    number = escape(run.id)
    return f'<a href="/admin/runs/{number}/report" title="Report of the examination">{number}</a>' if run.candidate else number


def _outcome(run: Run) -> str:
    if run.outcome is None:
        return "running"
    if run.outcome != "succeeded":
        css = "" if run.outcome in ("missed", "cancelled") else ' class="ns-failed-outcome"'
        return f"<span{css}>{escape(run.outcome)}</span>"
    return f'<span class="ns-{run.verdict}">{escape(run.verdict or "done")}</span>'


def plural(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def cell(text: str) -> Cell:
    """Return a cell of text."""
    return "", escape(text)


def tight(text: str) -> Cell:
    """Return a cell of text that is not broken into lines."""
    return "ns-tight", escape(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, empty: str) -> str:
    """Return a table, or the sentence `empty` without rows; the cells are HTML."""
    if not rows:
        return f'<p class="ns-empty">{escape(empty)}</p>'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f'<td class="{css}">{html}</td>' for css, html in row) + "</tr>" for row in rows)
    # focusable, so that a keyboard can scroll a table that is wider than the screen
    return (
        f'<div class="ns-scroll" tabindex="0" role="group"><table class="ns-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def panel(title: str, body: str) -> str:
    """Return a section with its heading; `body` is HTML."""
    return f'<section class="ns-panel"><h2>{escape(title)}</h2>{body}</section>'
