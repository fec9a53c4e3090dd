"""`nightschool bench …`: every figure that the README states is printed by one of these."""

from __future__ import annotations

from typing import Annotated

import typer

from assistant.console import JsonOption, emit, opened

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
    rows: Annotated[int, typer.Option(min=12, help="Rows that each side trains on, four a step.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Compare the night's training with a plain SFTTrainer on the same rows."""
    from assistant.bench_training import bench_training_on_sample

    home, settings = opened(context)
    _print(bench_training_on_sample(home, settings, rows=rows), as_json=as_json)


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


def _print(figures: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        emit(figures)
        return
    for name, value in figures.items():
        print(f"{name}: {value}")
