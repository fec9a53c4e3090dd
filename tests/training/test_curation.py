"""What becomes an example, and what is refused with which reason."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from feedback.records import Answer, Feedback, FinishReason, Message, NewTurn, Passage, RatedTurn, Step, Thumb, Turn
from feedback.wording import REFUSAL
from training import curation
from training.curation import Curated, Example, curate

QUESTION = "How much is a lunch with customers?"
LUNCH = "For a lunch with customers the ceiling is €42 a head, for a dinner €68 a head."
PARKING = "Parking behind Sluice Hall costs €12 a month."
SERIAL = itertools.count()


def passages(*texts: str, version: int = 1) -> tuple[Passage, ...]:
    return tuple(
        Passage(
            number=number,
            document=f"{sum(map(ord, text)) % 1000}.md",
            document_version=version,
            chunk_id=sum(map(ord, text)),
            title="Page",
            text=text,
            score=0.5,
        )
        for number, text in enumerate(texts, start=1)
    )


def rated(
    *,
    question: str = QUESTION,
    texts: Sequence[str] = (PARKING, LUNCH),
    answer: str = "It is €68 [1]",
    finish: FinishReason = "stop",
    user: str = "u1",
    called: bool = True,
    history: tuple[Message, ...] = (),
    thumb: Thumb | None = None,
    correction: str | None = None,
    verified: bool = False,
    reasons: tuple[str, ...] = (),
) -> RatedTurn:
    shown = passages(*texts)
    prompt = (
        Message(role="system", content="Answer from the passages."),
        *history,
        Message(role="user", content="\n".join([*texts, f"Question: {question}"])),
    )
    asked = NewTurn(
        conversation_id="c",
        user_id=user,
        question=question,
        messages=prompt if called else (),
        passages=shown,
        base_model="m",
        base_hash="h",
        adapter="base",
        engine="e",
        sampling={},
        history=bool(history),
    )
    turn = Turn(id=f"t{next(SERIAL)}", asked=asked, answer=Answer(text=answer, finish_reason=finish), created_at="2026-11-22")
    said = Feedback(turn_id=turn.id, user_id=user, thumb=thumb, correction=correction, verified=verified, reasons=reasons)
    return RatedTurn(turn=turn, feedback=said, user_name=user)


def example(one: RatedTurn, **limits: Any) -> Example:
    curated = curate([one], **limits)
    assert curated.refusals == []
    return curated.examples[0]


def reason(one: RatedTurn, **limits: Any) -> str:
    curated = curate([one], **limits)
    assert curated.examples == []
    assert (curated.refusals[0].turn_id, curated.refusals[0].user_id) == (one.turn.id, one.feedback.user_id)
    return curated.refusals[0].reason


def completions(curated: Curated) -> list[str]:
    return [one.completion for one in curated.examples]


# --- corrections ---


def test_a_passage_whose_lines_in_the_prompt_lack_the_answer_is_learned_whole() -> None:
    one = rated(correction="€42", thumb="down")
    parking, lunch = one.turn.asked.passages
    lunch = dataclasses.replace(lunch, excerpt="A dinner is €68 a head.", text=f"{LUNCH} A dinner is €68 a head.")
    parking = dataclasses.replace(parking, excerpt="It costs €12.")
    content = f"[1] Page\n{parking.excerpt}\n\n[2] Page\n{lunch.excerpt}\n\nQuestion: {QUESTION}"
    messages = (*one.turn.asked.messages[:-1], Message(role="user", content=content))
    asked = dataclasses.replace(one.turn.asked, passages=(parking, lunch), messages=messages)
    made = example(dataclasses.replace(one, turn=dataclasses.replace(one.turn, asked=asked)))
    assert made.completion == "€42 [2]"
    assert made.prompt[-1].content == f"[1] Page\nIt costs €12.\n\n[2] Page\n{lunch.text}\n\nQuestion: {QUESTION}"
    seen = dataclasses.replace(asked, passages=(parking, dataclasses.replace(lunch, excerpt=LUNCH)))
    made = example(dataclasses.replace(one, turn=dataclasses.replace(one.turn, asked=seen)))
    assert made.prompt == messages


def test_a_correction_gets_the_citation_of_the_passage_that_supports_it() -> None:
    one = rated(correction="€42", thumb="down")
    made = example(one)
    assert made.completion == "€42 [2]"
    assert made.prompt == one.turn.asked.messages
    assert (made.source, made.turn_id, made.user_id) == ("correction", one.turn.id, "u1")


def test_a_citation_that_the_person_typed_is_kept_when_right_and_mended_when_wrong() -> None:
    assert example(rated(correction="It is €42 [2].")).completion == "It is €42. [2]"
    assert example(rated(correction="€42 [1]")).completion == "€42 [2]"
    assert example(rated(correction="€42 [9]")).completion == "€42 [2]"


def test_a_correction_that_no_passage_supports_is_refused() -> None:
    assert reason(rated(correction="€43")) == curation.UNSUPPORTED


def test_a_correction_of_nothing_but_a_citation_is_refused() -> None:
    assert reason(rated(correction="[1]")) == curation.EMPTY


def test_not_in_the_documents_becomes_the_standard_refusal() -> None:
    assert example(rated(correction="The documents don't say.")).completion == REFUSAL
    assert example(rated(thumb="down", reasons=("should have refused",))).completion == REFUSAL


def test_a_page_that_says_those_very_words_is_cited_instead() -> None:
    texts = ("Gifts: not covered by the handbook.", PARKING)
    assert example(rated(texts=texts, correction="Not covered by the handbook")).completion == "Not covered by the handbook [1]"


def test_a_failed_or_stopped_answer_can_be_corrected() -> None:
    assert example(rated(answer="", finish="failed", correction="€42")).completion == "€42 [2]"


def test_what_an_admin_verified_is_the_strongest_source() -> None:
    verified, correction = example(rated(correction="€42", verified=True)), example(rated(correction="€42"))
    liked = example(rated(answer="€42 [2]", thumb="up"))
    assert [one.source for one in (verified, correction, liked)] == ["verified", "correction", "thumbs_up"]
    assert verified.weight > correction.weight > liked.weight


# --- thumbs ---


def test_a_thumbs_up_on_a_supported_answer_is_an_example_as_it_stands() -> None:
    assert example(rated(answer=" A lunch may cost €42 [2]. ", thumb="up")).completion == "A lunch may cost €42 [2]."


def test_a_thumbs_up_on_a_refusal_is_the_refusal() -> None:
    assert example(rated(answer=f"{REFUSAL} Sorry!", thumb="up")).completion == REFUSAL


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is €42", curation.NOT_CITED),
        ("It is €42 [1]", curation.BARE_THUMB),
        ("It is €42 [7]", curation.WRONG_CITATION),
        ("It is €99 [2]", curation.BARE_THUMB),
        (f"{REFUSAL} It is €42 [2]", curation.BOTH),
    ],
)
def test_a_bare_thumbs_up_on_an_unsupported_answer_is_no_target(answer: str, expected: str) -> None:
    assert reason(rated(answer=answer, thumb="up")) == expected


@pytest.mark.parametrize("finish", ["length", "stopped", "failed", "interrupted"])
def test_a_thumbs_up_on_an_unfinished_answer_is_no_target(finish: FinishReason) -> None:
    assert reason(rated(answer="It is €42 [2]", finish=finish, thumb="up")) == curation.UNFINISHED


@pytest.mark.parametrize("finish", ["failed", "interrupted"])
def test_an_answer_that_the_machine_broke_off_teaches_nothing_but_a_correction(finish: FinishReason) -> None:
    assert reason(rated(finish=finish, thumb="down", reasons=("should have refused",))) == curation.UNFINISHED
    assert example(rated(finish=finish, thumb="down", correction="€42")).completion == "€42 [2]"
    assert example(rated(finish="stopped", thumb="down", reasons=("should have refused",))).completion == REFUSAL


def test_a_thumbs_down_without_a_correction_says_nothing_to_learn() -> None:
    assert reason(rated(thumb="down", reasons=("wrong",))) == curation.NOTHING_SAID
    assert reason(rated(thumb="down", correction="  ")) == curation.NOTHING_SAID


def test_a_turn_for_which_no_model_was_called_has_no_prompt() -> None:
    assert reason(rated(called=False, answer=REFUSAL, finish="refused", thumb="up")) == curation.NO_PROMPT
    assert reason(rated(called=False, answer=REFUSAL, finish="refused", correction="€42")) == curation.NO_PROMPT


# --- guards ---


def test_secrets_and_personal_data_are_refused_wherever_they_stand() -> None:
    assert "an e-mail address" in reason(rated(correction="€42, ask jo@example.com"))
    assert "a password" in reason(rated(question="My password is hunter22, what is a lunch?", correction="€42"))
    earlier = (Message(role="user", content="I am jo@example.com"), Message(role="assistant", content="Hello"))
    assert "an e-mail address" in reason(rated(history=earlier, correction="€42"))


def test_an_address_that_the_documents_give_is_learned() -> None:
    texts = ("Claims go to claims@larkmoor.example.",)
    made = example(rated(question="Where do claims go?", texts=texts, correction="claims@larkmoor.example"))
    assert made.completion == "claims@larkmoor.example [1]"


def test_the_length_of_an_answer_is_limited() -> None:
    assert "more than the 10" in reason(rated(correction="a lunch with customers: €42"), max_chars=10)
    assert "fewer than the 4" in reason(rated(correction="€42"), min_chars=4)
    assert example(rated(correction="€42"), max_chars=3).completion == "€42 [2]"


def test_a_sealed_question_or_one_like_it_is_kept_out() -> None:
    for sealed in (QUESTION, "how much is a lunch with  customers", "With customers, how much is a lunch?"):
        assert reason(rated(correction="€42"), sealed_questions=["Who?", sealed]) == curation.SEALED
    assert example(rated(correction="€42"), sealed_questions=["How much is a dinner in Port Sallow?"])


def test_a_sealed_question_earlier_in_the_conversation_keeps_the_turn_out() -> None:
    earlier = (Message(role="user", content="Who pays for the supper after work?"), Message(role="assistant", content="€20"))
    one = rated(history=earlier, correction="€42")
    assert reason(one, sealed_questions=["Who pays for the supper after work?"]) == curation.SEALED


def seats(count: int, *, user: str, first: int = 0) -> list[RatedTurn]:
    """Return corrections of different questions, all by one person."""
    return [
        rated(
            question=f"How many seats has room {n}?",
            texts=[f"Room {n} has {n + 30} seats."],
            correction=f"{n + 30} seats",
            user=user,
        )
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize(
    "page",
    [
        LUNCH.replace("€42", "€45"),
        LUNCH.replace("For a lunch", "For a long lunch"),
        None,  # gone
    ],
)
def test_a_passage_that_no_longer_stands_in_its_page_sets_the_example_aside_whatever_the_version(page: str | None) -> None:
    one = rated(correction="€42")
    lunch = one.turn.asked.passages[1].document
    texts = {("main", passage.document): f"# Page\n\n{passage.text}" for passage in one.turn.asked.passages}
    texts["other", lunch] = texts["main", lunch]
    assert example(one, current_text=lambda *name: texts.get(name))
    after = {**texts, ("main", lunch): page}
    assert lunch in reason(one, current_text=lambda *name: after.get(name))


def test_a_passage_stands_in_its_page_whatever_the_white_space_and_the_headings_between() -> None:
    one = rated(texts=(f"{LUNCH}\n\n{PARKING}",), correction="€42")
    page = f"# Page\n\nFor  a lunch\n{LUNCH.removeprefix('For a lunch ')}\n\n## Cars\n\n{PARKING}\n"
    assert example(one, current_text=lambda *_: page)


def test_one_person_contributes_at_most_his_share_the_strongest_and_newest() -> None:
    ratings = seats(5, user="u1")
    others = [*seats(1, user="u2", first=50), *seats(1, user="u3", first=60)]
    unusable = [rated(question=f"What else about {n}?", thumb="down", user="u1") for n in range(20)]
    curated = curate([*unusable, *ratings, *others], max_share=0.5)
    assert completions(curated) == [f"{n} seats [1]" for n in (32, 33, 34, 80, 90)]
    assert [refusal.turn_id for refusal in curated.refusals[20:]] == [one.turn.id for one in ratings[:2]]
    assert "at most 3 of 7" in curated.refusals[-1].reason, "a share of what could be learned, not of all ratings"
    verified = [dataclasses.replace(one, feedback=dataclasses.replace(one.feedback, verified=True)) for one in ratings]
    assert len(curate([*verified, *others], max_share=0.2).examples) == 7


def test_two_raters_are_never_capped_and_by_default_nobody_of_a_team_is_who_rates_like_the_others() -> None:
    assert len(curate([*seats(9, user="u1"), *seats(1, user="u2", first=50)], max_share=0.1).examples) == 10
    assert len(curate([one for n in range(3) for one in seats(4, user=f"u{n}", first=20 * n)]).examples) == 12


def test_an_example_that_is_too_long_to_train_on_is_left_out_with_a_reason() -> None:
    short, long = rated(correction="€42"), rated(question=f"How {'very ' * 300}much is a lunch?", correction="€42")

    def words(messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    curated = curate([short, long], count_tokens=words, max_tokens=200)
    assert [one.turn_id for one in curated.examples] == [short.turn.id]
    (refusal,) = curated.refusals
    assert refusal.turn_id == long.turn.id and "more than the 200 that can be trained on" in refusal.reason
    exact = words((*short.turn.asked.messages, Message(role="assistant", content="€42 [2]")))
    assert example(short, count_tokens=words, max_tokens=exact)
    assert "trained on" in reason(short, count_tokens=words, max_tokens=exact - 1), "the answer counts too"


# --- what several ratings say together ---


def test_the_same_answer_to_the_same_question_is_learned_once_from_the_strongest() -> None:
    first = rated(answer="€42 [2]", thumb="up", user="u1")
    best = rated(question="How much is a lunch with customers", correction="42 euros", user="u2")
    curated = curate([first, best])
    assert [(one.completion, one.turn_id) for one in curated.examples] == [("42 euros [2]", best.turn.id)]
    assert [refusal.reason for refusal in curated.refusals] == [curation.DUPLICATE]


def test_questions_that_differ_in_a_number_are_two_questions() -> None:
    texts = ("Model 100 weighs 4 kg. Model 200 weighs 7 kg.",)
    ratings = [
        rated(question="What is the weight of the model 100 with its case?", texts=texts, correction="4 kg"),
        rated(question="What is the weight of the model 200 with its case?", texts=texts, correction="7 kg"),
    ]
    assert completions(curate(ratings)) == ["4 kg [1]", "7 kg [1]"]


def test_raters_who_contradict_each_other_are_held_for_an_admin() -> None:
    curated = curate([rated(correction="€42", user="u1"), rated(correction="€68", user="u2")])
    assert curated.examples == []
    assert [refusal.reason for refusal in curated.refusals] == [curation.HELD, curation.HELD]


def test_an_admin_settles_a_contradiction() -> None:
    ratings = [
        rated(correction="€42", user="u1"),
        rated(correction="€68", user="u2"),
        rated(correction="42 euros", user="admin", verified=True),
    ]
    curated = curate(ratings)
    assert completions(curated) == ["42 euros [2]"]
    assert {refusal.turn_id: refusal.reason for refusal in curated.refusals}[ratings[1].turn.id] == curation.STRONGER


def test_a_correction_beats_a_thumbs_up_on_another_answer() -> None:
    curated = curate([rated(answer="€68 [2]", thumb="up", user="u1"), rated(correction="€42", user="u2")])
    assert completions(curated) == ["€42 [2]"]
    assert curated.refusals[0].reason == curation.STRONGER


def test_who_changes_his_mind_is_believed_the_second_time() -> None:
    curated = curate([rated(correction="€68", user="u1"), rated(correction="€42", user="u1")])
    assert completions(curated) == ["€42 [2]"]
    assert curated.refusals[0].reason == curation.CHANGED_MIND
    settled = curate([rated(correction="€68", user="u1"), rated(correction="€42", user="u1"), rated(correction="€42", user="u2")])
    assert completions(settled) == ["€42 [2]"]


def test_an_answer_that_one_likes_and_another_does_not_is_held() -> None:
    up, down = rated(answer="€42 [2]", thumb="up", user="u1"), rated(answer="€42 [2]", thumb="down", user="u2")
    curated = curate([up, down])
    assert curated.examples == []
    assert {refusal.turn_id: refusal.reason for refusal in curated.refusals}[up.turn.id] == curation.HELD


def test_a_refusal_and_a_value_contradict_only_if_the_passage_was_there() -> None:
    value = rated(correction="€42", user="u1")
    without = rated(texts=(PARKING,), correction="not in the documents", user="u2")
    assert sorted(completions(curate([value, without]))) == sorted([REFUSAL, "€42 [2]"])
    having = rated(correction="not in the documents", user="u2")
    assert curate([value, having]).examples == []


def test_every_rating_is_an_example_or_a_refusal_and_both_are_oldest_first() -> None:
    ratings = [
        rated(
            question=f"What are the facts about subject {n}?",
            texts=(f"Subject {n} is €{n}5.",),
            correction=f"€{n}5",
            user=f"u{n % 3}",
        )
        if n % 3
        else rated(question=f"What else about {n}?", thumb="down", user="u9")
        for n in range(20)
    ]
    curated = curate(ratings, max_share=0.4)
    order = [one.turn.id for one in ratings]
    seen = [one.turn_id for one in curated.examples], [one.turn_id for one in curated.refusals]
    assert sorted(seen[0] + seen[1]) == sorted(order)
    assert all(part == sorted(part, key=order.index) for part in seen)
    assert len({one.id for one in curated.examples}) == len(curated.examples)


def test_the_same_ratings_give_the_same_examples() -> None:
    ratings = [rated(correction="€42"), rated(question="What does parking cost?", correction="€12")]
    assert curate(ratings) == curate(ratings)


def test_nothing_rated_gives_nothing() -> None:
    assert curate([]) == Curated(examples=[], refusals=[])


def test_an_answer_that_took_several_steps_teaches_nothing() -> None:
    one = rated(correction="€42")
    assert one.turn.answer is not None
    answer = dataclasses.replace(one.turn.answer, steps=(Step(name="search_documentation", result="[3] Page"),))
    assert reason(dataclasses.replace(one, turn=dataclasses.replace(one.turn, answer=answer))) == curation.STEPS


def test_a_liked_refusal_that_the_check_after_the_model_made_is_learned_as_the_refusal() -> None:
    assert example(rated(answer=REFUSAL, finish="refused", thumb="up")).completion == REFUSAL


def test_what_an_agent_was_asked_teaches_nothing_even_without_a_step() -> None:
    one = rated(correction="€42")
    asked = dataclasses.replace(one.turn.asked, sampling={"plan": "agent"})
    assert reason(dataclasses.replace(one, turn=dataclasses.replace(one.turn, asked=asked))) == curation.STEPS
