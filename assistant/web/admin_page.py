"""The admin page: the state of the loop at a glance, and the few things an admin does to it.

Every handler asks for the role again: this page stands behind two doors already (the guard, and its mount's), and Gradio
answers any raw POST that gets through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from assistant.services import SWAP_REFUSED, Services
from assistant.web import admin_documents, admin_metrics, admin_questions
from assistant.web import admin_view as view
from assistant.web.header import header_html
from assistant.web.messages import version_name, when
from assistant.web.metric_charts import charts_html
from assistant.web.notice import notice_html
from assistant.web.who import require_admin
from feedback.audit import AuditEntry
from feedback.errors import AdapterError, NightInProgress, NightschoolError, RunError
from feedback.records import User
from training.progress_lines import read_progress
from training.registry import BASE
from training.schedule import next_due

LIVE_SECONDS = 2.0
SLOW_SECONDS = 20.0
DAYS = 30
ERRORS = 10
AUDIT_LOOKED_AT = 500
"""Among how many of the newest entries of the audit refused swaps are looked for."""
KINDS = {"up": "#2f8f57", "down": "#c2483d", "correction": "#3f78b5"}
"""The colours of the ratings by day; they differ in lightness too, for those who do not see them apart."""


class AdminPage:
    """The handlers of the admin page."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = services.ledger
        self._registry = services.registry

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Show everything."""
        user = require_admin(request)
        return header_html(user, page="admin"), *self._live(), *self._slow()

    def live(self, request: gr.Request) -> tuple[Any, ...]:
        """Show what changes by the second."""
        require_admin(request)
        return self._live()

    def slow(self, request: gr.Request) -> tuple[Any, ...]:
        """Show what changes by the minute."""
        require_admin(request)
        return self._slow()

    def start(self, request: gr.Request) -> tuple[Any, ...]:
        """Start a night in a process of its own."""
        return self._do(request, self._start)

    def cancel(self, request: gr.Request) -> tuple[Any, ...]:
        """Ask the running night to end."""
        return self._do(request, self._cancel)

    def promote(self, version: str | None, reason: str, request: gr.Request) -> tuple[Any, ...]:
        """Put a version into service over the gate, which needs a reason."""
        return self._do(request, lambda user: self._promote(user, version, reason or ""))

    def roll_back(self, reason: str, request: gr.Request) -> tuple[Any, ...]:
        """Put back what served before."""
        return self._do(request, lambda user: self._roll_back(user, reason or ""))

    def _do(self, request: gr.Request, action: Callable[[User], str]) -> tuple[Any, ...]:
        """Do one thing, and show the sentence that came of it with everything as it is then."""
        user = require_admin(request)
        try:
            notice = notice_html(action(user), bad=False)
        except NightschoolError as error:
            notice = notice_html(str(error))
        return notice, *self._live(), *self._slow()

    def _start(self, user: User) -> str:
        running = self._ledger.running()
        if running is not None:
            raise NightInProgress(running.id)
        self._services.start_night(user.name)
        self._services.store.audit(user.name, "night.start", {})
        return "The night is starting: it shows here within some seconds. The chat goes on answering."

    def _cancel(self, user: User) -> str:
        running = self._ledger.running()
        if running is None:
            raise RunError("No night is running: there is nothing to cancel.")
        self._ledger.request_cancel(running.id)
        self._services.store.audit(user.name, "night.cancel", {"run": running.id})
        return f"The night {running.id} was asked to end: it does so at its next step."

    def _promote(self, user: User, version: str | None, reason: str) -> str:
        if not version:
            raise AdapterError("No version is chosen: choose the one to promote.")
        if not reason.strip():
            raise AdapterError(f"Promoting {version} over the gate needs a reason: say why, it is recorded.")
        self._registry.promote(version, user.name, reason.strip(), True)
        return self._now_serving(version)

    def _roll_back(self, user: User, reason: str) -> str:
        return self._now_serving(self._registry.rollback(user.name, reason.strip()))

    def _now_serving(self, wanted: str) -> str:
        """Move the pool at once instead of within the second that the server takes."""
        refused = self._services.follow_registry()
        current = self._registry.current()
        if refused is None and current != wanted:  # the server's own look was faster
            refused = f"{wanted} was refused or replaced at once: see the last errors."
        if refused is not None:
            raise AdapterError(refused)
        name = version_name(current)
        return f"{name[0].upper()}{name[1:]} answers from now on; answers that are being written end on the one before."

    def _live(self) -> tuple[Any, ...]:
        """Return (facts, tonight, loss, charts, start, cancel)."""
        running = self._ledger.running()
        folder = self._ledger.folder(running.id) if running else None
        progress = read_progress(folder) if folder else []
        examined = view.read_examination(folder / "examination.progress") if folder else None
        return (
            self._facts(),
            view.running_night_html(running, progress, next_night=self._next_night(), examined=examined),
            admin_metrics.loss_plot(progress),
            charts_html(progress, run_id=running.id) if running is not None and progress else "",
            gr.update(interactive=running is None),
            gr.update(visible=running is not None),
        )

    def _facts(self) -> str:
        services = self._services
        current = services.pool.current or BASE
        wanted = self._registry.current()
        waiting = f"the registry names {version_name(wanted)}" if wanted != current else ""
        return view.facts_html(
            (
                ("In service", version_name(current), waiting),
                ("Before it", version_name(self._registry.previous() or "") or "nothing", ""),
                ("Base model", services.base.name, ""),
                ("Engine", services.engine.name, ""),
                ("Documents", f"{len(services.documents.paths())} pages", ""),
            )
        )

    def _slow(self) -> tuple[Any, ...]:
        """Return (last night, heading of the ratings, ratings, runs, adapters, versions to promote, roll back, errors)."""
        by_day = self._services.store.ratings_by_day(DAYS)
        last = self._ledger.last()
        examples = sum(self._ledger.example_counts(last.id).values()) if last else 0
        refused = len(self._ledger.refusals(last.id)) if last else 0
        adapters, serving, previous = self._registry.list(), self._registry.current(), self._registry.previous()
        versions = [each for each in [*(row.version for row in reversed(adapters)), BASE] if each != serving]
        return (
            view.last_night_html(last, examples=examples, refused=refused),
            view.ratings_html(sum(sum(counts) for _, *counts in by_day)),
            gr.BarPlot(value=_ratings_frame(by_day), visible=any(sum(counts) for _, *counts in by_day)),
            view.runs_html(self._ledger.runs(10)),
            view.adapters_html(adapters, serving=serving),
            gr.update(choices=versions),  # the choice itself stays: a refresh must not undo what somebody is choosing
            gr.update(
                value=f"Roll back to {version_name(previous)}" if previous else "Roll back", interactive=previous is not None
            ),
            view.errors_html(self._services.store.recent_errors(ERRORS), self._refused_swaps()),
        )

    def _refused_swaps(self) -> list[AuditEntry]:
        entries = self._services.store.audit_entries(AUDIT_LOOKED_AT)
        return [entry for entry in entries if entry.action == SWAP_REFUSED][:ERRORS]

    def _next_night(self) -> str:
        due = next_due(self._services.settings.night.cron, datetime.now(UTC))
        if due is None:
            return "None is scheduled (night.cron is empty)."
        return f"The next one starts {when(due.isoformat())}."


def _ratings_frame(by_day: Sequence[tuple[str, int, int, int]]) -> Any:
    import pandas as pd

    rows = [
        {"day": datetime.fromisoformat(f"{day}T12:00"), "answers": count, "rating": kind}
        for day, *counts in by_day
        for kind, count in zip(KINDS, counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["day", "answers", "rating"])


def admin_page(services: Services) -> gr.Blocks:
    """Build the admin page."""
    page = AdminPage(services)
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title="Admin - Nightschool", analytics_enabled=False, delete_cache=(3600, 86_400)) as blocks:
        header = gr.HTML(header_html(None, page="admin"))
        facts = gr.HTML()
        notice = gr.HTML("", elem_id="ns-notice")
        with gr.Row(equal_height=False, elem_classes="ns-cards"):
            with gr.Column(min_width=320):
                tonight = gr.HTML()
                with gr.Row(elem_id="ns-night"):
                    start = gr.Button("Start a night now", variant="primary", elem_id="ns-start")
                    cancel = gr.Button("Cancel this night", visible=False, elem_id="ns-cancel")
                loss = admin_metrics.new_loss_plot()
                charts = gr.HTML("", elem_id="ns-live-metrics")
            with gr.Column(min_width=320):
                last = gr.HTML()
        admin_questions.build(services, blocks, slow_seconds=SLOW_SECONDS)
        admin_documents.build(services, blocks, slow_seconds=SLOW_SECONDS)
        ratings_title = gr.HTML(view.ratings_html(0))
        ratings = gr.BarPlot(
            x="day",
            y="answers",
            color="rating",
            color_map=KINDS,
            x_title="",
            y_title="",
            height=220,
            buttons=[],
            x_bin="1d",
            visible=False,
        )
        adapters = gr.HTML()
        with gr.Row(elem_id="ns-decide", equal_height=False):
            version = gr.Dropdown(label="Version", choices=[], value=None, elem_id="ns-version", scale=1, min_width=140)
            reason = gr.Textbox(
                label="Reason (recorded)", placeholder="Why this one, over the gate", elem_id="ns-reason", scale=3, min_width=220
            )
            promote = gr.Button("Promote", elem_id="ns-promote", scale=0, min_width=120)
            back = gr.Button("Roll back", elem_id="ns-rollback", scale=0, min_width=150)
        runs = gr.HTML()
        admin_metrics.build(services, blocks, slow_seconds=SLOW_SECONDS)
        errors = gr.HTML()
        live = [facts, tonight, loss, charts, start, cancel]
        slow = [last, ratings_title, ratings, runs, adapters, version, back, errors]
        blocks.load(page.open, None, [header, *live, *slow], **hidden)
        gr.Timer(LIVE_SECONDS).tick(page.live, None, live, queue=False, **hidden)
        gr.Timer(SLOW_SECONDS).tick(page.slow, None, slow, queue=False, **hidden)
        everything = [notice, *live, *slow]
        start.click(page.start, None, everything, trigger_mode="once", **hidden)
        cancel.click(page.cancel, None, everything, trigger_mode="once", **hidden)
        promote.click(page.promote, [version, reason], everything, trigger_mode="once", **hidden)
        back.click(page.roll_back, reason, everything, trigger_mode="once", **hidden)
    return blocks.queue(default_concurrency_limit=None)
