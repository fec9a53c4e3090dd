"""Questions with answers from nothing but a company's documents: the seed set that a night learns beside the ratings.

Five kinds, all quoted from the page: cells of tables, definitions, short lists, values in sentences, and what a page says under a
heading. A sixth, questions that the documents do not answer, is made of these by taking their page away (`absent_rows`).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from feedback.support import content
from feedback.values import fold
from training.answer_values import other_spellings
from training.english import small, words_of
from training.page_parts import Listing, Section, Table, Text, sections, sentences
from training.questions import QuestionRow
from training.seed_sentences import ROLE_NOUNS, question_of

KINDS = ("table", "value", "definition", "list", "heading")
PER_PAGE = 12
"""Most questions of one page."""
LOOSE, LOOSE_PER_PAGE = ("definition", "list", "heading"), 3
"""Kinds whose answers could also be put otherwise, and how many of each a page gives at most."""
PAGE_CHARS, QUESTION_CHARS = 200_000, 300
"""Of a longer page its beginning is read; a longer question is not asked."""
CELL_WORDS = 12
ANSWER_WORDS = 28
LIST_ITEMS, ITEM_WORDS = (2, 4), 12
"""Fewest and most items of a list that is asked for whole, and most words of each."""
LONE_CONTENT = 3
"""A question with fewer words of its own than this says of which page it is."""

_NOTHING = words_of("- \u2013 \u2014 n/a none no yes x \u2713 ? ...") | {""}
_NAME = re.compile(r"(?:(?:Dr|Mr|Mrs|Ms)\.? )?[A-Z][\w'\u2019-]+(?: [A-Z][\w'\u2019.-]+){1,2}")
_UNBOUND = re.compile(
    r"(?:it|they|this|these|those|that|he|she|each|both|such|there|here|also|then|but|and|or|so|its|their|his|her|otherwise|"
    r"instead|however|neither|either|others?|another|please|the (?:former|latter|same|other|others|rest))\b",
    re.IGNORECASE,
)
_DEFINES = re.compile(
    r"((?:The |An? )?[A-Z][\w'&-]*(?: [\w'&-]+){0,3}?) (is|are|means) (?:an?|the|our|any) "
    r"(?!(?:\w+ )?(?:matter|choice|better|best|first|last|same|different|only|percentage|number|sum|part|rule|reason|case)\b)"
)
_SAYS = re.compile(
    r"\b(?:that|which|who|whose|where|when|for|of|on|in|by|with|from|to)\b|(\b(?:is|are|was|can|may|must|will|has|have)\b)"
)
_UNLISTED = re.compile(r";|:$|://|\b(?:see|click|ask) (?:in|here|also)\b", re.IGNORECASE)
_POINTS_ELSEWHERE = re.compile(r"(?:see|for more|to learn|read|refer|click|this page|below)\b", re.IGNORECASE)
_NO_TERM = re.compile(r"(?:[^A-Za-z]|if\b|note\b|tip\b|example\b|important\b|warning\b|see\b|another\b|section\b)", re.IGNORECASE)
_PERSON = re.compile(rf"\b(?:{ROLE_NOUNS}|Head|Chief|Boss|Contact|Spokesperson|Representative|Treasurer)\b", re.IGNORECASE)
_OF_THINGS = words_of("owner name colour color meaning price cost size weight title address location height length")
_HEADWORDS = words_of(
    "address age amount answer area budget capacity ceiling channel charge class code colour color contact contribution cost",
    "count date day days deadline deposit discount distance duration e-mail email extension fee fine format frequency group",
    "height hour hours interval leave length level limit location mail maximum meaning minimum month name notice number office",
    "owner pay payment penalty period person phone place plan price product quantity range rank rate reason role room salary",
    "share shift site size speed standard status surcharge target team telephone temperature term threshold time title tolerance",
    "type unit value version volume warranty weight width year years",
)
"""Words by which the header of a column is known for a thing's name."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A document as it is indexed: its name and collection, and its text in Markdown."""

    name: str
    collection: str
    text: str


@dataclass(frozen=True)
class _Draft:
    kind: str
    fact: str
    question: str
    answer: str
    quote: str  # the words of the page that say so: a passage that answers holds them
    accepted: tuple[str, ...] = ()


