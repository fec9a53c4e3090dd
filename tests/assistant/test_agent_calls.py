"""Calls in what a model writes: which are read, and what is shown meanwhile."""

from __future__ import annotations

import pytest

from assistant.agent_calls import UNREADABLE, Listener

HERMES = '<tool_call>\n{"name": "find", "arguments": {"query": "a } b"}}\n</tool_call>'


def heard(text: str, piece: int = 1) -> tuple[Listener, str]:
    listener = Listener()
    said = ""
    for at in range(0, len(text), piece):
        said += listener.feed(text[at : at + piece])
        if listener.call is not None:
            return listener, said
    return listener, said + listener.finish()


@pytest.mark.parametrize(
    "written",
    [
        HERMES,
        HERMES.replace("\n", ""),
        '<tool_call>{"name": "find", "arguments": {"query": "a } b"}}',  # cut off after the object
        '<tool_call>\n```json\n{"name": "find", "arguments": {"query": "a } b"}}\n```\n</tool_call>',
        "<tool_call>\n<function=find>\n<parameter=query>\na } b\n</parameter>\n</function>\n</tool_call>",
        '{"name": "find", "parameters": {"query": "a } b"}}',
        '{"type": "function", "function": {"name": "find", "parameters": {"query": "a } b"}}}',
        '[{"name": "find", "arguments": {"query": "a } b"}}]',
        '{ "name" : "find", "arguments" : "{\\"query\\": \\"a } b\\"}" }',
        '```json\n{"name": "find", "arguments": {"query": "a } b"}}\n```',
        '```\n{\n  "name": "find",\n  "arguments": {\n    "query": "a } b"\n  }\n}\n```',
    ],
)
@pytest.mark.parametrize("piece", [1, 4, 500])
@pytest.mark.parametrize("before", ["", "Let me see [1].\n\n"])
def test_every_way_of_writing_a_call_is_read_and_none_of_it_is_shown(written: str, piece: int, before: str) -> None:
    listener, said = heard(before + written, piece)
    assert listener.call is not None
    assert (listener.call.name, listener.call.arguments, listener.call.problem) == ("find", {"query": "a } b"}, "")
    assert (said, listener.preface, listener.written) == (before, before, before + written)


def test_the_model_is_heard_up_to_the_end_of_its_first_call() -> None:
    listener, _ = heard(HERMES + "\n<tool_response>made up</tool_response>" + HERMES, 500)
    assert listener.written == HERMES


@pytest.mark.parametrize(
    "text",
    [
        "The limit is €140 [1].",
        "Set `x` to {1, 2} and a < b; see [1][2], [link] and <b>.",
        'Write {"limit": 3} in the file.',
        '{"name": "Anna", "age": 3} is the example in [1].',
        "```python\nprint({})\n```\nprints an empty one <",
        "An open {",
        "```",
    ],
)
@pytest.mark.parametrize("piece", [1, 3, 500])
def test_what_is_no_call_is_shown_whole(text: str, piece: int) -> None:
    listener, said = heard(text, piece)
    assert listener.call is None and said == listener.preface == text and listener.thoughts() == []


def test_only_what_may_become_a_call_waits() -> None:
    listener = Listener()
    shown = [listener.feed(piece) for piece in ("It is ", "[", "1", "] a ", "<", "b", ' {"na', 'il": 1}')]
    assert shown == ["It is ", "", "[1", "] a ", "", "<b", " ", '{"nail": 1}']


def test_thoughts_are_set_apart_also_when_they_began_in_the_prompt() -> None:
    for text, shown in (("<think>\nWhere?\n</think>\n\nHere.", "\n\nHere."), ("Where?</think>Here.", "Where?Here.")):
        listener, said = heard(text)
        assert (listener.thoughts(), listener.preface.strip(), said) == (["Where?"], "Here.", shown)
        assert listener.thoughts() == []
    listener, said = heard("<think>cut off", 3)
    assert (listener.thoughts(), said, listener.call) == (["cut off"], "", None)
    listener, _ = heard("<think></think>Here.")
    assert listener.thoughts() == []


@pytest.mark.parametrize(
    "written",
    [
        "<tool_call>find(a)</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>["a"]</tool_call>',
        '{"name": "find", "arguments": {"query": ',
        '{"name": "find", "arguments": ' + '{"a":' * 100_000,
        "<tool_call>",
    ],
)
def test_a_call_that_cannot_be_read_says_how_to_write_one(written: str) -> None:
    listener, said = heard(written, 1_000_000)
    assert said == "" and listener.call is not None and listener.call.name == UNREADABLE
    assert '{"name": "search_documentation"' in listener.call.problem and listener.written == written
