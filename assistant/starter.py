"""The rows behind the starter adapter: questions about organisations that exist for it alone, as the chat would ask them.

They teach reading, citing and refusing, not facts. So the passages come from the chat's own search, in changing number and
order; figures are exchanged in passage and answer together, so that nothing is learnt by heart (as the entity substitutions
of Longpre et al. 2021, arXiv:2109.05052); pages are taken away; and some questions follow an earlier one, or are doubted.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assistant.config import Settings
from assistant.engines.template import ChatTemplate
from assistant.hardware import PASSAGES_OF_LINES, SMALL_MODEL_LINES, PromptLimits
from assistant.home import Home
from assistant.library import Library
from assistant.models import open_base
from assistant.prompt import passage_of, render
from assistant.retrieval.followups import carried_over
from assistant.retrieval.search import Hit
from assistant.services import open_library
from feedback.errors import SettingsError
from feedback.records import Message, Passage
from feedback.support import as_read, best_support
from feedback.wording import REFUSAL
from training.curation import Example, unrated
from training.questions import QuestionRow, load_questions

ORGANISATIONS = Path(__file__).resolve().parent.parent / "data" / "starter"
"""The organisations that ship, beside the packages."""
LIMITS = PromptLimits(tokens=400, passages=PASSAGES_OF_LINES, following=0, lines=SMALL_MODEL_LINES)
"""The prompts that the starter adapter is trained on: as they are served."""
CANDIDATES = 8
"""Passages that the search gives, of which a prompt takes some."""
FEW, FEWER, PASSAGE_WEIGHTS = (1, 2), (-1, 0, 2), (0.06, 0.08, 0.2, 0.6, 0.06)
"""How many passages a row has, then how many more than the limit's, and how often each: mostly the limit's."""
LINES, LINES_WEIGHTS = (1.0, 0.67, 0.34, 1.67, 0.0), (0.7, 0.1, 0.08, 0.08, 0.04)
"""How many of the limit's lines a row has, as a share of it, and how often; 0: whole passages."""
SHUFFLED = 0.1
"""Share of the rows whose passages stand in another order than their best lines: the first is likely, not always, right."""
HIDDEN = 0.2
"""Share of the answerable questions that come once more with their pages taken away."""
EXCHANGED = 0.5
"""Share of the answers with figures that come once more with other figures."""
FOLLOWING = 0.05
DOUBTED = 0.06
"""Shares of the rows that stand behind an earlier question, and that come once more with somebody doubting the answer."""
HARD_SCORE = 0.39
"""Least score of the best passage of a refusal: easier ones teach nothing."""
HINTED = 0.25
"""Share of the questions that get a wish for the form of the answer, as people add it: what is asked stays in front of it."""
HINTS = (
    "Answer briefly.",
    "Give only the answer.",
    "Answer in as few words as possible.",
    "Please state it exactly as it is written.",
    "Just the fact, no explanation.",
    "Reply with the exact term.",
)
FIGURE_HINTS = (
    "Answer with the number.",
    "Give only the figure.",
    "Please give the exact value with its unit.",
    "Reply with a numeric value.",
    "State the exact number.",
)
DOUBTS = (
    "Really? That does not sound right to me.",
    "Hm, I had heard something else.",
    "I think you are mistaken.",
    "Can you check that again?",
    "My colleague told me something different.",
    "That cannot be true, can it?",
    "I doubt it. Look once more, please.",
    "It used to be otherwise. Is that still what the page says?",
    "You must be wrong about this.",
    "Somebody in my team is certain that this is not so.",
)
_FIGURE = re.compile(r"(?<![\d:./@-])\d{1,4}(?![\d:/@-]|\.\d)")

_ASKS_FIGURE = re.compile(r"\bhow (?:many|much|long|far|often|old|large|high|soon|early|late)\b", re.IGNORECASE)

Tell = Callable[[int, int], None]
Focused = Callable[[Sequence[Passage], str, int], tuple[Passage, ...]]
"""Gives passages the excerpts that lie closest to a question (Library.focused)."""


@dataclass(frozen=True)
class _Asked:
    """A question with what the search finds for it."""

    row: QuestionRow
    hits: tuple[Hit, ...]


def organisations(folder: Path) -> list[Path]:
    """Return the folders that hold `pages/` and `questions.jsonl`. Raises SettingsError when there is none."""
    found = sorted(each for each in folder.glob("*/") if (each / "questions.jsonl").is_file() and (each / "pages").is_dir())
    if not found:
        raise SettingsError(f"There is no folder with pages and questions.jsonl in {folder}: name the starter's documents.")
    return found


