"""What the chat shows of a turn: pure functions, no server."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest

from assistant.web.messages import answer_markdown, plain, turn_messages, waiting_message
from feedback.records import Answer, Feedback, FinishReason, Message, NewTurn, Passage, Turn


def passage(number: int, title: str = "Hotels > London", text: str = "A room may cost €140.") -> Passage:
    return Passage(
        number=number, document="travel/hotel s.md", document_version=1, chunk_id=number, title=title, text=text, score=0.9
    )


def turn(
    text: str = "€140 [1]", *, reason: FinishReason = "stop", asked: bool = True, question: str = "How much?", **more: Any
) -> Turn:
    new = NewTurn(
        conversation_id="c",
        user_id="u",
        question=question,
        messages=(Message(role="user", content=question),) if asked else (),
        passages=more.get("passages", (passage(1), passage(2))),
        base_model="b",
        base_hash="h",
        adapter=more.get("adapter", "v0003"),
        engine="e",
        sampling={},
        history=False,
    )
    return Turn(id="t1", asked=new, answer=Answer(text=text, finish_reason=reason, total_s=2.04, error="Boom"), created_at="")


def under(shown: Turn, feedback: Feedback | None = None, **more: Any) -> str:
    block = turn_messages(shown, feedback, block=str, **more)[-1]["content"][-1]
    return str(block)


def state(block: str) -> dict[str, Any]:
    found = re.search(r'data-state="([^"]*)"', block)
    assert found
    loaded: dict[str, Any] = json.loads(html.unescape(found[1]))
    return loaded


def test_citations_link_to_the_passage_and_invented_ones_do_not() -> None:
    shown = answer_markdown("€140 [1], or [7]", turn_id="t1", passages=[passage(1)])
    assert shown == "€140 [\\[1\\]](/documents/travel/hotel%20s.md?turn=t1&passage=1#passage), or &#91;&#55;&#93;"


@pytest.mark.parametrize(
    "text",
    ["![x](http://evil/a.png)", "[click](http://evil)", "[a](javascript:alert(1))", "<img src=x onerror=alert(1)>", "![x][1]"],
)
def test_an_answer_can_neither_link_nor_load_anything(text: str) -> None:
    shown = answer_markdown(text, turn_id="t1", passages=[])
    assert "](" not in shown and "<" not in shown and not shown.startswith("![")


@pytest.mark.parametrize(
    "text",
    [
        "[a [b](c)](http://evil)",
        "[a](b [c](http://evil)",
        "\\[a [b](c)](http://evil)",
        "[click][ref]\n\n[ref]: http://evil",
        "[click][1]\n\n[1]: http://evil",
        "![x [y](z)](http://evil/a.png)",
        "![1](http://evil/a.png) ![1]",
        "<http://evil> [1]",
    ],
)
def test_no_spelling_of_a_link_leads_outside(text: str) -> None:
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("commonmark").render(answer_markdown(text, turn_id="t1", passages=[passage(1)]))
    assert re.findall(r'(?:href|src)="(?!/documents/)', rendered) == [] and "<img" not in rendered


def test_code_is_shown_letter_for_letter_and_links_nothing() -> None:
    from markdown_it import MarkdownIt

    text = "Set `a[0] = *b_c_*` to `http://host` [1]:\n\n```ini\n[Service]\n\nUser=<me> & x\n```\n"
    rendered = MarkdownIt("commonmark").render(answer_markdown(text, turn_id="t1", passages=[passage(1)]))
    assert [html.unescape(code) for code in re.findall("<code>(.*?)</code>", rendered, re.DOTALL)] == [
        "a[0] = *b_c_*",
        "http://host",
        "[Service]\n\nUser=<me> & x\n",
    ]
    assert "`" not in answer_markdown("an open ` and ```one", turn_id="t1", passages=[])


@pytest.mark.parametrize(
    "text",
    ["http://evil/?q=1", "HTTPS://evil", "see www.evil.example now", "WWW.evil.example", "a@evil.example", "_www.evil.example_"],
)
def test_a_bare_address_is_shown_and_no_link_is_made_of_it(text: str) -> None:
    shown = answer_markdown(text, turn_id="t1", passages=[])
    assert html.unescape(shown) == text
    # what GitHub's Markdown makes a link of: https://github.github.com/gfm/#autolinks-extension-
    assert re.search(r"(?i)https?://|www\.|\w@\w", shown) is None


@pytest.mark.parametrize("text", ["*a* _b_ `c` # d", "1. one", "- one", "> said", "<b>x</b>", "$x$ | y ~z~", "a [1](b)"])
def test_a_question_is_shown_as_it_was_typed(text: str) -> None:
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(plain(text))
    assert html.unescape(re.sub(r"</?p>|\n", "", rendered)) == text


def test_sources_are_shown_with_text_and_link_and_the_cited_one_stands_out() -> None:
    block = under(turn())
    assert block.count("<blockquote>A room may cost €140.</blockquote>") == 2
    assert block.count("ns-is-cited") == 1 and block.count("ns-is-read") == 1
    assert 'href="/documents/travel/hotel%20s.md?turn=t1&amp;passage=1#passage"' in block
    assert "Answered by v0003 in 2.0 s" in block


def test_text_of_documents_is_escaped() -> None:
    block = under(turn(passages=(passage(1, title="<i>T</i>", text="<script>alert(1)</script>"),)))
    assert "<script" not in block and "<i>" not in block


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("stopped", "You stopped this answer."),
        ("failed", "This answer failed."),
        ("interrupted", "The server was stopped"),
        ("length", "cut off at the length limit"),
    ],
)
def test_an_answer_that_is_not_whole_says_why_and_can_be_rated(reason: FinishReason, sentence: str) -> None:
    block = under(turn("", reason=reason))
    assert sentence in block and "<ns-rating" in block and "Boom" not in block


def test_an_answer_without_a_model_says_so_and_shows_the_closest_pages() -> None:
    block = under(turn("I could not find this in the documents.", reason="refused", asked=False))
    assert "Closest pages" in block and "No model was asked (v0003 was in service)" in block


def test_what_was_said_is_in_the_rating_with_the_reason_why_it_was_not_learned() -> None:
    said = Feedback(turn_id="t1", user_id="u", thumb="down", reasons=("wrong",), comment='"<x>', correction="€150")
    assert state(under(turn(), said, not_learned="too long")) == {
        "turn": "t1",
        "thumb": "down",
        "reasons": ["wrong"],
        "comment": '"<x>',
        "correction": "€150",
        "verified": False,
        "not_learned": "too long",
    }
    assert state(under(turn()))["thumb"] is None


def test_a_turn_without_an_answer_says_that_it_is_being_written() -> None:
    open_turn = Turn(id="t1", asked=turn().asked, answer=None, created_at="")
    assert "Still being written" in turn_messages(open_turn, None, block=str)[-1]["content"]


def test_waiting_names_the_pages_that_are_read() -> None:
    shown = waiting_message([passage(1, "Hotels > A"), passage(2, "Hotels > B"), passage(3, "Flights")])["content"]
    assert shown == "*Reading Hotels, Flights …*"
