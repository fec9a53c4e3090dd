"""Commands about the documents: add, list, remove, search, watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.console import JsonOption, emit, opened, show
from feedback.errors import DocumentError, ModelError

if TYPE_CHECKING:
    from assistant.documents.intake import AddReport
    from assistant.library import Library

documents = typer.Typer(help="The documents that answers come from.", no_args_is_help=True)
CollectionOption = Annotated[str, typer.Option(help='The collection; "main" holds what was added without one.')]
AnyCollectionOption = Annotated[str, typer.Option(help="Only this collection (default: all of them).")]


def _library(context: typer.Context) -> Library:
    from assistant.services import open_library

    return open_library(*opened(context))


@documents.command("add")
def documents_add(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="Files, folders or globs; named again, what is gone leaves the index.")],
    collection: CollectionOption = "main",
    under: Annotated[str, typer.Option(help="Put this before the names, as a folder would.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="A running server looks at these folders again by schedule.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Index documents: Markdown, HTML, PDF, DOCX, PPTX, XLSX, CSV, text. Unchanged files are skipped; a second call goes on."""
    from assistant.documents.store import WatchedFolder
    from assistant.documents.walking import expanded
    from assistant.progress import DocumentBar

    library = _library(context)
    if watch and (single := next((path for path in paths if not expanded(path).is_dir()), None)):
        raise DocumentError(f"{single} is no folder, and only folders can be watched: name its folder, or leave out --watch.")
    with DocumentBar() as bar:
        report = library.add(paths, collection=collection, under=under, progress=bar.read)
        try:
            encoded = library.index(progress=bar.encoded)
        except ModelError:
            _tell(report, 0, as_json=as_json)
            raise
    nothing = not (report.added or report.changed or report.unchanged)
    if nothing and len(report.unread) == 1 and not (report.removed or as_json):
        raise DocumentError(f"Nothing was read: {report.unread[0]}")
    _tell(report, encoded, as_json=as_json)
    if nothing and report.unread:
        raise DocumentError("Nothing was read: the report says why, a line for each file or path.")
    if watch:
        for path in paths:
            library.store.watch(WatchedFolder(root=str(expanded(path).resolve()), collection=collection, under=under))


def _tell(report: AddReport, encoded: int, *, as_json: bool) -> None:
    """Print what an addition did, with a line for each file that could not be read, or perhaps was not read as it was meant."""
    if as_json:
        emit({**vars(report), "encoded": encoded})
        return
    print(
        f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged, {report.removed} removed; "
        f"{encoded} passages encoded."
    )
    for sentence in (*report.unread, *report.doubts):
        print(sentence)


@documents.command("list")
def documents_list(context: typer.Context, collection: AnyCollectionOption = "", as_json: JsonOption = False) -> None:
    """List the documents."""
    show(
        _library(context).store.describe(collection),
        ("collection", "path", "title", "version", "chunks"),
        as_json=as_json,
        empty="No documents yet: `nightschool documents add FOLDER`.",
    )


@documents.command("remove")
def documents_remove(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="Paths as `documents list` shows them.")],
    collection: CollectionOption = "main",
) -> None:
    """Remove documents from the index at once, uploaded ones with their file; those of a watched folder leave with their file."""
    from assistant.services import open_library
    from assistant.uploads import Uploads

    home, settings = opened(context)
    library = open_library(home, settings)
    known = library.store.known(collection)
    for path in paths:
        if path not in known:
            raise DocumentError(
                f"There is no document {path!r} in the collection {collection!r}: see `nightschool documents list`."
            )
    uploads = Uploads(home.uploads, library, max_bytes=settings.documents.max_mb * 1_000_000)
    for path in paths:
        uploads.remove(path, collection=collection)
    print(f"{len(paths)} removed.")


@documents.command("unwatch")
def documents_unwatch(context: typer.Context, folder: Annotated[Path, typer.Argument(help="A watched folder.")]) -> None:
    """Stop looking at a folder by schedule; its documents stay."""
    from assistant.documents.walking import expanded

    store = _library(context).store
    if not store.unwatch(str(expanded(folder).resolve())):
        watched = ", ".join(each.root for each in store.watched()) or "none is"
        raise DocumentError(f"{folder} is not watched ({watched}).")
    print(f"{folder} is not watched any more.")


@documents.command("search")
def documents_search(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=100)] = 5,
    collection: AnyCollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the passages that a question finds, best first, with each stage's score."""
    library = _library(context)
    library.check_collection(collection)
    hits = library.search(question, limit=limit, collection=collection)
    show(hits, ("score", "document", "page", "title", "text"), as_json=as_json, empty="Nothing was found.")
