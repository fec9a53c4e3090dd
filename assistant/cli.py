"""The `nightschool` command. It only parses, calls the parts, and prints; every heavy import waits until a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assistant.cli_bench import bench
from assistant.cli_documents import AnyCollectionOption, documents
from assistant.cli_examine import examine
from assistant.cli_tables import adapters, feedback_commands, runs, users
from assistant.console import JsonOption, announce_import, bring_starter, emit, opened
from feedback.errors import NightschoolError

if TYPE_CHECKING:
    from assistant.night_report import NightReport

app = typer.Typer(
    name="nightschool",
    help="A documentation assistant that learns overnight from the ratings of its users.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(documents, name="documents")
app.add_typer(feedback_commands, name="feedback")
app.add_typer(runs, name="runs")
app.add_typer(adapters, name="adapters")
app.add_typer(users, name="users")
app.add_typer(bench, name="bench")
app.command("examine")(examine)


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option("--home", help="State directory (default: NIGHTSCHOOL_HOME, or the user's data directory).")
    ] = None,
) -> None:
    """A documentation assistant that learns overnight from the ratings of its users."""
    context.obj = home


@app.command()
def serve(
    context: typer.Context,
    sample: Annotated[
        bool, typer.Option("--sample", help="On a home without settings: serve the sample company's handbook.")
    ] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to serve on, instead of the setting.")] = None,
) -> None:
    """Serve the pages, keep the clock of the nights, and swap adapters under running traffic."""
    from assistant.server import serve as run

    home, settings = opened(context, sample=sample)
    if port is not None:
        settings = settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})
    run(home, settings, prepare=lambda: bring_starter(home, settings))


@app.command()
def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="The question.")],
    sample: Annotated[
        bool, typer.Option("--sample", help="On a home without settings: ask the sample company's handbook.")
    ] = False,
    collection: AnyCollectionOption = "",
    as_json: JsonOption = False,
) -> None:
    """Answer one question from the documents, with its sources; the turn is kept like one of the chat."""
    from assistant.ask import ask_once

    home, settings = opened(context, sample=sample)
    bring_starter(home, settings)
    turn = ask_once(home, settings, question, write=None if as_json else _write, collection=collection)
    if as_json:
        emit(turn)


@app.command()
def night(
    context: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="Run one now, whatever the schedule says.")] = False,
    requested_by: Annotated[str, typer.Option(help="Who asked for it, as the ledger keeps it.")] = "command line",
    slot: Annotated[str, typer.Option(help="The due time that this night is for.", hidden=True)] = "",
    as_json: JsonOption = False,
) -> None:
    """Learn from the ratings: curate, train, examine, and put the candidate into service if it is better."""
    from assistant.night import run_night
    from assistant.progress import NightBar

    if not now and not slot:
        raise typer.BadParameter("a night by hand is started with --now (the server starts the scheduled ones)")
    home, settings = opened(context)
    with NightBar() as bar:
        report = run_night(home, settings, slot=slot, requested_by=requested_by, progress=bar.show)
    _tell(report, as_json=as_json)


@app.command()
def bootstrap(
    context: typer.Context,
    starter: Annotated[
        Path | None, typer.Option(help="Make the starter adapter into this folder instead, from organisations written for it.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="With --starter: the run folder; a second call with it goes on where the first stopped.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn from the documents alone, before anybody has rated anything: train, examine, and put it into service if better."""
    from assistant.bootstrap import make_starter
    from assistant.night import run_night
    from assistant.progress import NightBar
    from training.methods import check_objective

    if (starter is None) != (work is None):
        raise typer.BadParameter("--starter and --work go together")
    home, settings = opened(context)
    if starter is None:
        check_objective(settings.night.objective, rated=False)
    announce_import(home, settings)
    with NightBar() as bar:
        if starter is not None and work is not None:
            emit(make_starter(home, settings, work=work, out=starter, show=bar.show))
            return
        report = run_night(home, settings, slot="", requested_by="bootstrap", progress=bar.show, from_ratings=False)
    _tell(report, as_json=as_json)


@app.command()
def demo(
    context: typer.Context,
    documents: Annotated[
        Path | None, typer.Option(help="A folder of Markdown or text pages (default: the sample company).")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="JSONL of questions with accepted answers and sources.")] = None,
    split_by: Annotated[str, typer.Option(help="Field whose values are kept whole in one half of the split.")] = "fact",
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time budget of the whole story (default: 30, or 10 with --quick).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The short story.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Play it in this (empty) home and keep it, instead of a throw-away one.")
    ] = None,
    start: Annotated[
        Literal["starter", "base"], typer.Option(help="What serves at first: the starter adapter that ships, or the bare base.")
    ] = "starter",
    objective: Annotated[Literal["sft", "sft+kto", "sft+dpo"], typer.Option(help="How the night learns.")] = "sft",
    as_json: JsonOption = False,
) -> None:
    """Play the whole story in a throw-away home: ask, rate, correct, learn, examine, and show before and after."""
    from assistant.demo import Story, play

    if context.obj is not None:
        raise typer.BadParameter(f"the demo plays in a home of its own: use --keep {context.obj} to choose it, not --home")
    if (documents is None) != (questions is None):
        raise typer.BadParameter("--documents and --questions go together")
    if minutes is None:
        minutes = 10.0 if quick else 30.0
    story = Story(
        documents=documents,
        questions=questions,
        split_by=split_by,
        minutes=minutes,
        keep=keep,
        start=start,
        objective=objective,
    )
    result = play(story)
    if as_json:
        emit(result.as_dict())
    else:
        print(result.as_text())


def _tell(report: NightReport, *, as_json: bool) -> None:
    if as_json:
        emit(report.as_dict())
    else:
        print(report.as_text())
    if report.outcome != "succeeded":
        raise typer.Exit(1)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Run the command line: errors meant for a person are one line on stderr and exit code 1; 2 for wrong usage."""
    try:
        app()
    except NightschoolError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