def seed_rows(pages: Iterable[Page], *, per_page: int = PER_PAGE, seed: int = 0) -> list[QuestionRow]:
    """Return questions about the pages, at most `per_page` of each, spread over the kinds; the same for the same pages and seed.

    Of each row `sources` has the page, and `extra` has "kind" (one of `KINDS`) and "quote": what of the page says so. A question
    that two pages or places would answer differently is left out.
    """
    all_pages = sorted(pages, key=lambda page: (page.collection, page.name))
    names = _names(all_pages)
    drafts = [[draft for draft in _drafts(page, names) if len(draft.question) <= QUESTION_CHARS] for page in all_pages]
    answers: dict[tuple[str, str], set[str]] = {}
    for page, draft in ((page, draft) for page, mine in zip(all_pages, drafts, strict=True) for draft in mine):
        answers.setdefault((page.collection, fold(draft.question)), set()).add(fold(draft.answer))
    rows: list[QuestionRow] = []
    asked: set[tuple[str, str]] = set()
    for page, mine in zip(all_pages, drafts, strict=True):
        chosen: list[QuestionRow] = []
        for draft in _spread(mine, seed=f"{seed}/{page.collection}/{page.name}"):
            key = (page.collection, fold(draft.question))
            of_kind = sum(row.extra["kind"] == draft.kind for row in chosen)
            if len(answers[key]) > 1 or key in asked or (draft.kind in LOOSE and of_kind == LOOSE_PER_PAGE):
                continue
            asked.add(key)
            chosen.append(_row(page, draft))
        rows.extend(chosen[:per_page])
    return rows


def absent_rows(rows: Sequence[QuestionRow], share: float, seed: int = 0) -> list[QuestionRow]:
    """Return the rows with about `share` of their facts made unanswerable, in the same order.

    Such a row has no answer and no sources; `near_miss` names the page that is to be kept out of its prompt, and
    `extra["absent"]` holds the answer, which must stand in no passage that is left.
    """
    facts = sorted({row.fact for row in rows})
    random.Random(seed).shuffle(facts)
    gone = set(facts[: round(share * len(facts))])
    return [_without_page(row) if row.fact in gone else row for row in rows]


def _without_page(row: QuestionRow) -> QuestionRow:
    extra = {**row.extra, "absent": row.answer}
    return replace(row, answer="", accepted=(), sources=(), near_miss=row.sources[0], extra=extra)


def _row(page: Page, draft: _Draft) -> QuestionRow:
    digest = hashlib.sha256(f"{page.collection}\n{page.name}\n{draft.question}".encode()).hexdigest()
    spellings = draft.accepted or (other_spellings(draft.answer, draft.question) if draft.kind in ("table", "value") else ())
    return QuestionRow(
        id=f"seed-{digest[:12]}",
        fact=f"{page.collection}/{page.name}: {draft.fact}",
        question=draft.question,
        answer=draft.answer,
        accepted=spellings,
        sources=(page.name,),
        collection=page.collection,
        extra={"kind": draft.kind, "quote": draft.quote},
    )


def _spread(drafts: Sequence[_Draft], *, seed: str) -> Iterator[_Draft]:
    """Yield the drafts of one page, a kind after the other, in an order drawn within each kind."""
    draw = random.Random(seed)
    kinds = ([draft for draft in drafts if draft.kind == name] for name in KINDS)
    queues = [draw.sample(kind, len(kind)) for kind in kinds if kind]
    while queues:
        for queue in queues:
            yield queue.pop()
        queues = [queue for queue in queues if queue]


