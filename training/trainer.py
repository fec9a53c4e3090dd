"""Train an adapter in a process of its own: `python -m training.trainer RUN_FOLDER [ID_OF_THE_STARTING_PROCESS]`.

    config.json      in: the recipe                    progress.jsonl   out: one line a step
    dataset/         in: the snapshot                  checkpoints/     out: what a second start goes on from
    trainer.lock     held while training               adapter/         out: PEFT's two files and adapter.gguf, all or nothing
                                                       result.json      out: how it ended

Exit codes: 0 the adapter is there; 1 failed (the sentence is in result.json and on stderr); 3 stopped by SIGTERM, to be
started again; 4 the parent died. It opens no database, asks no network, and yields the processor to whoever serves.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from feedback.errors import NightschoolError, RunError
from training.memory import keep_pages
from training.parent import end_with_parent
from training.recipe import Recipe

EXIT_DONE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 3


class Stopped(Exception):
    """SIGTERM came before the first step."""


class StopFlag:
    """Remembers that SIGTERM came; before training it ends the process at once, later at the end of the step."""

    def __init__(self) -> None:
        self.asked = False
        self.training = False

    def install(self) -> None:
        """Answer SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._answer)

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if not self.training:
            raise Stopped


def main(arguments: list[str] | None = None) -> int:
    """Run one training and return the exit code."""
    started = time.monotonic()
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) not in (1, 2) or not all(pid.isdecimal() for pid in given[1:]):
        print("usage: python -m training.trainer RUN_FOLDER [ID_OF_THE_STARTING_PROCESS]", file=sys.stderr)
        return 2
    run = Path(given[0])
    end_with_parent(int(given[1]) if len(given) == 2 else None)
    stop = StopFlag()
    stop.install()
    try:
        with trainer_lock(run):
            return _held(run, stop, started)
    except NightschoolError as error:
        print(str(error), file=sys.stderr)
        return EXIT_FAILED


def _held(run: Path, stop: StopFlag, started: float) -> int:
    try:
        (run / "result.json").unlink(missing_ok=True)
        recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
        _be_modest(recipe)
        keep_pages()
        from training.session import train  # heavy: torch, transformers, peft, trl

        summary = train(run, recipe, stop=stop, started=started)
        if summary is None:
            return _stopped(run)
        write_result(run, "done", reason="", details=summary)
        return EXIT_DONE
    except Stopped:
        return _stopped(run)
    except Exception as error:  # the outer edge of the process: whatever happened, the run folder must say it
        reason = str(error) if isinstance(error, NightschoolError) else f"The trainer failed: {type(error).__name__}: {error}"
        write_result(run, "failed", reason=reason, details={})
        if not isinstance(error, NightschoolError):
            import traceback

            traceback.print_exc()
        print(reason, file=sys.stderr)
        return EXIT_FAILED


def _stopped(run: Path) -> int:
    write_result(run, "stopped", reason="The training was stopped; started again, it goes on from its checkpoint.", details={})
    return EXIT_STOPPED


def _be_modest(recipe: Recipe) -> None:
    """Yield to the server, set what libraries read when they are loaded, and keep their remarks out of the error output."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    os.nice(recipe.nice)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.update(
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        TQDM_DISABLE="1",
        TRANSFORMERS_VERBOSITY="error",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    # idle OpenMP threads that spin would take the processor from the server
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def write_result(run: Path, outcome: Literal["done", "stopped", "failed"], *, reason: str, details: Mapping[str, Any]) -> None:
    """Write result.json: the outcome, a sentence when it is not "done", and the figures of the training."""
    write_flushed(run / "result.json", json.dumps({"outcome": outcome, "reason": reason, **details}, indent=2))


def told_reason(run: Path) -> str:
    """Return why the training of a run folder did not end well, as it says itself."""
    try:
        return str(json.loads((run / "result.json").read_text("utf-8"))["reason"])
    except (OSError, ValueError, KeyError):
        return "it left no reason"


def write_flushed(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def trainer_lock(run: Path) -> Iterator[None]:
    """Hold `<run>/trainer.lock`; the kernel lets go of it at any death. Raises RunError when another trainer holds it."""
    if not run.is_dir():
        raise RunError(f"There is no run folder {run.name!r}: start the night again.")
    with (run / "trainer.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"Another trainer is working on {run.name}: wait for it, or stop it first.") from error
        yield


if __name__ == "__main__":
    sys.exit(main())
