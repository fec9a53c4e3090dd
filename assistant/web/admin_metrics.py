"""What the nights' trainings measured: the panel of a finished night on the admin page, and every night's figures as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from assistant.services import Services
from assistant.web.guard import ADMINS_ONLY, current_user, problem_response
from assistant.web.messages import when
from assistant.web.metric_charts import COLOURS, charts_html, losses
from assistant.web.who import require_admin
from feedback.errors import NightschoolError
from training.progress_lines import ProgressLine, has_progress, read_progress, to_csv
from training.runs import Run

NIGHTS = 30
"""Among how many of the newest nights one is chosen."""


class MetricsPanel:
    """The handlers of the panel of a finished night."""

    def __init__(self, services: Services) -> None:
        self._ledger = services.ledger

    def refresh(self, request: gr.Request) -> Any:
        """Offer the nights that have trained."""
        require_admin(request)
        trained = [run for run in self._ledger.runs(NIGHTS) if run.outcome and has_progress(self._ledger.folder(run.id))]
        return gr.update(choices=[(_label(run), run.id) for run in trained], visible=bool(trained))

    def choose(self, run_id: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Show one night: (loss, charts)."""
        require_admin(request)
        if not run_id:
            return loss_plot([]), ""
        try:
            lines = read_progress(self._ledger.folder(self._ledger.run(run_id).id))
        except NightschoolError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return loss_plot(lines), charts_html(lines, run_id=run_id)


def _label(run: Run) -> str:
    return f"{run.id}, {when(run.created_at)}, {run.verdict or run.outcome}"


def new_loss_plot() -> gr.LinePlot:
    """Return an empty plot of losses, to be placed in a page."""
    return gr.LinePlot(
        x="step",
        y="loss",
        color="curve",
        color_map=COLOURS,
        x_title="step",
        y_title="loss",
        color_title=" ",
        height=220,
        visible=False,
        buttons=[],
    )


def loss_plot(lines: Sequence[ProgressLine]) -> Any:
    """Return the plot with these steps; hidden with fewer than two."""
    import pandas as pd

    rows = [(step, loss, curve) for curve, points in losses(lines).items() for step, loss in points]
    return gr.LinePlot(value=pd.DataFrame(rows, columns=["step", "loss", "curve"]), visible=len(lines) > 1)


def build(services: Services, blocks: gr.Blocks, *, slow_seconds: float) -> None:
    """Lay out the panel of a finished night in the page that is being built, and connect it."""
    panel = MetricsPanel(services)
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    night = gr.Dropdown(
        label="How the training of a night went", choices=[], value=None, visible=False, elem_id="ns-metrics-night"
    )
    loss = new_loss_plot()
    charts = gr.HTML("", elem_id="ns-metrics")
    blocks.load(panel.refresh, None, night, **hidden)
    gr.Timer(slow_seconds).tick(panel.refresh, None, night, queue=False, **hidden)
    night.input(panel.choose, night, [loss, charts], **hidden)


def metrics_routes(services: Services) -> APIRouter:
    """Return the route /admin/runs/{id}/metrics.csv."""
    router = APIRouter()

    @router.get("/admin/runs/{run_id}/metrics.csv", response_class=PlainTextResponse)
    def metrics(request: Request, run_id: str) -> Response:
        user = current_user(request)
        if user is None or user.role != "admin":
            return problem_response(request, 403, ADMINS_ONLY)
        run = services.ledger.run(run_id)
        headers = {"Content-Disposition": f'attachment; filename="nightschool-{run.id}.csv"'}
        return Response(to_csv(read_progress(services.ledger.folder(run.id))), media_type="text/csv", headers=headers)

    return router