def _drafts(page: Page, names: frozenset[str]) -> Iterator[_Draft]:
    parts = sections(
        page.text[:PAGE_CHARS], fallback_title=page.name.rpartition("/")[2].rpartition(".")[0].replace("-", " ") or page.name
    )
    title = parts[0].heading if parts else ""
    leads = Counter(fold(text.lead) for part in parts for text in _texts(part) if text.lead)
    headings = Counter(fold(part.heading) for part in parts)
    tables = sum(isinstance(block, Table) for part in parts for block in part.blocks)
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Table):
                yield from _of_table(block, title if tables == 1 else part.heading)
            elif isinstance(block, Listing) and headings[fold(part.heading)] == 1:
                yield from _of_list(block, part)
        for text in _texts(part):
            if text.lead and leads[fold(text.lead)] == 1:
                yield from _of_definition(text, part)
            for sentence in sentences(text.words):
                yield from _of_sentence(sentence, title, names)
        if part.blocks and isinstance(opening := part.blocks[0], Text):
            yield from _of_opening(opening, names)
        if headings[fold(part.heading)] == 1:
            yield from _of_heading(part, title, names)


def _texts(part: Section) -> Iterator[Text]:
    for block in part.blocks:
        if isinstance(block, Text):
            yield block
        elif isinstance(block, Listing):
            yield from block.items


def _of_table(table: Table, where: str) -> Iterator[_Draft]:
    """Yield what each cell says, and for which row, where one row alone says so."""
    keys = Counter(row[0] for row in table.rows)
    for column in range(1, len(table.header)):
        values = Counter(fold(row[column]) for row in table.rows)
        for row in table.rows:
            key, header, cell = row[0], table.header[column], row[column]
            # with an empty corner the columns are the things, and the rows say what is told of them
            thing, told = (key, header) if table.header[0] else (header, key)
            if not thing or not told or keys[key] > 1 or fold(cell) in _NOTHING or fold(cell) == fold(key):
                continue
            if max(len(cell.split()), len(key.split())) > CELL_WORDS:
                continue
            fact, quote = f"{thing} / {told}", f"{key} {cell}"
            yield _Draft("table", fact, _lone(_of_cell(thing, told), where), cell, quote)
            if (
                table.header[0]
                and values[fold(cell)] == 1
                and len(cell.split()) <= 4
                and _is_noun(told)
                and _is_noun(table.header[0])
            ):
                question = f"For which {small(table.header[0])} is the {small(told)} {cell}?"
                yield _Draft("table", fact, _lone(question, where), key, quote)


def _of_cell(thing: str, told: str) -> str:
    """Ask for a cell: by a noun in its header where there is one, by the header as a whole otherwise."""
    if told.split()[0].casefold() == "who":
        return f"For {thing}, {small(told)}?"
    if fold(told) in ("extension", "ext", "ext."):
        return f"Which extension does {thing} have?"
    if fold(told) in ("e-mail", "email", "mail"):
        return f"What is the e-mail address of {thing}?"
    if _is_noun(told):
        verb = "are" if told.split()[-1].casefold() in ("hours", "days", "years") else "is"
        of = "of" if told.casefold() in _OF_THINGS else "for"
        return f"What {verb} the {small(told)} {of} {thing}?"
    return f'What is given under "{told}" for {thing}?'


def _is_noun(header: str) -> bool:
    """Say whether a header is a thing's name: its last word, before any "of" or "in", is one that headers use."""
    words = re.split(r" (?:of|for|in|on|per|a|an|at|to|by)\b|[,(]", header)[0].split()
    return (
        bool(words) and words[-1].casefold() in _HEADWORDS and words[0].casefold() not in ("on", "per", "in", "at", "by", "for")
    )


def _of_definition(text: Text, part: Section) -> Iterator[_Draft]:
    said = sentences(text.words)
    if not said or len(text.lead.split()) > 5 or _NO_TERM.match(text.lead) or not 2 <= len(said[0].split()) <= ANSWER_WORDS:
        return
    first, lead = said[0].rstrip("."), text.lead
    if re.search(r"\([a-z]\)|://|\?$", first):
        return
    name = _NAME.match(first)
    quote = f"{lead} {first}"
    if name and (name.end() == len(first) or first[name.end()] == ",") and _PERSON.search(lead):
        yield _Draft("definition", lead, f"Who is the {small(lead)}?", name[0], quote)
    elif re.match(r"(?:an?|the|any) ", first, re.IGNORECASE) and not ((says := _SAYS.search(first)) and says[1]):
        yield _Draft("definition", lead, f'What does "{lead}" mean?', first, quote)
    elif len(first.split()) >= 4 and not _UNBOUND.match(first) and not first.endswith(":"):
        yield _Draft("definition", lead, f'What is said about "{lead}" under "{part.heading}"?', first, quote)


