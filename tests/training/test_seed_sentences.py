"""From a sentence with one value to a question for it: English, or nothing."""

from __future__ import annotations

import pytest

from training.page_parts import sentences
from training.seed_sentences import question_of

NAMES = frozenset(("Larkmoor", "Keystone"))


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("A Lockgate link expires after 21 days.", "After how many days does a Lockgate link expire?", "21 days"),
        (
            "A claim must be submitted within 45 days of the date on the receipt.",
            "Within how many days of the date on the receipt must a claim be submitted?",
            "45 days",
        ),
        (
            "Paper originals may be thrown away 30 days after the claim has been paid.",
            "How many days after the claim has been paid may paper originals be thrown away?",
            "30 days",
        ),
        ("A repair normally takes 7 working days.", "How many working days does a repair normally take?", "7 working days"),
        (
            "Up to 5 days can be carried over into the next year.",
            "Up to how many days can be carried over into the next year?",
            "5 days",
        ),
        ("The budget is fixed at €48 a guest, including room and music.", "At how much a guest is the budget fixed?", "€48"),
        ("Towing an instrument trailer adds another €0.09.", "How much does towing an instrument trailer add?", "€0.09"),
        ("The pass mark of the course is 80 percent.", "What is the pass mark of the course?", "80 percent"),
        ("Departments return their drafts by 5 September.", "By what date do departments return their drafts?", "5 September"),
        (
            "Planned maintenance takes place on Sundays from 03:30 and does not count.",
            "From what time does planned maintenance take place on Sundays?",
            "03:30",
        ),
        ("Larkmoor keeps 7 pool cars.", "How many pool cars does Larkmoor keep?", "7 pool cars"),
        (
            "If the site is full, the car park opposite gives our staff a day ticket for €5.",
            "For how much does the car park opposite give our staff a day ticket if the site is full?",
            "€5",
        ),
        (
            "You may reopen a closed ticket for another 14 days; later than that, open a new one.",
            "For how many more days may I reopen a closed ticket?",
            "14 days",
        ),
        (
            "Write to the Card Administrator on extension 2714, giving the reason.",
            "On which extension should I write to the Card Administrator?",
            "2714",
        ),
        (
            "Send the signed form to wages@larkmoor.example before the end of term.",
            "To which e-mail address should I send the signed form before the end of term?",
            "wages@larkmoor.example",
        ),
        (
            "A Keystone password has a minimum length of 14 characters.",
            "What minimum length does a Keystone password have?",
            "14 characters",
        ),
        (
            "The IT Operations Lead reads every comment that comes with a score.",
            "Who reads every comment that comes with a score?",
            "IT Operations Lead",
        ),
        (
            "Older material is restored from tape by the Storage Administrator.",
            "By whom is older material restored from tape?",
            "Storage Administrator",
        ),
        ("Wishes are collected by the product owner, Salma Dray, in the box.", "Who is the product owner?", "Salma Dray"),
    ],
)
def test_a_value_is_asked_for_in_english(sentence: str, question: str, answer: str) -> None:
    made = question_of(sentence, NAMES)
    assert made is not None and (made.question, made.answer) == (question, answer)


@pytest.mark.parametrize(
    "sentence",
    [
        "It lasts 35 minutes.",
        "A link expires after 21 days and can be opened 5 times.",
        "Deliveries arrive between 06:30 and 15:30.",
        "The medical cover reaches €2 million a person.",
        "The safe stands in Mill House, room 0.06.",
        "At present the waiting list is about 9 weeks long.",
        "Travel laptops go back within 2 working days of your return.",
        "The house-moving day is granted once in any 24 months.",
        "Its code changes every morning at 05:00.",
        'Press "Raise a hand" within 3 days.',
        "Desks at Eastmere are shared.",
        "",
    ],
)
def test_what_is_not_sure_is_not_asked(sentence: str) -> None:
    assert question_of(sentence, NAMES) is None


def test_sentences_end_where_they_end() -> None:
    text = 'See Dr. Ruiz, e.g. on Monday. Costs 3.50 a day. He said "Stop." Then it was 5 p.m. in the hall!'
    assert sentences(text) == [
        "See Dr. Ruiz, e.g. on Monday.",
        "Costs 3.50 a day.",
        'He said "Stop."',
        "Then it was 5 p.m. in the hall!",
    ]
