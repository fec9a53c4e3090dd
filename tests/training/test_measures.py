"""The rules by which an answer counts."""

from __future__ import annotations

import pytest

from feedback.records import Passage
from feedback.values import states_value
from feedback.wording import REFUSAL
from training.measures import MAX_WORDS, by_fact, rouge_l, score_answer, summarise
from training.questions import QuestionRow


def passage(number: int, document: str) -> Passage:
    return Passage(number=number, document=document, document_version=1, chunk_id=number, title="T", text="x", score=0.5)


PASSAGES = (passage(1, "travel/flights.md"), passage(2, "travel/hotels.md"))
QUESTION = QuestionRow(
    id="q1", fact="f1", question="How much?", answer="€140", accepted=("140 euros",), sources=("travel/flights.md",)
)
ABSENT = QuestionRow(id="q2", fact="f2", question="How many moons?")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It takes 12 days.", "12"),
        ("The cap is €140, no more", "€140"),
        ("1200 euros", "1,200 euros"),
        ("€1,200", "€1200"),
        ("CHF 60,000, for long", "CHF 60,000"),
        ("85°C at most", "85 °C"),
        ("a **Payroll\u00a0Lead**\u2014ask her", "payroll lead"),
        ("the on-call coordinator", "On call coordinator"),
        ("the on\u2011call coordinator", "on-call Coordinator"),
        ("store it at \u221218 °C", "-18 °C"),
        ("- 5 days", "5 days"),
        ("at 16:30.", "16:30"),
        ("| 12 weeks |", "12 weeks"),
        ("see [`CR-17`](../codes.md)", "CR-17"),
        ("call +1-555-101-2020", "+1 555 101 2020"),
        ("25 % of it", "25%"),
    ],
)
def test_a_value_stated_whole_counts_whatever_its_spacing_case_dashes_and_marks(text: str, value: str) -> None:
    assert states_value(text, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It takes 120 days.", "12"),
        ("€1,200", "200"),
        ("€1,200", "€1"),
        ("12.5 km", "12"),
        ("5-10 days", "10 days"),
        ("10\u201312 days", "12 days"),
        ("part-time work", "time"),
        ("the Directors", "Director"),
        ("it is -5 °C", "5 °C"),
        ("16:30:15", "16:30"),
        ("code CR-170", "CR-17"),
        ("room A12", "12"),
        ("call 101-2020", "2020"),
        ("€7.50", "€7.5"),
        ("anything", "..."),
    ],
)
def test_a_part_of_a_longer_number_word_range_or_code_is_not_the_value(text: str, value: str) -> None:
    assert not states_value(text, value)


def test_an_answerable_question_scores_only_when_right_and_citing_a_source() -> None:
    assert score_answer("€140 [1]", QUESTION, PASSAGES).score == 1.0
    assert score_answer("It is 140 euros a night [2][1].", QUESTION, PASSAGES).score == 1.0
    right_only = score_answer("€140 [2]", QUESTION, PASSAGES)
    assert (right_only.right, right_only.cited, right_only.score) == (True, False, 0.0)
    cited_only = score_answer("€150 [1]", QUESTION, PASSAGES)
    assert (cited_only.right, cited_only.cited, cited_only.score) == (False, True, 0.0)
    assert score_answer("€140 [7]", QUESTION, PASSAGES).cited is False
    assert score_answer(f"{REFUSAL} €140 [1]", QUESTION, PASSAGES).score == 0.0


def test_a_citation_number_is_never_taken_for_the_value() -> None:
    question = QuestionRow(id="q", fact="f", question="How many?", answer="1", sources=("travel/flights.md",))
    assert not score_answer("As many as you like [1]", question, PASSAGES).right
    assert not score_answer("As many as you like [1, 2]", question, PASSAGES).right
    assert score_answer("Just 1 [1]", question, PASSAGES).right


def test_a_value_in_an_answer_of_more_than_sixty_words_does_not_count() -> None:
    filler = ["word"] * (MAX_WORDS - 1)
    assert score_answer(" ".join([*filler, "€140", "[1]"]), QUESTION, PASSAGES).right
    assert not score_answer(" ".join([*filler, "more", "€140", "[1]"]), QUESTION, PASSAGES).right


