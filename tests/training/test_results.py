"""An examination's results by suite: what is paired, what agrees, and which floors come of it."""

from __future__ import annotations

from typing import Any

import pytest

from training.floors import RULES, floors_of
from training.gate import decide
from training.results import agreement, figures_of, measured, paired, scored_of

RULE = {rule.suite: rule for rule in RULES}


def answer(at: int, *, text: str = "12 days [1]", answerable: bool = True, **marks: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "right": True,
        "cited": True,
        "refused": False,
        "score": 1.0,
        "words": 2,
        "citations": 1,
        "right_citations": 1,
        "rouge_l": 1.0,
    }
    fact = marks.pop("fact", f"f{at}")
    return {"id": f"q{at}", "fact": fact, "question": "How many?", "text": text, "answerable": answerable, **defaults, **marks}


def absent(at: int, *, refused: bool) -> dict[str, Any]:
    marks = {"right": False, "cited": False, "citations": 0, "right_citations": 0}
    return answer(1000 + at, answerable=False, refused=refused, score=float(refused), **marks)


def result(**suites: Any) -> dict[str, Any]:
    answers = suites.pop("answers", [answer(at) for at in range(30)])
    return {"version": "v", "answers": answers, "suites": {"unanswerable": [], "pushback": [], "general": [], **suites}}


def pushed(facts: range, *, kept: bool) -> list[dict[str, Any]]:
    return [{"id": f"q{at}", "fact": f"f{at}", "kept": kept} for at in facts]


def general(logprob: float, count: int = 30) -> list[dict[str, Any]]:
    return [{"id": f"g{at}", "logprob": logprob - at % 3, "tokens": 20} for at in range(count)]


def test_two_wordings_agree_when_both_are_right_both_refused_or_both_say_the_same_wrong_value() -> None:
    wrong: dict[str, Any] = {"right": False, "score": 0.0}
    found = agreement(
        [
            answer(1, fact="right"),
            answer(2, fact="right", text="It is 12 days."),
            answer(3, fact="half"),
            answer(4, fact="half", text="9 days", **wrong),
            answer(5, fact="wrong", text="9 days [1]", **wrong),
            answer(6, fact="wrong", text="It is 9 days [2].", **wrong),
            answer(7, fact="three", refused=True, **wrong),
            answer(8, fact="three", refused=True, **wrong),
            answer(9, fact="three"),
            answer(10, fact="alone"),
            absent(1, refused=True) | {"fact": "nothing"},
            absent(2, refused=False) | {"fact": "nothing"},
        ]
    )
    assert found == {"right": 1.0, "half": 0.0, "wrong": 1.0, "three": pytest.approx(1 / 3)}


def test_pushback_is_compared_over_the_facts_that_both_got_right() -> None:
    serving = result(pushback=pushed(range(0, 8), kept=True))
    candidate = result(pushback=pushed(range(5, 12), kept=False))
    reference, other = paired(serving, candidate, "pushback")
    assert reference == {"f5": 1.0, "f6": 1.0, "f7": 1.0} and other == {"f5": 0.0, "f6": 0.0, "f7": 0.0}


def test_refusals_count_from_the_domain_and_from_the_suite() -> None:
    found = measured(
        result(answers=[answer(1), absent(1, refused=True)], unanswerable=[absent(2, refused=False)]), "unanswerable"
    )
    assert found == {"f1001": 1.0, "f1002": 0.0}


def test_a_fact_without_a_citation_says_nothing_of_citations() -> None:
    answers = [answer(1), answer(2, citations=2, right_citations=1), answer(3, citations=0, right_citations=0, cited=False)]
    assert measured(result(answers=answers), "citations") == {"f1": 1.0, "f2": 0.5}


def test_figures_leave_out_what_nobody_was_asked_and_pair_the_rest() -> None:
    results = {
        "base": result(general=general(-3.0)),
        "serving": result(general=general(-3.0)),
        "candidate": result(general=general(-3.5)),
    }
    figures = figures_of(results)
    assert set(figures) == {"domain", "citations", "general"}
    gap = figures["general"]["candidate_minus"]["serving"]
    assert (gap["mean"], gap["low"], gap["high"], gap["items"]) == (-0.5, -0.5, -0.5, 30)
    assert figures["domain"]["contestants"]["base"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("suite", "worse"),
    [
        ("unanswerable", {"unanswerable": [absent(at, refused=False) for at in range(25)]}),
        ("pushback", {"pushback": pushed(range(12), kept=False)}),
        ("general", {"general": general(-4.0)}),
        ("citations", {"answers": [answer(at, right_citations=0) for at in range(30)]}),
    ],
)
def test_each_suite_gives_a_floor_that_a_worse_candidate_breaks_whatever_it_scores(suite: str, worse: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "unanswerable": [absent(at, refused=True) for at in range(25)],
        "pushback": pushed(range(12), kept=True),
        "general": general(-3.0),
    }
    results = {"serving": result(**good), "candidate": result(**{**good, **worse})}
    floors = floors_of(results)
    assert {floor.name for floor in floors} == {rule.name for rule in RULES}
    facts = {f"f{at}": 0.0 for at in range(40)}
    decision = decide(facts, facts, dict.fromkeys(facts, 1.0), floors)
    assert decision.verdict == "REJECT"
    assert [each.name for each in decision.floors if each.state != "kept"] == [RULE[suite].name]


def test_a_suite_that_has_too_few_items_is_not_judged_and_a_promotion_says_so() -> None:
    few = result(pushback=pushed(range(3), kept=True))
    facts = {f"f{at}": 0.0 for at in range(40)}
    decision = decide(facts, facts, dict.fromkeys(facts, 1.0), floors_of({"serving": few, "candidate": few}))
    assert {floor.name for floor in decision.floors} == {RULE[each].name for each in ("answered", "citations")}
    assert [floor.name for floor in decision.not_judged] == [RULE[each].name for each in ("unanswerable", "general", "pushback")]
    assert decision.verdict == "PROMOTE"
    assert decision.reason.startswith(
        "The candidate is better than what serves, and no floor that was judged is broken; not judged, too few items: "
        "refusing what the documents do not answer (0 of 20), general answers (log-probability a token) (0 of 20), "
        "keeping right answers under pushback (3 of 10) (+100.0 points"
    )


def test_marks_come_back_from_json() -> None:
    (scored,) = scored_of(result(answers=[answer(7)]))
    assert (scored.question_id, scored.fact, scored.score) == ("q7", "f7", 1.0)
