"""What all commands share: opening the home, JSON and tables."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant.config import Settings, load
from assistant.home import Home
from feedback.errors import SettingsError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def sample_company() -> Path:
    """Return the folder of the sample company, which ships beside the packages. Raises SettingsError where it does not."""
    folder = Path(__file__).resolve().parent.parent / "data"
    if not (folder / "handbook").is_dir():
        raise SettingsError(
            f"The sample company is not in {folder}: install Nightschool from its repository, or name your own documents."
        )
    return folder


def opened(context: typer.Context, *, sample: bool = False) -> tuple[Home, Settings]:
    """Open the home and its settings; with `sample`, a home without a settings file gets one for the sample company."""
    home, settings = load(context.obj)
    if sample and not home.settings.exists():
        data = sample_company()
        home.settings.write_text(
            "# Written by `serve --sample`: the sample company. Point the folder at your own documents.\n"
            f"[documents]\nfolder = {json.dumps(str(data / 'handbook'))}\n\n"
            f"[night]\nquestions = {json.dumps(str(data / 'questions' / 'sealed.jsonl'))}\n",
            encoding="utf-8",
        )
        home, settings = load(context.obj)
    return home, settings


def announce_import(home: Home, settings: Settings) -> None:
    """Say on stderr that the base model is imported now, where it is not there yet: a silent minute looks like a fault."""
    from assistant.models import EMBEDDED

    if settings.engine.base_model == EMBEDDED and not (home.models / EMBEDDED).exists():
        print("Importing the base model; this is done once and takes about a minute.", file=sys.stderr, flush=True)


def bring_starter(home: Home, settings: Settings) -> None:
    """Put the starter adapter that ships into a home without adapters, where the settings allow it and it fits the base model.

    The base model is imported first where it is not there yet. Raises ModelError, AdapterError.
    """
    from assistant.models import open_base
    from assistant.shipped import install_starter
    from training.registry import AdapterRegistry

    announce_import(home, settings)
    if settings.engine.starter:
        install_starter(AdapterRegistry(home.db, home.adapters), open_base(home.models, settings.engine.base_model))


def plain(value: Any) -> Any:
    """Turn dataclasses and paths into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def emit(value: Any) -> None:
    """Print a value as JSON on stdout."""
    print(
        json.dumps(
            value, ensure_ascii=False, indent=2, default=lambda each: plain(each) if dataclasses.is_dataclass(each) else str(each)
        )
    )


def show(rows: Sequence[Any], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows (dataclasses or mappings) as a table of `columns`, or all their fields as JSON."""
    data = [row if isinstance(row, Mapping) else plain(row) for row in rows]
    if as_json:
        emit(data)
        return
    if not data:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in data:
        table.add_row(*("" if row.get(column) is None else str(row.get(column)) for column in columns))
    Console().print(table)