def starter_rows(
    folder: Path,
    home: Home,
    settings: Settings,
    *,
    limits: PromptLimits = LIMITS,
    limit: int | None = None,
    refusals: int = 0,
    seed: int = 0,
    tell: Tell = lambda *_: None,
) -> list[Example]:
    """Build the rows from the organisations in `folder`, the same for the same documents, limits, prompt form and seed.

    With a `limit` about so many rows are made, `refusals` of them refusing, from as few organisations (drawn by the seed) as
    hold enough questions. The documents are indexed in a throw-away home, the base model of `home` counts the tokens. `tell`
    is given how many questions were searched, and of how many.
    """
    count = ChatTemplate(open_base(home.models, settings.engine.base_model).hf_dir).count
    # few questions have near pages beside their own, so more are asked where many are to refuse
    hidden, wanted = (HIDDEN, None) if limit is None else (1.0, limit + 2 * refusals)
    with tempfile.TemporaryDirectory() as scratch:
        library = open_library(Home(Path(scratch)), settings)
        writer = _Writer(limits, count, library.focused, random.Random(seed), hidden=hidden)
        rows = _written(writer, _searched(library, _drawn(folder, wanted, seed), seed=seed, tell=tell))
        return list(rows) if limit is None else _balanced(rows, limit=limit, refusals=refusals)


def _written(writer: _Writer, searched: Iterable[_Asked]) -> Iterator[Example]:
    earlier: _Asked | None = None
    for one in searched:
        yield from writer.rows(one, earlier if earlier and earlier.row.collection == one.row.collection else None)
        earlier = one


def _balanced(rows: Iterable[Example], *, limit: int, refusals: int) -> list[Example]:
    """Return the first rows that answer and the first that refuse, so many of each; where these are fewer, more that answer."""
    left = {False: limit - refusals, True: refusals}
    taken: list[Example] = []
    spare: list[Example] = []
    for row in rows:
        refuses = row.completion == REFUSAL
        if left[refuses] > 0:
            left[refuses] -= 1
            taken.append(row)
        elif not refuses:
            spare.append(row)
        if not any(left.values()):
            break
    return [*taken, *spare][:limit]


def questions_in(folder: Path) -> int:
    """Return how many questions the organisations in `folder` have: about as many rows can be made."""
    return sum(len(load_questions(each / "questions.jsonl")) for each in organisations(folder))


def _drawn(folder: Path, limit: int | None, seed: int) -> dict[Path, list[QuestionRow]]:
    """Return the organisations that are needed, each with the questions to ask."""
    found = organisations(folder)
    questions = {each: load_questions(each / "questions.jsonl") for each in found}
    if limit is None:
        return questions
    random.Random(seed).shuffle(found)
    drawn: dict[Path, list[QuestionRow]] = {}
    for each in found:
        left = limit - sum(map(len, drawn.values()))
        if left > 0:
            rows = questions[each]
            drawn[each] = random.Random(seed).sample(rows, min(left, len(rows)))
    return drawn


def _searched(library: Library, organised: Mapping[Path, Sequence[QuestionRow]], *, seed: int, tell: Tell) -> Iterator[_Asked]:
    """Search every organisation's own pages for its questions."""
    for folder in organised:
        library.add([folder / "pages"], collection=folder.name)
    library.index()
    rows = [replace(row, collection=folder.name) for folder, asked in organised.items() for row in asked]
    draw = random.Random(seed)
    for place, plain in enumerate(rows):
        tell(place, len(rows))
        row = _hinted(plain, draw)
        yield _Asked(row, tuple(library.search(row.question, limit=CANDIDATES, collection=row.collection)))


def _hinted(row: QuestionRow, draw: random.Random) -> QuestionRow:
    """Return some questions with a wish for the answer's form; those that nothing answers as often as the others."""
    hints = FIGURE_HINTS if _ASKS_FIGURE.search(row.question) else HINTS
    hint = draw.choice(hints)
    if draw.random() >= HINTED or row.extra.get("kind") in ("sentence", "yesno", "list"):
        return row
    return replace(row, question=f"{row.question.rstrip()} {hint}")


