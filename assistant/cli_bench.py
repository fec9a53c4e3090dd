"""`nightschool bench …`: every figure that the README states is printed by one of these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from assistant.console import JsonOption, announce_import, bring_starter, emit, opened, sample_company

bench = typer.Typer(help="Measure; run nothing else on the machine meanwhile.", no_args_is_help=True)


@bench.command("swap")
def bench_swap_command(
    context: typer.Context,
    streams: Annotated[int, typer.Option(min=1, help="Greedy streams in all.")] = 200,
    swaps: Annotated[int, typer.Option(min=1, help="Swaps between two adapters meanwhile.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Swap adapters under running streams and look for answers that mix them."""
    from assistant.bench_swap import bench_swap
    from assistant.services import open_engine

    home, settings = opened(context)
    base, engine = open_engine(home, settings)
    engine.close()
    _print(bench_swap(base=base, streams=streams, swaps=swaps), as_json=as_json)


@bench.command("serving")
def bench_serving_command(context: typer.Context, as_json: JsonOption = False) -> None:
    """Compare tokens a second and time to first token through the chat with the bare engine, for one stream and for eight."""
    from assistant.bench_serving import bench_serving
    from assistant.services import open_engine

    home, settings = opened(context)
    base, engine = open_engine(home, settings)
    engine.close()
    _print(bench_serving(base=base), as_json=as_json)


