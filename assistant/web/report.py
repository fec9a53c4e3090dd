"""The report of a night's examination: a page for admins, and the same as a file to send on."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from assistant.services import Services
from assistant.web.guard import ADMINS_ONLY, current_user, problem_response
from assistant.web.report_view import REPORT, examination_page


def report_routes(services: Services) -> APIRouter:
    """Return the routes /admin/runs/{id}/report and /admin/runs/{id}/report.html."""
    router = APIRouter()

    @router.get("/admin/runs/{run_id}/report", response_class=HTMLResponse)
    def show(request: Request, run_id: str) -> Response:
        return _report(services, request, run_id, as_file=False)

    @router.get("/admin/runs/{run_id}/report.html", response_class=HTMLResponse)
    def download(request: Request, run_id: str) -> Response:
        return _report(services, request, run_id, as_file=True)

    return router


def _report(services: Services, request: Request, run_id: str, *, as_file: bool) -> Response:
    """Return the report of a run; as a file, the one that the night wrote, or a new one where it was pruned. Raises RunError."""
    user = current_user(request)
    if user is None or user.role != "admin":
        return problem_response(request, 403, ADMINS_ONLY)
    report = services.examinations.load(run_id)
    if report is None:
        return problem_response(request, 404, f"There is no examination of {run_id!r}: see the nights on the admin page.")
    run, folder = services.ledger.run(run_id), services.ledger.folder(run_id)
    if not as_file:
        return HTMLResponse(examination_page(report, run_id=run_id, candidate=run.candidate or "", folder=folder, links=True))
    written = folder / REPORT
    text = (
        written.read_text(encoding="utf-8")
        if written.is_file()
        else examination_page(report, run_id=run_id, candidate=run.candidate or "", folder=folder)
    )
    return HTMLResponse(text, headers={"Content-Disposition": f'attachment; filename="nightschool-{run_id}.html"'})
