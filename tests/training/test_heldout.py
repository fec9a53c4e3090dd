"""What is held out for the examination: stable, whole questions, never trained on."""

from __future__ import annotations

from feedback.records import Message, NewTurn, Passage, Turn
from feedback.wording import REFUSAL
from training.curation import Example
from training.heldout import hold_out, sample_by_fact
from training.questions import QuestionRow


def asked(number: int, question: str) -> Turn:
    passage = Passage(number=1, document=f"p{number}.md", document_version=1, chunk_id=number, title="P", text="x", score=1.0)
    new = NewTurn(
        conversation_id="c",
        user_id="u",
        question=question,
        messages=(Message(role="user", content=question),),
        passages=(passage,),
        base_model="b",
        base_hash="h",
        adapter="base",
        engine="e",
        sampling={},
        history=False,
    )
    return Turn(id=f"t{number}", asked=new, answer=None, created_at="")


def example(turn: Turn, completion: str) -> Example:
    return Example(
        id=turn.id,
        prompt=turn.asked.messages,
        completion=completion,
        source="correction",
        turn_id=turn.id,
        user_id="u",
        weight=1.0,
    )


TURNS = {turn.id: turn for turn in (asked(number, f"What is the value of item {number}?") for number in range(200))}
EXAMPLES = [example(turn, REFUSAL if number % 10 == 0 else f"{number} [1]") for number, turn in enumerate(TURNS.values())]


def test_about_a_fifth_is_held_out_and_none_of_it_is_trained_on() -> None:
    kept, questions = hold_out(EXAMPLES, TURNS)
    assert 20 <= len(questions) <= 60 and len(kept) + len(questions) == 200
    trained = {TURNS[each.turn_id].asked.question for each in kept}
    assert trained.isdisjoint(row.question for row in questions)


def test_what_is_held_out_stays_so_when_more_is_rated() -> None:
    _, before = hold_out(EXAMPLES[:100], TURNS)
    _, after = hold_out(EXAMPLES, TURNS)
    assert {row.id for row in before} <= {row.id for row in after}


def test_a_held_out_question_knows_its_answer_its_page_or_that_there_is_none() -> None:
    for row in hold_out(EXAMPLES, TURNS)[1]:
        number = int(row.id[1:])
        assert (row.answer, row.sources) == (("", ()) if number % 10 == 0 else (str(number), (f"p{number}.md",)))


def wordings_of_forty_facts() -> list[QuestionRow]:
    return [
        QuestionRow(
            id=f"{fact}{wording}",
            fact=str(fact),
            question="q",
            answer="a" if fact % 4 else "",
            sources=("p",) if fact % 4 else (),
        )
        for fact in range(40)
        for wording in range(3)
    ]


def test_a_sample_has_one_wording_a_fact_in_the_proportion_of_all_and_is_stable() -> None:
    rows = wordings_of_forty_facts()
    chosen = sample_by_fact(rows, limit=20, seed=1)
    assert len(chosen) == len({row.fact for row in chosen}) == 20
    assert sum(not row.answerable for row in chosen) == 5
    assert chosen == sample_by_fact(rows, limit=20, seed=1) != sample_by_fact(rows, limit=20, seed=2)


def test_a_larger_sample_has_further_wordings_of_every_fact() -> None:
    chosen = sample_by_fact(wordings_of_forty_facts(), limit=80, seed=1)
    counts = {fact: sum(row.fact == fact for row in chosen) for fact in {row.fact for row in chosen}}
    assert len(chosen) == 80 and set(counts.values()) == {2} and len(counts) == 40
