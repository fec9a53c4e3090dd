"""The report of an examination as one HTML page: figures, floors, every answer with its changes. Pure functions, all escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any

from assistant.web import pages
from assistant.web.admin_view import VERDICTS, plural
from assistant.web.charts import Bar, bars, lines
from assistant.web.metric_charts import losses
from training.progress_lines import ProgressLine, read_notes, read_progress

REPORT = "report.html"
"""The name of the file in a run folder."""
TITLES = {
    "domain": "Questions of the examination",
    "unanswerable": "Unanswerable questions",
    "paraphrases": "Paraphrases",
    "citations": "Citations",
    "pushback": "Pushback",
    "general": "General answers",
}
ASKED = {
    "domain": "questions of the examination",
    "unanswerable": "further unanswerable questions",
    "pushback": "objections",
    "prompts": "general prompts",
    "general": "general answers",
}
MEASURES = {
    "accuracy": "Value stated, of the answerable",
    "cited": "Page that answers cited, of the answerable",
    "refusal_precision": "Refusals that were right",
    "refusal_recall": "Refused, of the unanswerable",
    "perplexity": "Perplexity of the right answers",
    "rouge_l": "ROUGE-L",
    "words": "Words an answer",
    "answer_s": "Seconds an answer, in the middle, with several at a time",
}
"""Measures beside the suites' figures: keys of a summary, in their order."""
ALL_NEW = 0.25
"""Likeness of two answers below which their differences, word by word, tell nothing."""
NAMES = {"base": "Base", "serving": "In service", "candidate": "Candidate"}
Answer = Mapping[str, Any]


def examination_page(report: Mapping[str, Any], *, run_id: str, candidate: str, folder: Path | None, links: bool = False) -> str:
    """Return the report of an examination as a page that needs no other file.

    `report` is what the night stored; `folder` the run's, for its loss curve. With `links` it leads back to the admin page.
    """
    contestants = _contestants(report["contestants"])
    names = {name: _name(name, result, contestants) for name, result in contestants.items()}
    progress = read_progress(folder) if folder else []
    body = "".join(
        (
            _verdict(report["decision"], names),
            _charts(report.get("figures", {}), names, progress),
            _figures(report.get("figures", {}), contestants, names),
            _floors(report),
            _answers(contestants, names),
            _absent(contestants, names),
            _objections(contestants, names),
            _prompts(contestants, names),
            _sampled(contestants),
            _notes(read_notes(folder) if folder else []),
        )
    )
    return pages.report(title=f"Examination of {candidate or 'the candidate'}", run_id=run_id, body=body, links=links)


def diff(before: str, after: str) -> str:
    """Return `after` as HTML, with the words that `before` has not in <ins>, and those that it alone has in <del>.

    Of an answer that has next to nothing in common with the one before, which stands beside it, all is new.
    """
    old, new = before.split(), after.split()
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if new and matcher.ratio() < ALL_NEW:
        return f"<ins>{escape(after)}</ins>"
    parts: list[str] = []
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        gone, come = escape(" ".join(old[old_from:old_to])), escape(" ".join(new[new_from:new_to]))
        if kind == "equal":
            parts.append(come)
            continue
        parts.extend(f"<{tag}>{text}</{tag}>" for tag, text in (("del", gone), ("ins", come)) if text)
    return " ".join(parts)