def test_an_unanswerable_question_scores_when_it_is_refused() -> None:
    assert score_answer(REFUSAL, ABSENT, PASSAGES).score == 1.0
    assert score_answer("i could not find  this in the documents", ABSENT, ()).score == 1.0
    made_up = score_answer("Seven [1]", ABSENT, PASSAGES)
    assert (made_up.score, made_up.right, made_up.cited) == (0.0, False, False)


@pytest.mark.parametrize(
    "text",
    [
        f"{REFUSAL} The ceiling is EUR 500 a head [1].",
        f"{REFUSAL} The ceiling is five hundred euros.",
        f"{REFUSAL} [1]",
        f"No dogs are allowed. {REFUSAL}",
    ],
)
def test_who_refuses_and_answers_in_one_breath_scores_neither_way(text: str) -> None:
    judged = score_answer(text, ABSENT, PASSAGES)
    assert (judged.refused, judged.score) == (False, 0.0)
    assert score_answer(f"{text} €140 [1]", QUESTION, PASSAGES).score == 0.0


@pytest.mark.parametrize(
    "text",
    [
        f"Sorry, but {REFUSAL}",
        f"Unfortunately, {REFUSAL} Please ask the Travel Coordinator.",
        f"{REFUSAL}\n\nThe closest pages are:\n- Travel > Hotels\n- Gifts",
    ],
)
def test_a_refusal_may_be_polite_and_point_to_pages_and_people(text: str) -> None:
    assert score_answer(text, ABSENT, PASSAGES).score == 1.0
    assert score_answer(text, QUESTION, PASSAGES).refused


def test_the_source_may_be_written_with_another_kind_of_slash() -> None:
    question = QuestionRow(id="q", fact="f", question="?", answer="€140", sources=("./travel/flights.md",))
    assert score_answer("€140 [1]", question, (passage(1, "travel\\flights.md"),)).cited


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The lunch with customers may cost 42 euros a head.", "A lunch with customers may cost EUR 42 a head."),
        ("42 euros a head may the lunch cost", "The lunch may cost 42 euros a head."),
        ("Twelve weeks; twelve!", "It is twelve (12) weeks."),
        ("", "twelve weeks"),
    ],
)
def test_rouge_l_is_what_the_reference_library_counts(answer: str, reference: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rougeL"]).score(target=reference, prediction=answer)["rougeL"]
    assert rouge_l(answer, reference) == expected.fmeasure
    both = expected.precision + expected.recall
    assert rouge_l(answer, reference) == pytest.approx(2 * expected.precision * expected.recall / both if both else 0.0)


def test_rouge_l_is_one_for_the_same_words_and_zero_for_others() -> None:
    assert rouge_l("the answer is twelve", "the answer is twelve") == 1.0
    assert rouge_l("nothing alike", "twelve weeks") == 0.0
    assert rouge_l("the answer", "the answer is twelve") == pytest.approx(2 / 3)


def test_the_summary_counts_each_measure_over_its_own_questions() -> None:
    scored = [
        score_answer("€140 [1]", QUESTION, PASSAGES),
        score_answer("€140", QUESTION, PASSAGES),
        score_answer(REFUSAL, QUESTION, PASSAGES),
        score_answer(REFUSAL, ABSENT, PASSAGES),
        score_answer("Seven [2]", ABSENT, PASSAGES),
    ]
    summary = summarise(scored)
    assert (summary["questions"], summary["facts"], summary["answerable"], summary["unanswerable"]) == (5, 2, 3, 2)
    assert summary["score"] == pytest.approx(2 / 5)
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["cited"] == pytest.approx(1 / 3)
    assert summary["citation_precision"] == pytest.approx(1 / 2)
    assert summary["refusal_precision"] == pytest.approx(1 / 2)
    assert summary["refusal_recall"] == pytest.approx(1 / 2)


def test_a_measure_without_a_case_is_none_rather_than_nought() -> None:
    summary = summarise([score_answer("€140 [1]", QUESTION, PASSAGES)])
    assert summary["refusal_precision"] is None
    assert summary["refusal_recall"] is None
    assert summarise([])["score"] is None


def test_a_fact_is_the_mean_of_its_wordings() -> None:
    scored = [score_answer("€140 [1]", QUESTION, PASSAGES), score_answer("no", QUESTION, PASSAGES)]
    assert by_fact([*scored, score_answer(REFUSAL, ABSENT, ())]) == {"f1": 0.5, "f2": 1.0}