@bench.command("training")
def bench_training_command(
    context: typer.Context,
    rows: Annotated[int, typer.Option(min=12, help="Rows of the speeds that each side trains on, four a step.")] = 40,
    minutes: Annotated[float, typer.Option(min=0, max=60, help="For all of it; 0: the speeds alone.")] = 60,
    work: Annotated[Path | None, typer.Option(help="Folder of what is measured: a second call with it goes on.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the night's training with a plain SFTTrainer: tokens a second, memory, and the time to the same loss."""
    from assistant.bench_training import bench_training_on_sample

    home, settings = opened(context)
    figures = bench_training_on_sample(
        home,
        settings,
        rows=rows,
        minutes=minutes,
        work=work,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    _print(figures, as_json=as_json)


@bench.command("kills")
def bench_kills_command(
    kills: Annotated[int, typer.Option(min=1, help="How often the training is killed.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Kill a training of a tiny model again and again, also while it saves, and compare it with one that was let alone."""
    import tempfile

    from training.bench_kills import bench_kills

    with tempfile.TemporaryDirectory(prefix="nightschool-bench-") as folder:
        figures = bench_kills(Path(folder), kills=kills, seed=seed, tell=lambda line: print(line, file=sys.stderr, flush=True))
    _print(figures, as_json=as_json)


@bench.command("night")
def bench_night_command(
    context: typer.Context,
    questions: Annotated[int, typer.Option(min=4, help="Questions asked idle, and as many during a training.")] = 24,
    as_json: JsonOption = False,
) -> None:
    """Compare the chat's time to the first token while a night trains with its idle time."""
    from assistant.bench_night import bench_night

    home, settings = opened(context)
    _print(bench_night(home, settings, questions=questions), as_json=as_json)


@bench.command("gate")
def bench_gate_command(
    repeats: Annotated[int, typer.Option(min=3, help="Repeats of each case, in turns over 40, 80 and 150 facts.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Let the gate decide over planted contestants, some better, some worse, some no better, and count its verdicts."""
    from training.bench_gate import bench_gate

    _print({**bench_gate(repeats=repeats)}, as_json=as_json)


@bench.command("retrieval")
def bench_retrieval_command(
    context: typer.Context,
    documents: Annotated[Path | None, typer.Option(help="A folder of documents (default: the sample company).")] = None,
    questions: Annotated[Path | None, typer.Option(help="JSONL of questions with their sources.")] = None,
    stages: Annotated[str, typer.Option(help="fts, dense, hybrid, rerank, several with commas, or all.")] = "all",
    as_json: JsonOption = False,
) -> None:
    """Measure what each stage of the search finds, and its time, in a throw-away home."""
    from assistant.bench_retrieval import STAGES, bench_retrieval
    from assistant.progress import DocumentBar

    _, settings = opened(context)
    documents, questions = _company(documents, questions)
    wanted = [stage for stage in STAGES if stages == "all" or stage in stages.split(",")]
    if unknown := set(stages.split(",")) - {*STAGES, "all"}:
        raise typer.BadParameter(f"there is no stage {min(unknown)!r}: use {', '.join(STAGES)}, or all")
    with DocumentBar() as bar:
        figures = bench_retrieval(
            documents,
            questions,
            stages=wanted,
            encoder=settings.documents.encoder,
            reranker=settings.documents.reranker,
            chunk_tokens=settings.documents.chunk_tokens,
            progress=bar.encoded,
        )
    _print(figures, as_json=as_json)


@bench.command("scale")
def bench_scale_command(
    chunks: Annotated[str, typer.Option(help="Numbers of made-up passages, with commas.")] = "10000,100000",
    as_json: JsonOption = False,
) -> None:
    """Measure how the time of a search grows with the number of passages (made up, without the encoder)."""
    from assistant.bench_scale import bench_scale
    from assistant.progress import DocumentBar

    if not all(size.strip().isdigit() and int(size) for size in chunks.split(",")):
        raise typer.BadParameter(f"{chunks!r} is no list of numbers: write 10000,100000 for example")
    with DocumentBar() as bar:
        _print(bench_scale([int(size) for size in chunks.split(",")], progress=bar.encoded), as_json=as_json)


@bench.command("answers")
def bench_answers_command(
    context: typer.Context,
    documents: Annotated[Path | None, typer.Option(help="A folder of documents (default: the sample company).")] = None,
    questions: Annotated[Path | None, typer.Option(help="JSONL of questions with answers and sources.")] = None,
    adapter: Annotated[str, typer.Option(help="A version of this home (default: the base model).")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions; 0: all.")] = 0,
    absent: Annotated[float, typer.Option(min=0.0, max=0.9, help="Leave out the pages of this share of the facts.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the answers on a company's documents, as served, in a throw-away home."""
    from assistant.bench_answers import bench_answers
    from assistant.engines.base import BASE_VERSION
    from assistant.progress import DocumentBar

    home, settings = opened(context)
    documents, questions = _company(documents, questions)
    prepare = announce_import if adapter in ("", BASE_VERSION) else bring_starter
    prepare(home, settings)
    with DocumentBar() as bar:
        figures = bench_answers(
            home,
            settings,
            documents=documents,
            questions=questions,
            adapter=adapter,
            limit=limit,
            absent=absent,
            progress=bar.answered,
        )
    _print(figures, as_json=as_json)


@bench.command("curve")
def bench_curve_command(
    context: typer.Context,
    work: Annotated[Path, typer.Option(help="Folder of the trainings: a second call with it goes on where the first stopped.")],
    points: Annotated[str, typer.Option(help="Numbers of examples, with commas.")] = "25,50,100,200,400",
    limit: Annotated[int, typer.Option(min=10, help="Most sealed questions.")] = 60,
    minutes: Annotated[float, typer.Option(min=1.0, help="After so many minutes no further point is begun.")] = 60.0,
    start: Annotated[Literal["starter", "base"], typer.Option(help="What the trainings begin from.")] = "starter",
    picture: Annotated[Path | None, typer.Option(help="Also draw the curve into this SVG file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a night brings by the number of examples, on the sample company."""
    from assistant.bench_curve import bench_curve
    from assistant.bench_curve import picture as drawn

    if not all(each.strip().isdigit() and int(each) for each in points.split(",")):
        raise typer.BadParameter(f"{points!r} is no list of numbers: write 25,50,100 for example")
    home, settings = opened(context)
    data = sample_company()
    figures = bench_curve(
        home,
        settings,
        documents=data / "handbook",
        practice=data / "questions" / "practice.jsonl",
        sealed=data / "questions" / "sealed.jsonl",
        points=[int(each) for each in points.split(",")],
        work=work,
        limit=limit,
        minutes=minutes,
        from_starter=start == "starter",
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if picture is not None:
        picture.write_text(drawn(figures["points"]), encoding="utf-8")
    _print(figures, as_json=as_json)


def _company(documents: Path | None, questions: Path | None) -> tuple[Path, Path]:
    """Return the documents and questions that are named, or the sample company's."""
    if (documents is None) != (questions is None):
        raise typer.BadParameter("--documents and --questions go together")
    data = sample_company()
    return documents or data / "handbook", questions or data / "questions" / "practice.jsonl"


def _print(figures: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        emit(figures)
        return
    for name, value in figures.items():
        print(f"{name}: {value}")
