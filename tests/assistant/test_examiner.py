"""The examination: it asks as the chat asks, and its numbers survive the way through the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from assistant.config import NightSettings, Settings
from assistant.examiner import Contestant, Request, examine_contestant, scored_of
from assistant.services import Services
from training.measures import by_fact, summarise
from training.questions import QuestionRow

QUESTIONS = [
    QuestionRow(
        id="1", fact="room", question="How much may a room in London cost?", answer="€140", sources=("travel/hotels.md",)
    ),
    QuestionRow(
        id="2", fact="leave", question="How many days of annual leave?", answer="99 days", sources=("leave/annual-leave.md",)
    ),
    QuestionRow(id="3", fact="none", question="Which molars does the submarine dentist polish?"),
]


def test_a_request_survives_the_way_through_its_file(tmp_path: Path) -> None:
    request = Request(
        home=tmp_path,
        settings=Settings(night=NightSettings(minutes=7)),
        contestants=(
            Contestant(name="base", version="base", folder=None),
            Contestant(name="candidate", version="candidate", folder=tmp_path / "adapter"),
        ),
        perplexity=False,
    )
    assert Request.from_json(request.to_json()) == request


def test_a_contestant_answers_what_the_chat_would_answer(make_services: Callable[..., Services], tmp_path: Path) -> None:
    services = make_services(tmp_path / "home")
    prepared = [(row, services.prompts.prepare(row.question)) for row in QUESTIONS]
    done: list[int] = []
    result = examine_contestant(
        services.engine,
        prepared,
        Contestant(name="base", version="base", folder=None),
        max_tokens=96,
        tick=lambda: done.append(1),
    )
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    for row, answer in zip(QUESTIONS, result["answers"], strict=True):
        list(services.chat.ask(user_id=user, conversation_id=place, question=row.question, history=False))
        stored = services.store.turns(place)[-1].answer
        assert stored is not None and stored.text == answer["text"]
    assert len(done) == 3
    assert [answer["score"] for answer in result["answers"]] == [1.0, 0.0, 1.0]


def test_marks_are_the_same_after_the_way_through_json(make_services: Callable[..., Services], tmp_path: Path) -> None:
    services = make_services(tmp_path / "home")
    prepared = [(row, services.prompts.prepare(row.question)) for row in QUESTIONS]
    base = Contestant(name="base", version="base", folder=None)
    result = examine_contestant(services.engine, prepared, base, max_tokens=96, tick=lambda: None)
    scored = scored_of(result)
    assert summarise(scored) == result["summary"]
    assert by_fact(scored) == {"room": 1.0, "leave": 0.0, "none": 1.0}
