"""What is held out for the examination: stable, whole facts, never trained on, and judged by their value."""

from __future__ import annotations

from feedback.records import Message, NewTurn, Passage, Turn
from feedback.wording import REFUSAL
from training.curation import WEIGHTS, Example, Source
from training.heldout import hold_out, sample_by_fact
from training.measures import score_answer
from training.questions import QuestionRow


def asked(number: int, question: str, *, turn: str = "", history: tuple[Message, ...] = ()) -> Turn:
    passage = Passage(number=1, document=f"p{number}.md", document_version=1, chunk_id=number, title="P", text="x", score=1.0)
    new = NewTurn(
        conversation_id="c",
        user_id="u",
        question=question,
        messages=(*history, Message(role="user", content=f"[1] P\nx\n\nQuestion: {question}")),
        passages=(passage,),
        base_model="b",
        base_hash="h",
        adapter="base",
        engine="e",
        sampling={},
        history=bool(history),
    )
    return Turn(id=turn or f"t{number}", asked=new, answer=None, created_at="")


def example(turn: Turn, completion: str, *, source: Source = "correction") -> Example:
    return Example(
        id=turn.id,
        prompt=turn.asked.messages,
        completion=completion,
        source=source,
        turn_id=turn.id,
        user_id="u",
        weight=WEIGHTS[source],
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


def play(number: int, *said: tuple[str, str] | tuple[str, str, Source]) -> tuple[list[Example], dict[str, Turn]]:
    """Give examples of one page: question, completion and source each; "{n}" stands for a number of this page's own."""
    examples: list[Example] = []
    turns: dict[str, Turn] = {}
    for place, (question, completion, *source) in enumerate(said):
        turn = asked(number, question.format(n=number), turn=f"p{number}-{place}")
        turns[turn.id] = turn
        examples.append(example(turn, completion.format(n=number + 30), source=source[0] if source else "correction"))
    return examples, turns


def played(*said: tuple[str, str] | tuple[str, str, Source], pages: int = 60) -> tuple[list[Example], list[QuestionRow]]:
    """Hold out from the same story about many pages, all together; some of them are drawn."""
    parts = [play(number, *said) for number in range(pages)]
    kept, rows = hold_out(
        [one for part in parts for one in part[0]], {key: turn for part in parts for key, turn in part[1].items()}
    )
    assert kept and rows
    return kept, rows


def pages_of(kept: list[Example], rows: list[QuestionRow]) -> tuple[set[str], set[str]]:
    return {one.turn_id.partition("-")[0] for one in kept}, {row.id.partition("-")[0] for row in rows}


def test_all_wordings_of_a_fact_are_on_one_side_however_its_value_is_written() -> None:
    kept, rows = played(
        ("How much may a lunch cost in town {n}?", "EUR {n} [1]"),
        ("What is the ceiling there?", "€{n} a head. [1]"),
        (
            "And what can I spend on guests at noon in the town of number {n}?",
            "Up to {n} euros may be spent on a lunch. [1]",
            "thumbs_up",
        ),
    )
    trained, examined = pages_of(kept, rows)
    assert trained.isdisjoint(examined)
    assert len(rows) == 3 * len(examined) and len({row.fact for row in rows}) == len(examined)


def test_wordings_of_an_unanswerable_question_are_on_one_side() -> None:
    kept, rows = played(
        ("How many moons has the planet number {n} of the sun?", REFUSAL),
        ("How many moons has the planet number {n} of the suns?", REFUSAL),
        ("The planet number {n} of the sun has how many moons?", REFUSAL),
    )
    trained, examined = pages_of(kept, rows)
    assert trained.isdisjoint(examined) and all(not row.answerable for row in rows)


def test_nothing_that_gives_a_held_out_value_away_is_trained_on() -> None:
    kept, rows = played(
        ("How much may a lunch cost in town {n}?", "EUR {n} [1]"),
        ("Tell me all about meals.", "A lunch may cost {n} euros, a dinner EUR 68. [1]"),
    )
    trained, examined = pages_of(kept, rows)
    assert trained.isdisjoint(examined)


def test_a_conversation_in_which_a_held_out_question_was_asked_is_neither_trained_on_nor_asked() -> None:
    examples, turns = [*EXAMPLES], {**TURNS}
    for number in range(200):
        past = (
            Message(role="user", content=f"what is the value of item {number}"),
            Message(role="assistant", content=f"{number}"),
        )
        turn = asked(1000 + number, f"And the colour of {number}?", history=past)
        turns[turn.id] = turn
        examples.append(example(turn, "Blue Grey [1]"))
    kept, rows = hold_out(examples, turns)
    held = {row.question for row in rows}
    assert {row.id for row in rows} <= TURNS.keys()  # a follow-up alone cannot be asked again
    follow_ups = [one for one in kept if int(one.turn_id[1:]) >= 1000]
    assert 0 < len(follow_ups) < 200
    assert all(f"What is the value of item {int(one.turn_id[1:]) - 1000}?" not in held for one in follow_ups)


def test_an_answer_that_states_the_value_in_other_words_is_right_and_the_sentence_itself_has_no_advantage() -> None:
    written = "A lunch with customers may cost EUR {n} a head. [1]"
    _, rows = played(("What may a lunch with customers cost in town {n}?", written, "thumbs_up"))
    for row in rows:
        number = int(row.id.partition("-")[0][1:]) + 30
        passages = asked(number - 30, "").asked.passages
        for text in (f"EUR {number} [1]", f"€{number} [1]", f"Up to {number} euros each [1].", written.format(n=number)):
            assert score_answer(text, row, passages).score == 1.0
        assert score_answer(f"A lunch with customers may cost EUR {number + 1} a head. [1]", row, passages).score == 0.0


def test_an_answer_without_a_single_value_examines_nobody_and_is_trained_on() -> None:
    kept, rows = played(
        ("How do I book number {n}?", "Speak with whoever books the rooms of your own building first. [1]"),
        ("What does number {n} cost and weigh?", "It costs EUR {n} and weighs 12 kg. [1]"),
        ("May I take number {n} home?", "Yes. [1]"),
        ("Who was born on the day {n}?", REFUSAL),
    )
    assert {row.answerable for row in rows} == {False}
    assert {one.turn_id.partition("-")[2] for one in kept} == {"0", "1", "2", "3"}
    assert sum(not one.turn_id.endswith("-3") for one in kept) == 180


def test_of_two_answers_to_a_question_the_stronger_examines() -> None:
    _, rows = played(
        ("How long is the leave of grade {n}?", "The leave of that grade is {n} days. [1]", "thumbs_up"),
        ("How long is the leave of grade {n}?", "{n} working days [1]", "correction"),
        ("how long is the leave of grade {n}?", "{n} days [1]", "verified"),
    )
    assert rows and all(row.id.endswith("-2") for row in rows)


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
