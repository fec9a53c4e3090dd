"""What the chat shows of a turn: pure functions, no server."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from assistant.grounding import check, sentences
from assistant.web.answer_text import answer_markdown, plain
from assistant.web.messages import turn_messages, waiting_message, writing_message
from feedback.records import Answer, Feedback, FinishReason, Message, NewTurn, OpenQuestion, Passage, SentenceCheck, Step, Turn
from feedback.wording import REFUSAL


def passage(number: int, title: str = "Hotels > London", text: str = "A room may cost €140.", **more: Any) -> Passage:
    return Passage(
        **{
            "number": number,
            "document": "travel/hotel s.md",
            "document_version": 1,
            "chunk_id": number,
            "title": title,
            "text": text,
            "score": 0.9,
            **more,
        }
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
        searched=more.get("searched", ""),
        collection=more.get("collection", ""),
    )
    answer = Answer(
        text=text,
        finish_reason=reason,
        total_s=2.04,
        error="Boom",
        checks=more.get("checks", ()),
        steps=more.get("steps", ()),
    )
    return Turn(id="t1", asked=new, answer=answer, created_at="")


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


# ---- sentences without support ----


def doubted(text: str) -> tuple[SentenceCheck, ...]:
    """Every sentence of a text, as one that no passage supports."""
    return tuple(SentenceCheck(start=start, end=end, cited=(), support=0.0, supported=False) for start, end in sentences(text))


def rendered(text: str, checks: tuple[SentenceCheck, ...]) -> str:
    from markdown_it import MarkdownIt

    shown = answer_markdown(text, turn_id="t1", passages=[passage(1)], checks=checks)
    return str(MarkdownIt("commonmark").enable("table").render(shown))


def test_a_sentence_without_support_is_marked_for_eyes_and_ears_and_the_others_are_not() -> None:
    text = "A room may cost €140 [1]. Dogs pay $9 a night [1]."
    passages = (passage(1),)
    shown = turn(text, passages=passages, checks=check(text, passages, "What does a room cost?"))
    markdown, block = turn_messages(shown, None, block=str)[-1]["content"]
    marked = re.findall(r'<span class="ns-unsupported">(.*?)</span><span class="ns-spoken"> \(not found', markdown)
    assert marked == ["Dogs pay $9 a night [\\[1\\]](/documents/travel/hotel%20s.md?turn=t1&passage=1#passage)."]
    assert markdown.count("](/documents/") == 2 and "Marked sentences were not found in the sources" in block


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ("- one thing [1]\n- another", ["<ul>", "<li>", "<a "]),
        ("1. one thing\n2. another", ["<ol>", "<li>"]),
        ("## A heading\n\n> a quote", ["<h2>", "<blockquote>"]),
        ("**Bold words** end. *Both ends*", ["<strong>Bold words</strong>", "<em>Both ends</em>"]),
        ("| What | Price |\n| --- | --- |\n| Room | 9 [1] |", ["<table>", "<th>", "<td>", "<a "]),
        ("Run this:\n\n```sh\nls -l *_x_*\n```\n", ['<pre class="ns-unsupported"><code>ls']),
        ("See [a. Site](http://evil. Now) there", ["See a. Site"]),
    ],
)
def test_marks_leave_the_markdown_of_an_answer_whole(text: str, structure: list[str]) -> None:
    bare, marked = rendered(text, ()), rendered(text, doubted(text))
    assert "ns-unsupported" in marked
    assert [part for part in structure if part not in re.sub('<span class="ns-unsupported">|</?span[^>]*>', "", marked)] == []
    without = re.sub(r'<span class="ns-spoken">[^<]*</span>|</?span[^>]*>| class="ns-unsupported"', "", marked)
    assert without == bare, "nothing else changed"
    assert marked.count("<span") == marked.count("</span>")


def test_a_refusal_is_never_marked_and_private_characters_are_no_marks() -> None:
    assert "ns-unsupported" not in rendered(REFUSAL, doubted(REFUSAL))
    assert "ns-unsupported" not in under(turn(REFUSAL, checks=doubted(REFUSAL)))
    assert "<span" not in answer_markdown("a \ue000b\ue001", turn_id="t1", passages=[])


# ---- refusals ----


def test_a_refusal_says_whether_a_model_was_asked_and_offers_to_send_the_question() -> None:
    not_asked = under(turn(REFUSAL, reason="refused", asked=False))
    taken_back = under(turn(REFUSAL, reason="refused"))
    own = under(turn(REFUSAL))
    assert "the model was not asked" in not_asked
    assert "did not support what the model wrote" in taken_back and "not asked" not in taken_back
    assert "ns-note" not in own, "the model said it itself"
    for block in (not_asked, taken_back, own):
        assert "<ns-question" in block and "Closest pages" in block and "ns-is-cited" not in block
        assert block.count("<blockquote>") == 1, "a page stands there once"
    assert "<ns-question" not in under(turn()) and "<ns-question" not in under(turn("", reason="failed"))


def test_a_question_that_was_sent_says_when_and_what_came_of_it() -> None:
    sent = OpenQuestion(
        turn_id="t1", user_id="u", user_name="anna", question="?", note="<now>", closest=(), sent_at="2026-11-22T06:00:00+00:00"
    )

    def told(question: OpenQuestion | None) -> dict[str, str]:
        found = re.search(r'<ns-question data-turn="t1" data-state="([^"]*)"', under(turn(REFUSAL), sent=question))
        assert found
        loaded: dict[str, str] = json.loads(html.unescape(found[1]))
        return loaded

    assert told(None)["sent"] == ""
    assert told(sent)["sent"].startswith("Sent on 22 Nov 2026") and told(sent)["closed"] == "" and told(sent)["note"] == "<now>"
    closed = replace(sent, closed_at="2026-11-23T06:00:00+00:00", closed_by="ada", resolution="See page 3.")
    assert told(closed)["closed"].startswith("ada closed it on 23 Nov 2026") and told(closed)["closed"].endswith(": See page 3.")


# ---- where passages come from ----


def test_a_source_names_its_page_and_a_collection_that_is_not_the_main_one() -> None:
    passages = (passage(1, page=3), passage(2, document="sales.xlsx", page=2, collection="hr & co"), passage(3))
    places = re.findall('<span class="ns-place">(.*?)</span>', under(turn(passages=passages)))
    assert places == ["page 3", "sheet 2, hr &amp; co"]


def test_what_was_searched_is_said_when_it_is_not_the_question_itself() -> None:
    assert "Searched: room &lt;b&gt; in London" in under(turn(searched="room <b> in London"))
    assert "Searched in hr</p>" in under(turn(collection="hr"))
    assert "Searched" not in under(turn(searched="How much?", question="How much?"))


def test_the_steps_of_an_agent_stand_above_the_answer_and_its_passages_are_sources() -> None:
    steps = (
        Step(name="thought", result="First <the> rules."),
        Step(name="search_documentation", arguments={"query": "hotel <x>"}, passages=(passage(3), passage(4))),
        Step(name="read_document", arguments={"name": "a.md", "start": 0}, result="There is no document 'a.md'."),
    )
    shown = turn("Three weeks [3].", steps=steps, passages=(passage(1),))
    above, markdown, block = turn_messages(shown, None, block=str)[-1]["content"]
    assert above.count("<details>") == 3 and "First &lt;the&gt; rules." in above
    assert "Searched the documents for &#x27;hotel &lt;x&gt;&#x27;: 2 passages" in above
    assert "Read &#x27;a.md&#x27;: 0 passages" in above and "There is no document" in above
    assert "passage=3#passage" in markdown and block.count("<blockquote>") == 3
    live = writing_message("", turn_id="t1", passages=(), steps=steps[:2], block=str)["content"]
    assert live[0].count("<details>") == 2 and "Thinking" in live[1]