class _Writer:
    """Writes the rows of one question after the other, drawing from one stream of chance."""

    def __init__(
        self,
        limits: PromptLimits,
        count: Callable[[Sequence[Message]], int],
        focused: Focused,
        draw: random.Random,
        *,
        hidden: float,
    ) -> None:
        self._limits, self._count, self._focused, self._draw, self._hidden = limits, count, focused, draw, hidden

    def rows(self, asked: _Asked, earlier: _Asked | None) -> Iterator[Example]:
        """Yield the rows of a question; none where no model would be asked, or the lines that it reads lack the answer."""
        row, draw = asked.row, self._draw
        name = f"{row.collection}/{row.id}"
        gold = self._gold(asked)
        others = [hit for hit in asked.hits if hit.document not in row.sources]
        if gold is None:  # the documents do not answer, or the search does not find the page: as served, that is a refusal
            if others and max(hit.score for hit in others) >= HARD_SCORE:
                yield self._refusal(name, row, others)
            return
        past = self._past(earlier) if earlier is not None and draw.random() < FOLLOWING else ()
        yield from self._answer(name, row, row.question, gold, asked.hits, past)
        if draw.random() < EXCHANGED and (changed := self._exchanged(row, gold)):
            others_too = [hit for hit in asked.hits if hit is not gold]
            yield from self._answer(f"{name}/other figures", changed[0], row.question, changed[1], others_too, ())
        if draw.random() < DOUBTED:
            said = (Message(role="user", content=row.question), Message(role="assistant", content=_plain(row)))
            yield from self._answer(f"{name}/doubted", row, draw.choice(DOUBTS), gold, asked.hits, said)
        if draw.random() < self._hidden and others and max(hit.score for hit in others) >= HARD_SCORE:
            yield self._refusal(f"{name}/hidden", row, others)

    def _gold(self, asked: _Asked) -> Hit | None:
        """Return the best passage of the question's sources that holds its answer."""
        for hit in asked.hits:
            if hit.document in asked.row.sources and best_support(asked.row.answer, [passage_of(1, hit)], asked.row.question):
                return hit
        return None

    def _answer(
        self, name: str, row: QuestionRow, said: str, gold: Hit, hits: Sequence[Hit], past: tuple[Message, ...]
    ) -> Iterator[Example]:
        """Yield the row of what was said (the question, or a doubt of its answer), where its lines hold the answer."""
        passages = self._laid_out(said, [gold], [hit for hit in hits if hit is not gold], past)
        held = next((as_read(each) for each in passages if each.chunk_id == gold.chunk_id), None)
        if held and best_support(row.answer, [held], row.question):
            yield unrated(name, render(said, passages, past), f"{_plain(row)} [{held.number}]", "starter")

    def _refusal(self, name: str, row: QuestionRow, others: Sequence[Hit]) -> Example:
        passages = self._laid_out(row.question, [], others, ())
        return unrated(name, render(row.question, passages), REFUSAL, "starter")

    def _past(self, earlier: _Asked) -> tuple[Message, ...]:
        said = _plain(earlier.row) if earlier.row.answerable else REFUSAL
        return (Message(role="user", content=earlier.row.question), Message(role="assistant", content=said))

    def _laid_out(
        self, question: str, first: Sequence[Hit], rest: Sequence[Hit], past: tuple[Message, ...]
    ) -> tuple[Passage, ...]:
        """Return the numbered passages of a prompt: some of them, within the tokens, as found or in another order."""
        counts = (*FEW, *(max(1, self._limits.passages + more) for more in FEWER))
        wanted = self._draw.choices(counts, PASSAGE_WEIGHTS)[0]
        lines = round(self._draw.choices(LINES, LINES_WEIGHTS)[0] * self._limits.lines)
        is_shuffled = self._draw.random() < SHUFFLED
        chosen = [*first, *rest][: max(wanted, 1)]
        most = self._limits.tokens if wanted <= self._limits.passages else 2 * self._limits.tokens
        while True:
            arranged = _numbered(sorted(chosen, key=lambda hit: -hit.score))
            passages = self._focused(arranged, carried_over(question, past) or question, lines)
            if is_shuffled:
                mixed = self._draw.sample(passages, len(passages))
                passages = tuple(replace(each, number=number) for number, each in enumerate(mixed, start=1))
            if len(chosen) == 1 or self._count(render(question, passages, past)) <= most:
                return passages
            chosen.pop()

    def _exchanged(self, row: QuestionRow, gold: Hit) -> tuple[QuestionRow, Hit] | None:
        """Return the question and its passage with another figure in place of the answer's; None where that cannot be."""
        figures = _FIGURE.findall(row.answer)
        if len(figures) != 1 or gold.text.count(row.answer) != 1 or figures[0] in row.question:
            return None
        other = self._figure(figures[0])
        answer = _FIGURE.sub(other, row.answer, count=1)
        if answer in gold.text:
            return None
        return replace(row, answer=answer, accepted=()), replace(gold, text=gold.text.replace(row.answer, answer))

    def _figure(self, figure: str) -> str:
        """Draw a figure of the same length, other than this one."""
        low = 10 ** (len(figure) - 1) if len(figure) > 1 else 2
        return next(other for other in iter(lambda: str(self._draw.randrange(low, 10 ** len(figure))), "") if other != figure)


def _numbered(hits: Sequence[Hit]) -> tuple[Passage, ...]:
    return tuple(passage_of(number, hit) for number, hit in enumerate(hits, start=1))


def _plain(row: QuestionRow) -> str:
    return row.answer.rstrip(". ")