def _of_list(listing: Listing, part: Section) -> Iterator[_Draft]:
    items = [item.whole.rstrip(".;, ") for item in listing.items]
    least, most = LIST_ITEMS
    if not least <= len(items) <= most or sum(isinstance(block, Listing) for block in part.blocks) > 1:
        return
    if any(len(item.split()) > ITEM_WORDS or _UNLISTED.search(item) or len(sentences(item)) > 1 for item in items):
        return
    leads = [fold(item.lead) for item in listing.items if item.lead]
    if len(set(leads)) < len(leads):
        return
    question = f'Which {_count(len(items))} points are listed under "{part.heading}"?'
    if listing.intro and len(listing.intro.split()) <= 12:
        question = f'What is listed under "{part.heading}" after "{listing.intro}"?'
    yield _Draft("list", f"list {part.heading}", question, "; ".join(items), " ".join(items))


def _count(number: int) -> str:
    return {2: "two", 3: "three", 4: "four"}[number]


def _of_sentence(sentence: str, title: str, names: frozenset[str]) -> Iterator[_Draft]:
    made = question_of(sentence, names)
    if made is not None:
        yield _Draft("value", sentence, _lone(made.question, title), made.answer, sentence, made.accepted)


def _of_opening(opening: Text, names: frozenset[str]) -> Iterator[_Draft]:
    """Yield what the sentence that opens a section defines."""
    first = next(iter(sentences(opening.words)), "")
    defined = _DEFINES.match(first)
    if not defined or _UNBOUND.match(first) or len(first.split()) > ANSWER_WORDS or not first.endswith(".") or ":" in first:
        return
    subject = defined[1] if defined[1].split()[0] in names else small(defined[1])
    if not re.search(r"\b(?:and|or|of|for|in|on|who|that|which|with|every|all|[a-z]+ing)\b", subject):
        verb = "are" if defined[2] == "are" else "is"
        yield _Draft("definition", f"what {subject}", f"What {verb} {subject}?", first.rstrip("."), first)


def _of_heading(part: Section, title: str, names: frozenset[str]) -> Iterator[_Draft]:
    first = part.blocks[0] if part.blocks else None
    if not isinstance(first, Text) or first.lead or fold(part.heading) == fold(title):
        return
    said = next(iter(sentences(first.words)), "")
    if not 4 <= len(said.split()) <= ANSWER_WORDS - 4 or not said.endswith("."):
        return
    if _UNBOUND.match(said) or _POINTS_ELSEWHERE.match(said):
        return
    about = re.sub(r"^\d+(?:\.\d+)*[.)]?\s+", "", part.heading).rstrip(": ")
    if about.endswith("?"):
        yield _Draft("heading", f"heading {part.heading}", _lone(about, title), said.rstrip("."), said)
        return
    words = about.split()
    if not words or re.match(
        r"(?:before|after|during|without|with|if|where|at|in|on|for|from|while|once|until|do|does|is|are|can|q\d)\b",
        about,
        re.IGNORECASE,
    ):
        about = f'"{about}"'
    elif words[0] not in names and not any(letter.isupper() for letter in words[0][1:]) and not _NAME.match(about):
        about = small(about)
    yield _Draft("heading", f"heading {part.heading}", f'What does the page "{title}" say about {about}?', said.rstrip("."), said)


def _lone(question: str, where: str) -> str:
    """Say of which page (or part of it) a question is that has few words of its own."""
    if len(set(content(question)) - {"given", "list"}) >= LONE_CONTENT or not where:
        return question
    return f"{where}: {small(question)}"


def _names(pages: Sequence[Page]) -> frozenset[str]:
    """Return the words that are written with a capital within sentences more often than without."""
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for page in pages:
        for match in re.finditer(r"(?<=[a-z,] )[A-Za-z][\w-]*", page.text):
            word = match[0]
            (capital if word[0].isupper() else small)[word.casefold()] += 1
    found = {word for word, count in capital.items() if count > small[word]}
    return frozenset(word.capitalize() for word in found)
