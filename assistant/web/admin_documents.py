"""The admin page's documents: what is there, files in, documents out."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from assistant.documents.intake import AddReport, Progress
from assistant.documents.reading import SUFFIXES
from assistant.documents.store import MAIN, WatchedFolder
from assistant.services import Services
from assistant.uploads import Uploads
from assistant.web.admin_view import panel, plural, table, tight
from assistant.web.notice import notice_html
from assistant.web.who import require_admin
from feedback.errors import DocumentError, NightschoolError
from feedback.records import User

PROGRESS_SECONDS = 0.5
UNREAD_SHOWN = 10
"""So many sentences about unread files of the watched folders stand in the page."""
NOTHING_CHOSEN = "No file is chosen: choose the files to add."
_log = logging.getLogger(__name__)


class DocumentsPanel:
    """The handlers of the documents."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._library = services.library
        max_bytes = services.settings.documents.max_mb * 1_000_000
        self._uploads = Uploads(services.home.uploads, services.library, max_bytes=max_bytes)
        self._uploads.recover()

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Show everything: (table, collection, document to remove)."""
        require_admin(request)
        return self._table(), gr.update(choices=self._collections()), self._removable()

    def slow(self, request: gr.Request) -> str:
        """Show what changes by the minute."""
        require_admin(request)
        return self._table()

    def add(self, files: list[str] | None, collection: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Take in uploaded files: (report, add button, table, files, collection, document to remove), until all are read."""
        user = require_admin(request)
        skip = gr.skip()
        paths = [Path(file) for file in files or ()]
        collection = (collection or "").strip() or MAIN
        if not paths:
            yield notice_html(NOTHING_CHOSEN), skip, skip, skip, skip, skip
            return
        yield reading_html(0, 0, ""), gr.update(interactive=False), skip, skip, skip, skip
        try:
            for step in _followed(lambda tell: self._take_in(user, paths, collection, tell)):
                if isinstance(step, AddReport):
                    report = report_html(step)
                else:
                    yield step, skip, skip, skip, skip, skip
        except NightschoolError as error:
            report = notice_html(str(error))
        except Exception as error:  # the outer edge: whatever a file does, the page goes on
            _log.exception("An upload failed")
            report = notice_html(f"The upload failed ({type(error).__name__}): what was read is kept, try the rest again.")
        chosen = gr.update(choices=self._collections(), value=collection)
        yield report, gr.update(interactive=True), self._table(), gr.update(value=None), chosen, self._removable()

    def _take_in(self, user: User, paths: Sequence[Path], collection: str, tell: Progress) -> AddReport:
        """Add the files, with an audit entry; the copies that Gradio made of them, and would keep, go."""
        try:
            report = self._uploads.add(paths, collection=collection, progress=tell)
        finally:
            for path in paths:
                path.unlink(missing_ok=True)
        self._services.store.audit(user.name, "documents.upload", _counts(report, collection))
        return report

    def ask_to_remove(self, chosen: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Ask whether a document is to go: (notice, remove it, keep it)."""
        require_admin(request)
        if not chosen:
            return notice_html("No document is chosen: choose the one to remove."), *_confirming(False)
        collection, name = json.loads(chosen)
        sentence = f"Remove {name} from the collection {collection}? Where it was uploaded, its file goes too."
        return f'<p class="ns-asked" role="status">{escape(sentence)}</p>', *_confirming(True)

    def keep(self, request: gr.Request) -> tuple[Any, ...]:
        """Remove nothing: (notice, remove it, keep it)."""
        require_admin(request)
        return "", *_confirming(False)

    def remove(self, chosen: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Remove a document: (notice, remove it, keep it, table, document to remove)."""
        user = require_admin(request)
        try:
            if not chosen:
                raise DocumentError("No document is chosen: choose the one to remove.")
            collection, name = json.loads(chosen)
            self._uploads.remove(name, collection=collection)
            self._services.store.audit(user.name, "documents.remove", {"collection": collection, "document": name})
            notice = notice_html(f"{name} is removed: no answer comes from it any more.", bad=False)
        except NightschoolError as error:
            notice = notice_html(str(error))
        return notice, *_confirming(False), self._table(), self._removable()

    def _collections(self) -> list[str]:
        return list(dict.fromkeys([MAIN, *self._library.store.collections()]))

    def _table(self) -> str:
        store = self._library.store
        waiting, unread = self._library.waiting(), self._library.unread
        return collections_html(store.collections(), store.watched(), waiting=waiting, unread=unread)

    def _removable(self) -> Any:
        found = self._uploads.removable()
        choices = [
            (name if collection == MAIN else f"{collection}: {name}", _key(collection, name)) for collection, name in found
        ]
        info = "Documents of a watched folder leave when their files are deleted there." if choices else NONE_TO_REMOVE
        return gr.update(choices=choices, value=None, interactive=bool(choices), info=info)


NONE_TO_REMOVE = "None here: documents of a watched folder leave when their files are deleted there."


def _key(collection: str, name: str) -> str:
    return json.dumps([collection, name])


def _counts(report: AddReport, collection: str) -> dict[str, Any]:
    return {"collection": collection, "added": report.added, "changed": report.changed, "unread": len(report.unread)}


def _confirming(asked: bool) -> tuple[Any, Any]:
    return gr.update(visible=asked), gr.update(visible=asked)


def _followed(work: Callable[[Progress], AddReport]) -> Iterator[str | AddReport]:
    """Do `work` in a thread of its own and yield how far it is, then its report. A page that is closed ends nothing."""
    at = shown = (0, 0, "")
    future: Future[AddReport] = Future()

    def tell(done: int, total: int, name: str) -> None:
        nonlocal at
        at = (done, total, name)

    def run() -> None:
        try:
            future.set_result(work(tell))
        except BaseException as error:  # the reader of the future raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="upload").start()
    while not wait([future], PROGRESS_SECONDS).done:
        if at != shown:
            shown = at
            yield reading_html(*shown)
    yield future.result()


def reading_html(done: int, total: int, name: str) -> str:
    """Return how far the reading is: `done` of `total` files, `name` the one that was read last."""
    text = f"Read {done} of {total}: {name}" if total else "Reading ..."
    value = f' value="{done}" max="{total}"' if total else ""
    return (
        f'<p class="ns-reading" role="status">{escape(text)}</p><progress class="ns-bar" aria-label="Reading"{value}></progress>'
    )


def report_html(report: AddReport) -> str:
    """Return what an addition did, with a sentence for each file that was not read, or perhaps not as it was meant."""
    parts = [f"{count} {word}" for count, word in ((report.added, "added"), (report.changed, "changed")) if count]
    # files from earlier are read again with the new ones, so "as before" would count them too
    done = notice_html(f"{' and '.join(parts)}.", bad=False) if parts else ""
    for said, sentences in (("not read", report.unread), ("perhaps read wrongly", report.doubts)):
        if sentences:
            heading = f"{plural(len(sentences), 'file')} {said}:"
            done += f'<div class="ns-bad" role="alert">{_listed(heading, sentences)}</div>'
    return done or notice_html("Nothing changed: the documents hold this already.", bad=False)


def _listed(heading: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<p>{heading}</p><ul>{items}</ul>"


def collections_html(
    counts: Mapping[str, int], watched: Sequence[WatchedFolder], *, waiting: int, unread: Sequence[str] = ()
) -> str:
    """Return the table of collections with how many passages wait to be encoded, and what the last look could not read."""
    folders = {name: [each.root for each in watched if each.collection == name] for name in counts}
    rows = [
        (tight(name), tight(f"{count:,}"), ("", escape(", ".join(folders[name]) or "none"))) for name, count in counts.items()
    ]
    empty = "No documents yet: add some below, or set documents.folder."
    passages = "1 passage waits to be encoded: it is" if waiting == 1 else f"{waiting:,} passages wait to be encoded: they are"
    note = f'<p class="ns-empty" role="status">{passages} found by words alone until then.</p>' if waiting else ""
    return panel(
        "Documents", table(("Collection", "Documents", "Watched folders"), rows, empty=empty) + note + _unread_html(unread)
    )


def _unread_html(sentences: Sequence[str]) -> str:
    """Return the first of the sentences about what could not be read in the watched folders, "" where all was read."""
    if not sentences:
        return ""
    shown = list(sentences[:UNREAD_SHOWN])
    if len(sentences) > len(shown):
        shown.append(f"{len(sentences) - len(shown):,} more: the server's log has them all.")
    return f'<div class="ns-bad">{_listed("Not read at the last look at the watched folders:", shown)}</div>'


def build(services: Services, blocks: gr.Blocks, *, slow_seconds: float) -> None:
    """Lay out the documents in the page that is being built, and connect them."""
    panel_ = DocumentsPanel(services)
    overview = gr.HTML(collections_html({}, (), waiting=0))
    max_mb = services.settings.documents.max_mb
    kinds = ", ".join(sorted(suffix.lstrip(".").upper() for suffix in SUFFIXES - {".htm", ".markdown"}))
    with gr.Row(elem_id="ns-upload", equal_height=False):
        files = gr.File(
            label="Files to add",
            file_count="multiple",
            height=170,
            elem_id="ns-files",
            scale=3,
        )
        with gr.Column(scale=2, min_width=220):
            collection = gr.Dropdown(
                label="Collection",
                info="Choose one, or type a new name.",
                choices=[MAIN],
                value=MAIN,
                allow_custom_value=True,
                elem_id="ns-collection",
            )
            gr.HTML(f'<p class="ns-empty">{kinds}; up to {max_mb} MB each.</p>', elem_id="ns-kinds")
            add = gr.Button("Add the files", variant="primary", elem_id="ns-add")
    report = gr.HTML("", elem_id="ns-report", elem_classes="ns-said-here")
    with gr.Row(elem_id="ns-remove-row", equal_height=False):
        document = gr.Dropdown(
            label="Document to remove", choices=[], value=None, info=NONE_TO_REMOVE, elem_id="ns-document", scale=3, min_width=260
        )
        ask = gr.Button("Remove ...", elem_id="ns-remove", scale=0, min_width=120)
        sure = gr.Button("Yes, remove it", variant="stop", visible=False, elem_id="ns-remove-sure", scale=0, min_width=140)
        keep = gr.Button("Keep it", visible=False, elem_id="ns-remove-keep", scale=0, min_width=100)
    removed = gr.HTML("", elem_id="ns-removed", elem_classes="ns-said-here")
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    blocks.load(panel_.open, None, [overview, collection, document], **hidden)
    gr.Timer(slow_seconds).tick(panel_.slow, None, overview, queue=False, **hidden)
    outputs = [report, add, overview, files, collection, document]
    add.click(panel_.add, [files, collection], outputs, trigger_mode="once", concurrency_limit=None, **hidden)
    confirming = [removed, sure, keep]
    ask.click(panel_.ask_to_remove, document, confirming, **hidden)
    document.input(panel_.keep, None, confirming, **hidden)
    keep.click(panel_.keep, None, confirming, **hidden)
    sure.click(panel_.remove, document, [*confirming, overview, document], trigger_mode="once", **hidden)