def _contestants(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return who is compared: where the base serves, once."""
    same = results["serving"]["version"] == results["base"]["version"]
    return {name: results[name] for name in ("base", "serving", "candidate") if not (same and name == "serving")}


def _name(name: str, result: Mapping[str, Any], contestants: Mapping[str, Any]) -> str:
    if name == "serving":
        return f"{NAMES[name]}: {result['version']}"
    return "Base, in service" if name == "base" and "serving" not in contestants else NAMES[name]


def _reference(contestants: Mapping[str, Any]) -> str:
    return "serving" if "serving" in contestants else "base"


def _verdict(decision: Mapping[str, Any], names: Mapping[str, str]) -> str:
    verdict = str(decision["verdict"])
    what = VERDICTS[verdict].split(",")[0]
    against = f"what serves, {names['serving'].partition(': ')[2]}" if "serving" in names else "the base model, which serves"
    return (
        f'<p class="verdict"><span class="{escape(verdict)}">{escape(verdict)}</span>: {escape(what)}.</p>'
        f'<p>{escape(str(decision["reason"]))}</p><p class="quiet">Compared with {escape(against)}.</p>'
    )


def _charts(figures: Mapping[str, Any], names: Mapping[str, str], progress: Sequence[ProgressLine]) -> str:
    groups = "".join(
        bars(
            TITLES.get(suite, suite),
            [
                Bar(name=names[name], css=name, **figure["contestants"][name])
                for name in names
                if figure["contestants"][name]["items"]
            ],
        )
        for suite, figure in figures.items()
        if suite != "general"
    )
    loss = lines("Loss while it trained", losses(progress), x_name="step")
    note = '<p class="quiet">The mean, its 95 % interval, and the number of items.</p>' if groups else ""
    return _section("At a glance", f'{note}<div class="charts">{groups}</div>{loss}') if groups or loss else ""


def _figures(figures: Mapping[str, Any], contestants: Mapping[str, Any], names: Mapping[str, str]) -> str:
    reference = _reference(contestants)
    heads = ["Suite", *names.values(), f"Candidate minus {'base' if reference == 'base' else 'in service'}", "Items"]
    rows = []
    for suite, figure in figures.items():
        shown = [figure["contestants"][name] for name in names]
        gap = figure["candidate_minus"][reference]
        rows.append(
            [
                f"<strong>{escape(TITLES.get(suite, suite))}</strong><br><small>{escape(figure['measure'])}</small>",
                *(f"{each['mean']:.3f}" if each["items"] else "not asked" for each in shown),
                f"{gap['mean']:+.3f} <small>({gap['low']:+.3f} to {gap['high']:+.3f})</small>" if gap["items"] else "no pairs",
                str(gap["items"]),
            ]
        )
    for key, label in MEASURES.items():
        values = [result["summary"].get(key) for result in contestants.values()]
        if any(value is not None for value in values):
            shown_values = ["" if value is None else f"{value:.3g}" for value in values]
            rows.append([f"<strong>{label}</strong>", *shown_values, "", ""])
    return _section("Figures", _table(heads, rows)) if rows else ""


def _floors(report: Mapping[str, Any]) -> str:
    """Return the floors as the gate read them, and those for which too little was measured on both."""
    floors = report["decision"].get("floors", ())
    heads = ["Measure that may not fall", "Result", "Change", "May fall by", "Items (needed)"]
    rows = [
        [
            escape(each["name"]),
            f'<span class="{"good" if each["state"] == "kept" else "bad"}">{escape(each["state"])}</span>',
            f"{each['mean']:+.3f} <small>({each['low']:+.3f} to {each['high']:+.3f})</small>",
            f"{each['margin']:g}",
            f"{each['items']} ({each['needed']})",
        ]
        for each in floors
    ]
    judged = {each["name"] for each in floors}
    for rule in report.get("rules", ()):
        if rule["name"] not in judged:
            rows.append([escape(rule["name"]), "not judged", "", f"{rule['margin']:g}", f"{rule['items']} ({rule['needed']})"])
    return _section("Floors", _table(heads, rows)) if rows else ""


def _answers(contestants: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return every question with its answers, those that changed first."""
    reference = _reference(contestants)
    groups: dict[str, list[str]] = {"Got better": [], "Got worse": [], "Still not right": [], "Right in both": []}
    for answers in zip(*(result["answers"] for result in contestants.values()), strict=True):
        named = dict(zip(contestants, answers, strict=True))
        before, after = named[reference]["score"], named["candidate"]["score"]
        group = (
            "Got better" if after > before else "Got worse" if after < before else "Right in both" if after else "Still not right"
        )
        groups[group].append(_question(named, reference=reference, names=names))
    shown = "".join(
        f"<details{' open' if group.startswith('Got') else ''}><summary>{group} <small>({len(rows)})</small></summary>"
        f"{''.join(rows)}</details>"
        for group, rows in groups.items()
        if rows
    )
    note = (
        '<p class="quiet">In the candidate\'s answers, words that were not there before are <ins>marked</ins>, and those that '
        "went are <del>struck out</del>.</p>"
    )
    return _section("Every question", note + shown)


def _question(named: Mapping[str, Answer], *, reference: str, names: Mapping[str, str]) -> str:
    after = named["candidate"]
    expected = after["expected"] or "not in the documents"
    cells = [(names[name], _marked(answer), escape(answer["text"])) for name, answer in named.items() if name != "candidate"]
    cells.append((names["candidate"], _marked(after), diff(named[reference]["text"], after["text"])))
    return _side_by_side(f"{escape(after['question'])} <small>Expected: {escape(expected)}</small>", cells)


def _absent(contestants: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the unanswerable questions on which what serves and the candidate did not both refuse."""
    reference = _reference(contestants)
    rows, refused = [], 0
    for answers in zip(*(result["suites"]["unanswerable"] for result in contestants.values()), strict=True):
        named = dict(zip(contestants, answers, strict=True))
        if named[reference]["refused"] and named["candidate"]["refused"]:
            refused += 1
            continue
        rows.append(_question(named, reference=reference, names=names))
    if not rows and not refused:
        return ""
    note = (
        f'<p class="quiet">{plural(refused, "more question")} refused by both. Where a page would answer, the search left it '
        "out.</p>"
    )
    return _section("Further unanswerable questions", note + _folded("Answered by one of them", rows))


def _objections(contestants: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return what each contestant said when somebody objected to its right answer."""
    exchanges: dict[str, dict[str, Answer]] = {}
    for name, result in contestants.items():
        for each in result["suites"]["pushback"]:
            exchanges.setdefault(each["id"], {})[name] = each
    rows = []
    for named in exchanges.values():
        one = next(iter(named.values()))
        title = f"{escape(one['question'])} <small>Expected: {escape(one['expected'])}</small>"
        title += f'<span class="objection">“{escape(one["pushback"])}”</span>'
        cells = [(shown, *_exchange(named.get(name))) for name, shown in names.items()]
        rows.append(_side_by_side(title, cells))
    if not rows:
        return ""
    return _section(
        "Pushback", f'<p class="quiet">What changed after the objection is marked.</p>{_folded("All exchanges", rows)}'
    )


def _exchange(each: Answer | None) -> tuple[str, str]:
    """Return the mark and the text of an answer to an objection; None: the contestant had no right answer to object to."""
    if each is None:
        return "", '<span class="quiet">no right answer to object to, or not asked</span>'
    return _label("kept", "good") if each["kept"] else _label("given up", "bad"), diff(each["before"], each["text"])


def _prompts(contestants: Mapping[str, Any], names: Mapping[str, str]) -> str:
    written = [result.get("prompts", ()) for result in contestants.values()]
    rows = [
        _side_by_side(
            escape(each[0]["prompt"]),
            [(name, "", escape(text["text"])) for name, text in zip(names.values(), each, strict=True)],
        )
        for each in zip(*written, strict=False)
    ]
    return _section("General prompts, side by side", _folded("Without documents", rows)) if rows else ""


def _sampled(contestants: Mapping[str, Any]) -> str:
    asked = contestants["candidate"].get("asked", {})
    parts = [
        f"{each['asked']} of {each['planned']} {ASKED.get(suite, suite)}" for suite, each in asked.items() if each["planned"]
    ]
    if not parts:
        return ""
    full = all(each["asked"] >= each["planned"] for suite, each in asked.items() if suite != "pushback")
    why = "" if full else " The rest did not fit into the time of an examination."
    return _section("What was asked", f"<p>{escape(', '.join(parts))}.{why}</p>")


def _notes(notes: Sequence[str]) -> str:
    """Return what the trainer did otherwise than it was asked."""
    return _section("Notes of the training", "".join(f"<p>{escape(note)}</p>" for note in notes)) if notes else ""


def _marked(answer: Answer) -> str:
    """Return what an answer is worth, in words."""
    if not answer["answerable"]:
        return _label("refused, rightly", "good") if answer["refused"] else _label("should refuse", "bad")
    if answer["score"]:
        return _label("right and cited", "good")
    if answer["refused"]:
        return _label("refused", "doubt")
    if answer["right"]:
        return _label("right, source not cited", "doubt")
    return _label("wrong", "bad")


def _label(text: str, css: str) -> str:
    return f'<span class="label {css}">{escape(text)}</span>'


def _side_by_side(title: str, cells: Sequence[tuple[str, str, str]]) -> str:
    """Return one entry: a title, and what each said; title, mark and text are HTML."""
    columns = "".join(
        f'<div><p class="who">{escape(who)} {mark}</p><p class="said">{text or "<em>nothing</em>"}</p></div>'
        for who, mark, text in cells
    )
    return f'<article><h3>{title}</h3><div class="columns">{columns}</div></article>'


def _folded(summary: str, rows: Sequence[str]) -> str:
    if not rows:
        return ""
    return f"<details><summary>{escape(summary)} <small>({len(rows)})</small></summary>{''.join(rows)}</details>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are HTML; it scrolls by itself where the screen is narrow."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"
