"""The rows that a night learns beside the ratings: seed questions, the starter adapter's rows, and general ones.

Seed questions come from the indexed documents (`training.seeds`) and are laid out by the chat's own prompt builder. That
searches, and a search by meaning loads a model, so a night lets a subprocess do it: `python -m assistant.night_rows RUN_FOLDER`.
It reads `rows.json` in the run folder, writes `rows.progress` as it goes and `rows.jsonl` at its end, and never opens the store.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assistant.config import Settings
from assistant.documents.store import DocumentStore
from assistant.engines.select import has_cuda
from assistant.engines.template import ChatTemplate
from assistant.hardware import PromptLimits
from assistant.home import Home
from assistant.models import BaseModel, open_base
from assistant.progress import counts_into
from assistant.prompt import Prepared, PromptBuilder
from assistant.services import engine_context, limits_for, open_library
from assistant.shipped import is_for
from assistant.starter import ORGANISATIONS, questions_in, starter_rows
from feedback.records import Message, Passage
from feedback.support import as_read, best_support, content, shown
from feedback.values import fold, states_value
from feedback.wording import REFUSAL, is_refusal
from training.curation import Example, unrated
from training.dataset import mix, rows_wanted
from training.example_checks import near_sealed
from training.general import general_examples
from training.parent import run_child
from training.questions import QuestionRow
from training.seeds import PER_PAGE, Page, absent_rows, seed_rows

REQUEST, ROWS, PROGRESS = "rows.json", "rows.jsonl", "rows.progress"

MOST_PAGES = 1000
"""Of more documents so many are drawn."""
SPARE = 4
"""So many questions are made for each row that is wanted: some are not found by the search, or are refused without a model."""

Tell = Callable[[int, int], None]
"""Is told how many questions have been laid out, and how many are wanted."""


def night_rows(
    home: Home,
    settings: Settings,
    folder: Path,
    *,
    examples: Sequence[Example],
    held_out: Sequence[QuestionRow],
    max_rows: int | None,
    render: Callable[[], None],
) -> list[Example]:
    """Return the rated examples with the rows of the other sources in their shares, at most `max_rows` in all.

    `held_out` are the questions of the examination: nothing that gives one of them away is among the rows. `folder` is the run
    folder, and `render` runs this module over it in a subprocess. Raises RunError when the general rows cannot be read.
    """
    night = settings.night
    plenty = dict.fromkeys(("seed", "starter", "general"), MOST_PAGES * PER_PAGE)
    wanted = rows_wanted(len(examples), plenty, shares_of(settings), max_rows=max_rows).get("seed", 0)
    questions = (
        seed_questions(home, held_out, absent_share=night.absent_share, seed=night.seed, limit=SPARE * wanted) if wanted else []
    )
    request = {
        "home": str(home.root),
        "settings": settings.model_dump(),
        "rated": len(examples),
        "refusing": sum(is_refusal(each.completion) for each in examples),
        "max_rows": max_rows,
        "questions": [{**asdict(row), "history": []} for row in questions],
    }
    found: dict[str, list[Example]] = {"seed": [], "starter": [], "general": general_examples() if night.general_share else []}
    if questions or night.starter_share:
        (folder / REQUEST).write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
        render()
    for line in (folder / ROWS).read_text(encoding="utf-8").split("\n") if (folder / ROWS).exists() else ():
        if line:
            data = json.loads(line)
            prompt = tuple(Message(**message) for message in data["prompt"])
            found[data["source"]].append(unrated(data["id"], prompt, data["completion"], data["source"]))
    return mix(examples, found, shares_of(settings), max_rows=max_rows, seed=night.seed)


def shares_of(settings: Settings) -> dict[str, float]:
    """Return the shares that the other sources are to have of all rows."""
    night = settings.night
    return {"seed": night.seed_share, "starter": night.starter_share, "general": night.general_share}


def seed_questions(
    home: Home, held_out: Sequence[QuestionRow], *, absent_share: float, seed: int, limit: int | None = None
) -> list[QuestionRow]:
    """Return seed questions of a home's documents (at most `limit`) in a drawn order, without any that gives a held-out one away.

    About `absent_share` of them are not answered, since their page is to be kept out of the prompt.
    """
    store = DocumentStore(home.documents_db)
    names = [(str(each["path"]), str(each["collection"])) for each in store.describe()]
    drawn = random.Random(seed).sample(names, min(MOST_PAGES, len(names)))
    documents = [store.document(name, collection=collection) for name, collection in sorted(drawn)]
    pages = (Page(name=each.name, collection=each.collection, text=each.text) for each in documents)
    folded = [fold(row.question) for row in held_out]
    rows = seed_rows(pages, seed=seed)
    random.Random(seed).shuffle(rows)
    kept = itertools.islice((row for row in rows if not _gives_away(row, held_out, folded)), limit)
    return absent_rows(list(kept), absent_share, seed)


def seed_examples(
    home: Home, settings: Settings, questions: Sequence[QuestionRow], *, limit: int | None = None, tell: Tell = lambda *_: None
) -> list[Example]:
    """Lay the questions out as the chat would, until there are `limit` rows (None: all), as many refusals as their share.

    The completion is the value with the citation of the passage that says so, or the standard refusal where the page is kept
    out. What the search does not find, what the chat would refuse without a model, and what is too long makes no row. Loads the
    encoder. Raises ModelError when the base model or the encoder is not there.
    """
    base = open_base(home.models, settings.engine.base_model)
    template = ChatTemplate(base.hf_dir)

    prompts = PromptBuilder(
        open_library(home, settings), template.count, limits=_limits(settings, base), threshold=settings.chat.threshold
    )
    most, wanted = engine_context(settings), len(questions) if limit is None else limit
    refusals = round(wanted * sum(not row.answerable for row in questions) / max(1, len(questions)))
    examples: list[Example] = []
    # refusals first: more of them fall away, and answers then fill what is left
    for row in sorted(questions, key=lambda row: row.answerable):
        if len(examples) >= (wanted if row.answerable else refusals):
            continue
        prepared = prompts.prepare(row.question, collection=row.collection, hidden=() if row.answerable else (row.near_miss,))
        completion = _completion(row, prepared)
        if completion and template.count((*prepared.messages, Message(role="assistant", content=completion))) <= most:
            examples.append(unrated(row.id, prepared.messages, completion, "seed"))
            tell(len(examples), wanted)
    return examples


def _limits(settings: Settings, base: BaseModel) -> PromptLimits:
    """Return the limits of a prompt as it is served here."""
    return limits_for(settings, cuda=settings.engine.kind != "llama_cpp" and has_cuda(), base=base)


def _completion(row: QuestionRow, prepared: Prepared) -> str:
    """Return what should be answered to a question with these passages; "" where that is not clear, or no model is asked."""
    if prepared.refused:
        return ""
    if row.answerable:
        number = _number(row, [as_read(passage) for passage in prepared.passages])
        return f"{row.answer.rstrip('. ')} [{number}]" if number else ""
    answer = row.extra["absent"]
    return "" if best_support(answer, prepared.passages, row.question) else REFUSAL


def _number(row: QuestionRow, passages: Sequence[Passage]) -> int | None:
    """Return the number of the passage that says the answer in the words it was taken from, or None."""
    quote = set(content(row.extra["quote"]))
    saying = [
        passage
        for passage in passages
        if passage.document in row.sources and passage.collection == row.collection and quote <= set(content(shown(passage)))
    ]
    found = best_support(row.answer, saying, row.question)
    return found.number if found else None


def _gives_away(row: QuestionRow, held_out: Sequence[QuestionRow], folded: Sequence[str]) -> bool:
    """Say whether a row asks a held-out question, or holds the value of one from the same page."""
    if folded and near_sealed(fold(row.question), folded):
        return True
    return any(
        states_value(row.answer, value) or states_value(value, row.answer) or states_value(row.question, value)
        for other in held_out
        if set(other.sources) & set(row.sources) and other.collection in ("", row.collection)
        for value in other.values
    )


def _render(folder: Path) -> None:
    request: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    home, settings = Home(Path(request["home"])), Settings.model_validate(request["settings"])
    questions = [
        QuestionRow(**{**row, "accepted": tuple(row["accepted"]), "sources": tuple(row["sources"]), "history": ()})
        for row in request["questions"]
    ]
    with_starter = settings.night.starter_share > 0 and is_for(open_base(home.models, settings.engine.base_model))
    available = {
        "seed": len(questions),
        "starter": questions_in(ORGANISATIONS) if with_starter else 0,
        "general": len(general_examples()),
    }
    wanted = rows_wanted(request["rated"], available, shares_of(settings), max_rows=request["max_rows"])

    tell = counts_into(folder / PROGRESS)
    seeds = seed_examples(home, settings, questions, limit=wanted["seed"], tell=tell) if wanted.get("seed") else []
    starter: list[Example] = []
    if wanted.get("starter"):
        limits = _limits(settings, open_base(home.models, settings.engine.base_model))
        rows = request["rated"] + len(seeds) + wanted["starter"] + wanted.get("general", 0)
        refusing = request["refusing"] + sum(each.completion == REFUSAL for each in seeds)
        lacking = lacking_refusals(settings.night.refusal_share, rows=rows, refusing=refusing, most=wanted["starter"] // 2)
        starter = starter_rows(
            ORGANISATIONS,
            home,
            settings,
            limits=limits,
            limit=wanted["starter"],
            refusals=lacking,
            seed=settings.night.seed,
            tell=tell,
        )
    partial = folder / f"{ROWS}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for each in (*seeds, *starter):
            prompt = [message.as_dict() for message in each.prompt]
            row = {"id": each.id, "prompt": prompt, "completion": each.completion, "source": each.source}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(folder / ROWS)


def lacking_refusals(share: float, *, rows: int, refusing: int, most: int) -> int:
    """Return how many more of `rows` are to refuse, at most `most`, for a share of them all: people rate few refusals.

    A night of few of them forgets to refuse (docs/LOG.md).
    """
    return min(max(round(share * rows) - refusing, 0), most)


def main(folder: Path, parent: int | None = None) -> int:
    """Lay out the rows of a run folder, for the night with the process id `parent`; write rows.jsonl in one step."""
    return run_child(lambda: _render(folder), parent)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
