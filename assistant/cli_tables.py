"""Commands that list and change what is kept: feedback, runs, adapters, users."""

from __future__ import annotations

from typing import Annotated

import typer

from assistant.console import JsonOption, emit, opened, plain, show
from feedback.errors import NightschoolError

feedback_commands = typer.Typer(help="What people said of the answers.", no_args_is_help=True)
runs = typer.Typer(help="The ledger of nights.", no_args_is_help=True)
adapters = typer.Typer(help="The adapters: what serves, what could.", no_args_is_help=True)
users = typer.Typer(help="Who may log in.", no_args_is_help=True)

METRICS = {
    "step": "step",
    "loss": "loss",
    "held-out": "eval_loss",
    "rate": "learning_rate",
    "gradient": "grad_norm",
    "tokens/s": "tokens_s",
    "CPU %": "cpu_percent",
    "MB": "rss_mb",
    "GPU %": "gpu_percent",
}
METRIC_ROWS = 20
"""Steps in the table of a run's metrics; --csv and --json give all."""
FOLLOWS = (
    "A running server follows within two seconds and says so in /health; one that refuses it goes back to what it serves, and "
    "says why on the admin page."
)


@feedback_commands.command("list")
def feedback_list(context: typer.Context, as_json: JsonOption = False) -> None:
    """List every rated answer with what is said of it now."""
    from feedback.store import FeedbackStore

    home, _ = opened(context)
    rows = [
        {
            "turn": rated.turn.id,
            "user": rated.user_name,
            "thumb": rated.feedback.thumb,
            "question": rated.turn.asked.question,
            "answer": rated.turn.answer.text if rated.turn.answer else None,
            "correction": rated.feedback.correction,
            "reasons": list(rated.feedback.reasons),
            "comment": rated.feedback.comment,
            "adapter": rated.turn.asked.adapter,
        }
        for rated in FeedbackStore(home.db).rated_turns()
    ]
    show(rows, ("turn", "user", "thumb", "question", "answer", "correction"), as_json=as_json, empty="No ratings yet.")


@runs.command("list")
def runs_list(context: typer.Context, limit: Annotated[int, typer.Option(min=1)] = 20, as_json: JsonOption = False) -> None:
    """List the nights, newest first."""
    from training.runs import RunLedger

    home, _ = opened(context)
    ledger = RunLedger(home.db, home.runs)
    ledger.recover()
    show(
        ledger.runs(limit),
        ("id", "created_at", "requested_by", "state", "outcome", "verdict", "candidate", "reason"),
        as_json=as_json,
        empty="No night has run yet: `nightschool night --now`.",
    )


@runs.command("show")
def runs_show(context: typer.Context, run: Annotated[str, typer.Argument(help="A run's id, such as r0001.")]) -> None:
    """Show one night with its curation and its examination, as JSON."""
    from training.examinations import ExaminationStore
    from training.runs import RunLedger

    home, _ = opened(context)
    ledger = RunLedger(home.db, home.runs)
    found = ledger.run(run)
    emit(
        {
            "run": found,
            "examples": ledger.example_counts(run),
            "refused_examples": ledger.refusals(run),
            "examination": ExaminationStore(home.db).load(run),
        }
    )


@runs.command("metrics")
def runs_metrics(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's id, such as r0001.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every step as CSV, its header naming the units.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run's training measured: loss, rate, gradient, speed, and what it took from the machine."""
    from training.progress_lines import read_progress, thinned, to_csv
    from training.runs import RunLedger

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    home, _ = opened(context)
    ledger = RunLedger(home.db, home.runs)
    lines = read_progress(ledger.folder(ledger.run(run).id))
    if as_csv:
        print(to_csv(lines), end="")
        return
    if as_json:
        emit([plain(line) for line in lines])
        return
    show(
        [{head: _rounded(getattr(line, field)) for head, field in METRICS.items()} for line in thinned(lines, most=METRIC_ROWS)],
        tuple(METRICS),
        as_json=False,
        empty=f"{run} wrote no training steps, or its folder was removed.",
    )


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@runs.command("cancel")
def runs_cancel(context: typer.Context, run: Annotated[str, typer.Argument(help="A run's id.")]) -> None:
    """Ask a running night to stop; what it trained so far is kept in its folder."""
    from training.runs import RunLedger

    home, _ = opened(context)
    RunLedger(home.db, home.runs).request_cancel(run)
    print(f"{run} is asked to stop.")


def _registry(context: typer.Context):  # type: ignore[no-untyped-def]
    from training.registry import AdapterRegistry

    home, _ = opened(context)
    return AdapterRegistry(home.db, home.adapters)


@adapters.command("list")
def adapters_list(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the adapters; the one in service is marked."""
    registry = _registry(context)
    current = registry.current()
    rows = [{**plain(row), "serving": "yes" if row.version == current else ""} for row in registry.list()]
    show(
        rows,
        ("version", "serving", "status", "created_at", "run_id"),
        as_json=as_json,
        empty="No adapters yet; the base model serves.",
    )


@adapters.command("show")
def adapters_show(context: typer.Context, version: Annotated[str, typer.Argument(help="A version, such as v0001.")]) -> None:
    """Show one adapter with its manifest, as JSON."""
    emit(_registry(context).show(version))


@adapters.command("promote")
def adapters_promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="The version to put into service.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the overruling.")],
    by: Annotated[str, typer.Option(help="Who decides.")] = "command line",
) -> None:
    """Put an adapter into service, overruling the gate; a running server follows within two seconds."""
    if not reason.strip():
        raise NightschoolError("A promotion by hand needs a reason: --reason '…'.")
    _registry(context).promote(version, by=by, reason=reason, overruled=True)
    print(f"{version} is promoted. {FOLLOWS}")


@adapters.command("rollback")
def adapters_rollback(context: typer.Context, by: Annotated[str, typer.Option(help="Who decides.")] = "command line") -> None:
    """Put back what served before."""
    print(f"Rolled back to {_registry(context).rollback(by=by)}. {FOLLOWS}")


@users.command("add")
def users_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The login name.")],
    admin: Annotated[bool, typer.Option("--admin", help="May open /admin.")] = False,
    password: Annotated[
        str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True, help="Asked for when not given.")
    ] = "",
) -> None:
    """Add somebody who may log in."""
    from feedback.store import FeedbackStore

    home, _ = opened(context)
    user = FeedbackStore(home.db).add_user(name, password, "admin" if admin else "employee")
    print(f"{user.name} may log in as {user.role}.")


@users.command("reset")
def users_reset(context: typer.Context, name: Annotated[str, typer.Argument(help="The login name.")]) -> None:
    """Give somebody a new one-time password; his old one and all of his logins end."""
    from feedback.store import FeedbackStore

    home, _ = opened(context)
    password = FeedbackStore(home.db).reset_password(name, by="command line")
    print(f"{name} / {password}   (a one-time password: it is replaced at the next login; all other logins have ended)")


@users.command("list")
def users_list(context: typer.Context, as_json: JsonOption = False) -> None:
    """List who may log in."""
    from feedback.store import FeedbackStore

    home, _ = opened(context)
    show(FeedbackStore(home.db).users(), ("name", "role", "created_at"), as_json=as_json, empty="Nobody yet.")
