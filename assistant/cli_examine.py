"""`nightschool examine`, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from assistant.console import JsonOption, bring_starter, emit, opened, show


def examine(
    context: typer.Context,
    adapter: Annotated[str, typer.Option(help="The version to examine, such as v0002.")],
    against: Annotated[str, typer.Option(help="What it is compared with: base, or a version.")] = "base",
    questions: Annotated[
        Path | None, typer.Option(help="JSONL of questions with answers and sources (default: night.questions).")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions; 0: all.")] = 0,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write every question with its answers into this HTML file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Examine an adapter by hand, suite by suite, and say what the gate says of it; nothing but the answers is kept."""
    from assistant.examine_by_hand import examine_by_hand
    from assistant.progress import DocumentBar

    home, settings = opened(context)
    if questions or settings.night.questions:  # without any it is refused at once, not after a minute
        bring_starter(home, settings)
    with DocumentBar() as bar:
        found = examine_by_hand(
            home,
            settings,
            adapter=adapter,
            against=against,
            questions=questions,
            limit=limit,
            report=report,
            show=lambda done, total: bar.answered(done, total, "Examining"),
        )
    if as_json:
        emit(found)
        return
    show(_rows(found), _columns(found), as_json=False, empty="Nothing was asked.")
    for floor in found["floors"]:
        print(f"Floor, {floor['name']}: {floor['state']} ({floor['mean']:+.3f}, may fall by {floor['margin']:g}).")
    for floor in found["not_judged"]:
        print(f"Floor, {floor['name']}: not judged ({floor['items']} items, {floor['needed']} are needed).")
    print(f"{found['verdict']}: {found['reason']}")


def _columns(found: dict[str, Any]) -> tuple[str, ...]:
    others = () if found["against"] == "base" else (found["against"],)
    return ("suite", "base", *others, found["adapter"], "difference", "interval", "items")


def _rows(found: dict[str, Any]) -> list[dict[str, str]]:
    reference = "base" if found["against"] == "base" else "serving"
    names = {"base": "base", "serving": found["against"], "candidate": found["adapter"]}
    rows = []
    for suite, figure in found["figures"].items():
        gap = figure["candidate_minus"][reference]
        row = {
            "suite": suite,
            "difference": f"{gap['mean']:+.3f}",
            "interval": f"{gap['low']:+.3f} to {gap['high']:+.3f}",
            "items": str(gap["items"]),
        }
        for name, each in figure["contestants"].items():
            if name != "serving" or reference == "serving":
                row[names[name]] = f"{each['mean']:.3f}" if each["items"] else "-"
        rows.append(row)
    return rows
