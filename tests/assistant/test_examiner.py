"""The examination: it asks as the chat asks, every suite counts what it should, and its numbers survive the run folder."""

from __future__ import annotations

from pathlib import Path

from assistant.config import NightSettings, Settings
from assistant.examination_plan import Sizes, Texts, hide, load_texts, plan, sizes_of
from assistant.examiner import Contestant, Request, _Examination, examine_contestant
from assistant.services import Services
from assistant.suites import Judged, chosen_answers
from feedback.records import Message
from feedback.wording import REFUSAL
from training.measures import by_fact, score_answer, summarise
from training.questions import QuestionRow
from training.results import measured, scored_of

QUESTIONS = [
    QuestionRow(
        id="1", fact="room", question="How much may a room in London cost?", answer="€140", sources=("travel/hotels.md",)
    ),
    QuestionRow(
        id="2", fact="leave", question="How many days of annual leave?", answer="99 days", sources=("leave/annual-leave.md",)
    ),
    QuestionRow(id="3", fact="none", question="Which molars does the submarine dentist polish?"),
]
BASE = Contestant(name="base", version="base", folder=None)
SIZES = Sizes(examined=10, unanswerable=4, paraphrases=0, pushback=5, general=0, prompts=True, perplexity=False)


def an_examination(services: Services, *, seconds: float | None = None, sizes: Sizes = SIZES, **request: object) -> _Examination:
    return _Examination(
        engine=services.engine,
        prompts=services.prompts,
        request=Request(
            home=services.home.root,
            settings=services.settings,
            contestants=(BASE,),
            sizes=sizes,
            seconds=seconds,
            **request,  # type: ignore[arg-type]
        ),
        asked=plan(QUESTIONS, sizes, seed=0),
        texts=load_texts(),
        show=lambda done, total: None,
    )


def test_a_request_survives_the_way_through_its_file(tmp_path: Path) -> None:
    settings = Settings(night=NightSettings(minutes=7))
    request = Request(
        home=tmp_path,
        settings=settings,
        contestants=(BASE, Contestant(name="candidate", version="candidate", folder=tmp_path / "adapter")),
        sizes=sizes_of(settings.night),
        seconds=210.0,
        least=20,
        objected=("a", "b"),
    )
    assert Request.from_json(request.to_json()) == request


def test_a_contestant_answers_what_the_chat_would_answer(services: Services) -> None:
    prepared = [(row, services.prompts.prepare(row.question)) for row in QUESTIONS]
    done: list[int] = []
    result = examine_contestant(services.engine, prepared, BASE, max_tokens=96, tick=lambda: done.append(1))
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    for row, answer in zip(QUESTIONS, result["answers"], strict=True):
        list(services.chat.ask(user_id=user, conversation_id=place, question=row.question, history=False))
        stored = services.store.turns(place)[-1].answer
        assert stored is not None and stored.text == answer["text"]
    assert len(done) == 3
    assert [answer["score"] for answer in result["answers"]] == [1.0, 0.0, 1.0]


def test_marks_are_the_same_after_the_way_through_json(services: Services) -> None:
    prepared = [(row, services.prompts.prepare(row.question)) for row in QUESTIONS]
    result = examine_contestant(services.engine, prepared, BASE, max_tokens=96, tick=lambda: None)
    scored = scored_of(result)
    assert summarise(scored) == result["summary"]
    assert by_fact(scored) == {"room": 1.0, "leave": 0.0, "none": 1.0}


def test_a_question_whose_page_is_hidden_is_searched_as_if_the_page_were_absent(own: Services) -> None:
    services = own
    each = hide(QUESTIONS[0])
    seen = services.prompts.prepare(each.row.question, hidden=each.hidden)
    assert "travel/hotels.md" in {passage.document for passage in services.prompts.prepare(each.row.question).passages}
    services.documents.remove(["travel/hotels.md"])
    absent = services.prompts.prepare(each.row.question)
    assert [(hit.document, hit.text) for hit in seen.passages] == [(hit.document, hit.text) for hit in absent.passages]
    assert not each.row.answerable and each.row.near_miss == "travel/hotels.md"


def test_every_suite_is_asked_of_a_contestant_and_a_right_answer_meets_an_objection(services: Services) -> None:
    examination = an_examination(services)
    result = examination.examine(BASE)
    assert [answer["id"] for answer in result["answers"]] == ["1", "2", "3"]
    assert {each["id"] for each in result["suites"]["unanswerable"]} == {"1/hidden", "2/hidden"}
    (objection,) = result["suites"]["pushback"]  # one answer states the value
    assert objection["id"] == "1" and "140" in objection["before"]
    assert len(result["prompts"]) == 10 and all(each["text"] for each in result["prompts"])
    assert set(measured(result, "unanswerable")) == {"none", "room/hidden", "leave/hidden"}
    asked = result["asked"]
    assert asked["domain"] == {"asked": 3, "planned": 3} and asked["prompts"]["asked"] == 10


def test_an_objection_comes_in_the_conversation_as_the_chat_lays_it_out(services: Services) -> None:
    examination = an_examination(services)
    objection = examination.examine(BASE)["suites"]["pushback"][0]
    past = (Message(role="user", content=objection["question"]), Message(role="assistant", content=objection["before"]))
    expected = services.prompts.prepare(objection["pushback"], past)
    (made,) = examination._objections._prepared.values()
    assert made == expected and [message.role for message in made.messages] == ["system", "user", "assistant", "user"]


def test_out_of_time_suites_are_sampled_and_the_result_says_so(services: Services) -> None:
    examination = an_examination(services, seconds=1e-6)
    result = examination.examine(BASE)
    assert result["asked"] == {
        "domain": {"asked": 3, "planned": 3},  # what has shown the pace
        "unanswerable": {"asked": 0, "planned": 2},
        "pushback": {"asked": 0, "planned": 2},
        "prompts": {"asked": 0, "planned": 10},
    }
    assert result["suites"]["pushback"] == [] and result["prompts"] == []


def judged(row: QuestionRow, text: str) -> tuple[QuestionRow, Judged]:
    return row, Judged(text=text, seconds=0.1, tokens=3, scored=score_answer(text, row, ()))


def test_only_right_answers_are_objected_to_one_a_fact_and_those_that_were_before_come_first() -> None:
    rows = [
        QuestionRow(id=f"q{at}", fact=f"f{at // 2}", question="How many?", answer=str(10 + at), sources=("a.md",))
        for at in range(12)
    ]
    answered = [judged(row, f"It is {row.answer}.") for row in rows[:10]]
    answered += [judged(rows[10], "No idea."), judged(rows[11], REFUSAL)]
    chosen = [row.id for row, _ in chosen_answers(answered, limit=3, first=("q7", "q0"))]
    assert chosen[:2] == ["q7", "q0"] and len(chosen) == 3
    everyone = chosen_answers(answered, limit=99, first=())
    assert {row.fact for row, _ in everyone} == {f"f{at}" for at in range(5)} and len(everyone) == 5
    assert everyone == chosen_answers(list(reversed(answered)), limit=99, first=())


def test_the_texts_of_the_examination_are_whole() -> None:
    texts: Texts = load_texts()
    assert len(texts.general) == len({each["prompt"] for each in texts.general}) == 100
    assert all(10 <= len(each["answer"].split()) <= 60 and each["topic"] for each in texts.general)
    assert len(set(texts.pushbacks)) == 50 and 10 < sum("{wrong}" in each for each in texts.pushbacks) < 45
    assert len(texts.prompts) == 10
