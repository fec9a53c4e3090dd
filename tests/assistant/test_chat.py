"""The chat: what is recorded, whatever happens to the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.ask import source_lines
from assistant.chat import Chat, Done, Piece, Sources
from assistant.engines.base import ChatRequest, Delta
from assistant.hardware import PromptLimits
from assistant.library import Library
from assistant.prompt import Prepared, PromptBuilder
from assistant.retrieval.followups import REWRITE
from assistant.services import Services
from feedback.errors import NotYourTurn, QuestionError, QueueFull
from feedback.records import Turn
from feedback.wording import REFUSAL


@pytest.fixture
def services(make_services: Callable[..., Services], tmp_path: Path) -> Services:
    return make_services(tmp_path / "home", queue=2)


class Dictated:
    """An engine that streams what it was told to, in small pieces."""

    name = "dictated 1"

    def __init__(self, text: str) -> None:
        self._text = text

    def stream(self, request: ChatRequest, adapter: object) -> Iterator[Delta]:
        for at in range(0, len(self._text), 3):
            yield Delta(text=self._text[at : at + 3])
        yield Delta(text="", finish_reason="stop", prompt_tokens=20, completion_tokens=len(self._text))


class FarPages:
    """Prepares questions as served, with passages that hardly touch them."""

    def __init__(self, prompts: PromptBuilder) -> None:
        self._prompts = prompts

    def prepare(self, *question: Any, **options: Any) -> Prepared:
        prepared = self._prompts.prepare(*question, **options)
        return replace(prepared, passages=tuple(replace(each, score=0.35, scores={}) for each in prepared.passages))


def chat_over(services: Services, engine: Any, *, prompts: Any, rewrites: bool = False) -> Chat:
    """Return a chat over the stores of `services`, with an engine and prompts of its own."""
    return Chat(
        store=services.store,
        prompts=prompts,
        engine=engine,
        pool=services.pool,
        base_model="reader",
        base_hash="0" * 64,
        max_tokens=96,
        queue=2,
        rewrites=rewrites,
    )


def dictated(services: Services, question: str, text: str, *, far: bool = False) -> tuple[str, Turn]:
    """Ask a model that answers `text`; give what was shown while it streamed, and the turn as it is stored."""
    chat = chat_over(services, Dictated(text), prompts=FarPages(services.prompts) if far else services.prompts)
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    events = list(chat.ask(user_id=user, conversation_id=place, question=question, history=False))
    shown = "".join(event.text for event in events if isinstance(event, Piece))
    (turn,) = services.store.turns(place)
    assert isinstance(events[-1], Done) and events[-1].turn == turn
    return shown, turn


def ask(services: Services, question: str, *, name: str = "anna", conversation: str = "", history: bool = False) -> Turn:
    user = services.store.user_by_name(name).id
    place = conversation or services.store.start_conversation(user, history=history)
    events = list(services.chat.ask(user_id=user, conversation_id=place, question=question, history=history))
    assert isinstance(events[0], Sources) and isinstance(events[-1], Done)
    assert "".join(event.text for event in events if isinstance(event, Piece)).strip() == events[-1].turn.answer.text  # type: ignore[union-attr]
    return events[-1].turn


def test_a_turn_stores_what_the_model_saw_and_did(services: Services) -> None:
    turn = ask(services, "How much may a room in London cost?")
    assert turn.asked.messages == services.engine.seen[-1]  # type: ignore[attr-defined]
    assert turn.asked.passages[0].document == "travel/hotels.md" and turn.asked.passages[0].document_version == 1
    assert (turn.asked.adapter, turn.asked.base_hash, turn.asked.engine) == ("base", "0" * 64, "reading aloud 1")
    answer = turn.answer
    assert answer is not None and "€140" in answer.text and answer.finish_reason == "stop"
    assert answer.prompt_tokens == 20 and answer.ttft_s is not None and 0 < answer.ttft_s <= answer.total_s


def test_the_scores_of_every_stage_of_a_hybrid_search_are_kept_with_the_turn(services: Services, tmp_path: Path) -> None:
    library = Library(tmp_path / "hybrid.db", encoder="minilm")
    library.add_folder(services.home.root / "pages")
    limits = PromptLimits(tokens=400, passages=2, following=0, lines=3)
    prompts = PromptBuilder(library, services.engine.count_tokens, limits=limits, threshold=0)
    question = "How much may a room in London cost a night?"
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    chat = chat_over(services, Dictated("It may cost €140 [1]."), prompts=prompts)
    list(chat.ask(user_id=user, conversation_id=place, question=question, history=False))
    (turn,) = services.store.turns(place)
    assert turn.passages[0].document == "travel/hotels.md"
    assert set(turn.passages[0].scores) == {"fts", "dense", "fused", "evidence", "rerank", "coverage", "line"}
    found = {hit.chunk_id: hit.scores for hit in library.search(question, limit=limits.passages)}
    for passage in turn.passages:
        assert passage.scores == found[passage.chunk_id] | {"line": passage.scores["line"]}
        assert passage.score == pytest.approx((passage.scores["dense"] + passage.scores["coverage"]) / 2, abs=1e-3)


def test_a_question_far_from_the_documents_is_refused_without_the_model(services: Services) -> None:
    turn = ask(services, "Which molars does the submarine dentist polish?")
    assert turn.answer is not None and (turn.answer.text, turn.answer.finish_reason) == (REFUSAL, "refused")
    assert turn.asked.messages == () and services.engine.seen == []  # type: ignore[attr-defined]


def test_what_streams_is_what_is_stored_and_a_citation_of_a_passage_that_was_not_given_is_in_neither(services: Services) -> None:
    written = "A room may cost €140 a night [1, 8]. Breakfast costs €19 [1] [9]."
    shown, turn = dictated(services, "How much may a room in London cost a night?", written)
    answer = turn.answer
    assert answer is not None and answer.text == shown == "A room may cost €140 a night [1]. Breakfast costs €19 [1]."
    assert (answer.written, answer.finish_reason, answer.error) == (written, "stop", None)
    assert [(each.cited, each.supported) for each in answer.checks] == [((1,), True), ((1,), False)]
    assert '"Breakfast costs €19 [1]." (not found in the sources)' in source_lines(turn)
    assert "may cost €140 a night [1]" not in source_lines(turn)


def test_an_answer_that_the_passages_do_not_hold_is_stored_as_a_refusal_with_what_was_written(services: Services) -> None:
    question = "How much may a room in London cost a night?"
    _, turn = dictated(services, question, "Rotorwing Limited flies them for €900 [1].", far=True)
    answer = turn.answer
    assert answer is not None and (answer.text, answer.finish_reason) == (REFUSAL, "refused")
    assert answer.written == "Rotorwing Limited flies them for €900 [1]."
    assert turn.asked.messages and answer.completion_tokens == len(answer.written)
    lines = source_lines(turn)
    assert "The documents do not hold what the model wrote" in lines and "Hotels  (travel/hotels.md)" in lines


def test_the_closest_pages_stand_under_a_refusal_without_a_model(services: Services) -> None:
    lines = source_lines(ask(services, "Does the hotel of the submarine dentist polish molars and periscopes?"))
    assert "Closest pages:\n  Hotels  (travel/hotels.md)" in lines and "not hold what the model wrote" not in lines


def test_a_question_to_one_collection_sees_its_documents_alone_and_the_turn_says_which(
    services: Services, tmp_path: Path
) -> None:
    (tmp_path / "paris").mkdir()
    (tmp_path / "paris" / "paris.md").write_text("# Paris\n\nA room in Paris may cost up to €170 a night.\n")
    services.library.add_folder(tmp_path / "paris", collection="abroad")
    user = services.store.user_by_name("anna").id
    found = {}
    for collection in ("abroad", "main", ""):
        place = services.store.start_conversation(user, history=False)
        stream = services.chat.ask(
            user_id=user, conversation_id=place, question="What may a room cost a night?", history=False, collection=collection
        )
        (done,) = [event for event in stream if isinstance(event, Done)]
        assert done.turn.asked.collection == collection and done.turn.asked.sampling["plan"] == "fixed"
        found[collection] = {passage.document for passage in done.turn.passages}
    assert found["abroad"] == {"paris.md"} and "paris.md" not in found["main"] and len(found[""]) == 2


def test_an_answer_that_is_stopped_half_way_is_kept(services: Services) -> None:
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    stream = services.chat.ask(
        user_id=user, conversation_id=place, question="How much is a room in London, slowly?", history=False
    )
    for event in stream:
        if isinstance(event, Piece):
            break
    stream.close()  # type: ignore[attr-defined]
    (turn,) = services.store.turns(place)
    assert turn.answer is not None and turn.answer.finish_reason == "stopped" and turn.answer.text and turn.answer.checks
    assert all(entry["answering"] == 0 for entry in services.pool.describe()["loaded"])


def test_an_engine_that_fails_leaves_a_record_and_a_sentence(services: Services) -> None:
    turn = ask(services, "How much is a room in London when all fail?")
    assert turn.answer is not None and turn.answer.finish_reason == "failed"
    assert turn.answer.error == "The engine lost its place: ask again." and turn.answer.text
    assert ask(services, "How much may a room in London cost?").answer.finish_reason == "stop"  # type: ignore[union-attr]


def test_with_history_the_model_sees_the_conversation_and_without_it_this_question_alone(services: Services) -> None:
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=True)
    first = ask(services, "How much may a room in London cost?", conversation=place)
    alone = ask(services, "And how early do I book in Pennant?", conversation=place, history=False)
    told = ask(services, "And how early do I book in Pennant?", conversation=place, history=True)
    assert [message.role for message in alone.asked.messages] == ["system", "user"]
    assert first.asked.question in [message.content for message in told.asked.messages]
    assert (alone.asked.history, told.asked.history) == (False, True)


@pytest.mark.parametrize("question", ["", "   ", "x" * 10_000])
def test_a_question_that_cannot_be_asked_stores_nothing(services: Services, question: str) -> None:
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    with pytest.raises(QuestionError):
        list(services.chat.ask(user_id=user, conversation_id=place, question=question, history=False))
    assert services.store.turns(place) == []


def test_past_the_queue_people_are_asked_to_try_again_and_the_others_are_answered(services: Services) -> None:
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    question = "How much may a room in London cost?"
    waiting = [services.chat.ask(user_id=user, conversation_id=place, question=question, history=False) for _ in range(2)]
    for stream in waiting:
        next(stream)
    with pytest.raises(QueueFull, match="2 questions are waiting"):
        ask(services, question)
    for stream in waiting:
        assert isinstance(list(stream)[-1], Done)
    assert ask(services, question).answer is not None


def test_nobody_reads_anothers_conversation_through_the_history(services: Services) -> None:
    anna = services.store.user_by_name("anna").id
    place = services.store.start_conversation(anna, history=True)
    ask(services, "How much may a room in London cost?", conversation=place)
    with pytest.raises(NotYourTurn):
        ask(services, "And in Pennant?", name="ben", conversation=place, history=True)


def test_an_answer_stopped_before_its_first_word_has_a_record(services: Services) -> None:
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    events = services.chat.ask(user_id=user, conversation_id=place, question="What may a room in London cost?", history=False)
    assert isinstance(next(events), Sources)
    events.close()  # type: ignore[attr-defined]
    (turn,) = services.store.turns(place)
    assert turn.answer is not None and (turn.answer.finish_reason, turn.answer.text) == ("stopped", "")


class Rewriter:
    """An engine that makes a follow-up whole when it is asked to, and otherwise reads the first passage aloud."""

    name = "rewriter 1"

    def __init__(self, query: str) -> None:
        self._query = query
        self.seen: list[ChatRequest] = []

    def stream(self, request: ChatRequest, adapter: object) -> Iterator[Delta]:
        self.seen.append(request)
        text = self._query if request.messages[0].content == REWRITE else "27 days [1]"
        yield Delta(text=text)
        yield Delta(text="", finish_reason="stop", prompt_tokens=20, completion_tokens=5)


@pytest.mark.parametrize(
    ("written", "searched"),
    [
        ("Question: How many days of annual leave can be carried over?", "How many days of annual leave can be carried over?"),
        (
            "I think that\nyou mean leave.",
            "How many days of annual leave are there? And carried over?",
        ),  # no query: words are carried
    ],
)
def test_a_large_model_makes_a_follow_up_whole_and_what_it_wrote_is_what_is_searched(
    services: Services, written: str, searched: str
) -> None:
    engine = Rewriter(written)
    chat = chat_over(services, engine, prompts=services.prompts, rewrites=True)
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=True)
    for question in ("How many days of annual leave are there?", "And carried over?"):
        for _ in chat.ask(user_id=user, conversation_id=place, question=question, history=True):
            pass
    first, second = services.store.turns(place)
    assert (first.asked.searched, second.asked.searched) == ("", searched)
    assert [request.messages[0].content == REWRITE for request in engine.seen] == [False, True, False]
    assert second.asked.passages[0].document == "leave/annual-leave.md"
