"""The agent: what it looks up and shows, where it ends, and what is kept of it. A script stands in for the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.agent import MAX_CALLS, SHORTENED, THOUGHT, Agent, replay, use_agent
from assistant.agent_calls import UNREADABLE
from assistant.agent_tools import LIST, READ, SEARCH, TOOLS
from assistant.chat import Chat, ChatEvent, Done, Piece, Sources, StepDone
from assistant.engines.base import AdapterVersion, CanaryReading, ChatRequest, Delta, Engine, LoadedAdapter, Tool
from assistant.hardware import PromptLimits
from assistant.models import BaseModel
from assistant.services import Services
from feedback.errors import EngineError, SettingsError
from feedback.records import Message, Turn
from feedback.wording import REFUSAL

QUESTION = "How much may a room in London cost a night?"
ANSWER = "A room in London may cost up to €140 a night [1]."


def call(name: str, /, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class ScriptedEngine:
    """An engine that says what its script holds, one text a request, a few characters at a time; a word is a token."""

    name = "scripted 1"

    def __init__(self, *script: str, piece: int = 3) -> None:
        self.requests: list[ChatRequest] = []
        self.closed = 0  # streams that were closed before their end
        self._script = list(script)
        self._piece = piece

    def load(self, adapter: AdapterVersion | None) -> LoadedAdapter:
        raise NotImplementedError

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        self.requests.append(request)
        text = self._script[min(len(self.requests), len(self._script)) - 1]
        try:
            for at in range(0, len(text), self._piece):
                if text[at:].startswith("FAIL"):
                    raise EngineError("The engine lost its place: ask again.")
                yield Delta(text=text[at : at + self._piece])
            yield Delta(text="", finish_reason="stop", prompt_tokens=20, completion_tokens=len(text.split()))
        except GeneratorExit:
            self.closed += 1
            raise

    def unload(self, adapter: LoadedAdapter) -> None:
        pass

    def canary(self, adapter: LoadedAdapter, prompts: Sequence[Sequence[Message]]) -> list[CanaryReading]:
        return []

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return sum(len(message.content.split()) + 4 for message in messages) + len(json.dumps(list(tools)).split())

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def services(make_services: Callable[..., Services], tmp_path_factory: pytest.TempPathFactory) -> Services:
    """The pages of everybody, and two of a collection of its own."""
    root = tmp_path_factory.mktemp("agent")
    services = make_services(root / "home")
    secret = root / "secret"
    secret.mkdir()
    (secret / "bonus.md").write_text("# Bonus\n\nThe annual bonus for a room in London is €9,000.\n")
    long = "".join(
        f"## Part {number}\n\nRule {number} of the guide says that form {number} is blue.\n\n" for number in range(200)
    )
    (secret / "guide.md").write_text(f"# Guide\n\n{long}")
    services.library.add_folder(secret, collection="board")
    return services


def started(
    services: Services,
    engine: ScriptedEngine,
    question: str = QUESTION,
    *,
    tokens: int = 1200,
    collection: str = "main",
    passages: int = 2,
) -> Iterator[ChatEvent]:
    limits = PromptLimits(tokens=tokens, passages=passages, following=0)
    chat = Chat(
        store=services.store,
        prompts=services.prompts,
        engine=engine,
        pool=services.pool,
        base_model="reader",
        base_hash="0" * 64,
        max_tokens=96,
        queue=2,
        agent=Agent(services.library, engine, limits=limits, max_tokens=96),
    )
    user = services.store.user_by_name("anna").id
    place = services.store.start_conversation(user, history=False)
    return chat.ask(user_id=user, conversation_id=place, question=question, history=False, collection=collection)


def asked(services: Services, engine: ScriptedEngine, question: str = QUESTION, **options: Any) -> tuple[list[ChatEvent], Turn]:
    events = list(started(services, engine, question, **options))
    assert isinstance(events[0], Sources) and isinstance(events[-1], Done)
    turn = events[-1].turn
    assert turn.answer is not None
    assert [event.step for event in events if isinstance(event, StepDone)] == list(turn.answer.steps)
    assert [event.number for event in events if isinstance(event, StepDone)] == list(range(1, len(turn.answer.steps) + 1))
    return events, turn


def shown(events: Sequence[ChatEvent]) -> str:
    """What the page shows at the end: the pieces after the last step."""
    last = max((at for at, event in enumerate(events) if isinstance(event, StepDone)), default=0)
    return "".join(event.text for event in events[last:] if isinstance(event, Piece))


def ever_shown(events: Sequence[ChatEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def calls(turn: Turn) -> list[str]:
    assert turn.answer is not None
    return [step.name for step in turn.answer.steps if step.name not in (THOUGHT, SHORTENED)]


def test_the_script_keeps_the_protocol_of_engines() -> None:
    assert isinstance(ScriptedEngine(), Engine)


def test_a_plain_answer_streams_at_once_and_takes_one_request(services: Services) -> None:
    engine = ScriptedEngine(ANSWER)
    events, turn = asked(services, engine)
    assert turn.answer is not None and turn.answer.text == shown(events) == ANSWER and turn.answer.steps == ()
    assert len(engine.requests) == 1 and engine.requests[0].tools == TOOLS
    assert engine.requests[0].messages == turn.asked.messages
    first = next(event for event in events if isinstance(event, Piece))
    assert first.text == ANSWER[:3], "it does not wait"
    assert turn.asked.sampling["plan"] == "agent"


def test_a_search_finds_passages_whose_numbers_go_on_and_the_answer_cites_them(services: Services) -> None:
    engine = ScriptedEngine("I will look it up.\n" + call(SEARCH, query="VPN support extension"), "VPN support has 2217 [2].")
    events, turn = asked(services, engine)
    assert turn.answer is not None and turn.answer.text == shown(events) == "VPN support has 2217 [2]."
    assert [(check.cited, check.supported) for check in turn.answer.checks] == [((2,), True)]
    thought, step = turn.answer.steps
    assert (thought.name, thought.result, thought.passages) == (THOUGHT, "I will look it up.", ())
    assert (step.name, step.arguments) == (SEARCH, {"query": "VPN support extension"}) and step.seconds > 0
    (found,) = step.passages
    assert (found.number, found.document) == (2, "it/vpn.md") and "2217" in found.text
    document = services.documents.document(found.document)
    assert document.text[found.start : found.end] == found.text and found.document_version == document.version
    assert f"[2] {found.title} (it/vpn.md)\n{found.text}" in step.result
    assert turn.passages == (*turn.asked.passages, found)
    assert engine.closed == 1, "the model is stopped at the end of its call"


def test_a_passage_found_again_keeps_its_number_and_is_not_shown_twice(services: Services) -> None:
    engine = ScriptedEngine(
        call(SEARCH, query="VPN support extension"),
        call(SEARCH, query="idle connections VPN"),
        call(SEARCH, query="London"),
        ANSWER,
    )
    _, turn = asked(services, engine)
    assert turn.answer is not None and calls(turn) == [SEARCH] * 3
    assert [[passage.number for passage in step.passages] for step in turn.answer.steps] == [[2], [], []]
    assert turn.answer.steps[1].result.startswith("[2] ") and "(It is shown above.)" in turn.answer.steps[1].result
    assert turn.answer.steps[2].result.startswith("[1] ")
    assert sum(message.content.count("2217") for message in engine.requests[-1].messages) == 1


def test_each_request_can_be_rebuilt_from_the_stored_turn(services: Services) -> None:
    script = [
        "Hm.\n" + call(READ, name="guide.md"),
        call(READ, name="guide.md", start=2400),
        call("no_such_tool"),
        call(READ, name="guide.md", start=4800),
        "Form 7 is blue [1].",
    ]
    engine = ScriptedEngine(*script)
    _, turn = asked(services, engine, "Which form is blue?", tokens=700, collection="board")
    assert turn.answer is not None
    steps = services.store.turn(turn.id).answer.steps  # type: ignore[union-attr]
    assert SHORTENED in [step.name for step in steps], "the case must hold a result that was cut later"
    after_calls = [0, *[at for at, step in enumerate(steps, 1) if step.name not in (THOUGHT, SHORTENED)]]
    assert [replay(turn.asked.messages, steps[:at]) for at in after_calls] == [request.messages for request in engine.requests]
    assert engine.requests[1].messages[2].content == script[0], "the model sees its own words"


@pytest.mark.parametrize("tokens", [300, 500, 700, 1000])
def test_every_request_stays_within_the_limit_and_what_was_cut_is_said(services: Services, tokens: int) -> None:
    script = [call(READ, name="guide.md", start=start) for start in (0, 1200, 2400)] + [call(LIST), "It is blue [1]."]
    engine = ScriptedEngine(*script)
    _, turn = asked(services, engine, "Which form is blue?", tokens=tokens, collection="board", passages=8)
    assert turn.answer is not None and len(calls(turn)) == MAX_CALLS
    sizes = [engine.count_tokens(request.messages, request.tools) for request in engine.requests]
    assert max(sizes) <= tokens
    for step in turn.answer.steps:
        for passage in step.passages:
            assert passage.text in step.result, "a passage is what the model was given of it"
            document = services.documents.document(passage.document, collection="board")
            assert document.text[passage.start : passage.end] == passage.text
    if tokens < 1000:
        last = "\n".join(message.content for message in engine.requests[-1].messages)
        assert "left out" in last or "no room" in last


def test_what_a_result_says_is_shown_above_still_is_after_room_was_made_for_it(services: Services) -> None:
    """Searches that find some of the same chunks, at limits where the earlier result must give way to the later one."""
    script = [call(SEARCH, query=f"guide form {number}") for number in (7, 8, 9)] + ["It is blue [1]."]
    referred = 0
    for tokens in range(300, 1300, 50):
        engine = ScriptedEngine(*script)
        _, turn = asked(services, engine, "What of the guide?", tokens=tokens, collection="board", passages=6)
        texts = {passage.number: passage.text for passage in turn.passages}
        made_room = [step.name == SHORTENED for step in turn.answer.steps]  # type: ignore[union-attr]
        for request in engine.requests[1:]:
            *above, result = [message.content for message in request.messages]
            for number in re.findall(r"\[(\d+)\] [^\n]*\n\(It is shown above", result):
                assert any(texts[int(number)] in content for content in above), f"[{number}] at {tokens} tokens"
                referred += any(made_room)
    assert referred, "the case must hold a reference beside a cut"


def test_never_ending_calls_end_after_four_and_then_the_model_must_answer(services: Services) -> None:
    engine = ScriptedEngine(call(SEARCH, query="room in London"))
    events, turn = asked(services, engine)
    assert turn.answer is not None and calls(turn) == [SEARCH] * 4
    assert [bool(request.tools) for request in engine.requests] == [True] * 4 + [False]
    assert "No calls are left" in engine.requests[-1].messages[-1].content
    assert (turn.answer.text, turn.answer.finish_reason, ever_shown(events)) == (REFUSAL, "refused", "")
    assert turn.answer.steps[-1].name == THOUGHT and SEARCH in turn.answer.steps[-1].result, "what it wrote is kept"


def test_after_four_calls_it_can_answer(services: Services) -> None:
    engine = ScriptedEngine(*[call(LIST)] * 4, ANSWER)
    events, turn = asked(services, engine)
    assert turn.answer is not None and turn.answer.text == shown(events) == ANSWER


@pytest.mark.parametrize(
    ("said", "name", "sentence"),
    [
        (
            call("delete_everything", now=True),
            "delete_everything",
            "There is no tool 'delete_everything': use search_documentation",
        ),
        (call(SEARCH, question="hotels"), SEARCH, "search_documentation needs query, a text"),
        (call(SEARCH, query=["a", "b"]), SEARCH, "search_documentation needs query, a text"),
        (call(READ, name="travel/hotels.md", start="soon"), READ, "read_document takes start as a whole number, not 'soon'"),
        (call(READ, name="travel/hotels.md", start=-4), READ, "start is from 0"),
        (call(READ, name="../../etc/passwd"), READ, "There is no document '../../etc/passwd'"),
        (call(SEARCH, query="zzzzz qqqqq"), SEARCH, "Nothing was found for 'zzzzz qqqqq'"),
        (call(LIST, query="zzzzz"), LIST, "None of the 3 documents has 'zzzzz'"),
        ("<tool_call>{'name': nothing}</tool_call>", UNREADABLE, "This call cannot be read"),
        ('<tool_call>{"name": "search_documentation", "arg', UNREADABLE, "This call cannot be read"),
        ('{"name": "search_documentation", "arguments": [1]}', SEARCH, "The arguments of search_documentation are not an object"),
    ],
)
def test_a_call_that_is_wrong_comes_back_as_a_sentence_and_counts(
    services: Services, said: str, name: str, sentence: str
) -> None:
    engine = ScriptedEngine(said, ANSWER)
    events, turn = asked(services, engine)
    assert turn.answer is not None and turn.answer.error is None
    (step,) = turn.answer.steps
    assert step.name == name and sentence in step.result and step.passages == ()
    assert engine.requests[1].messages[-1] == Message(role="tool", content=step.result)
    assert ever_shown(events) == turn.answer.text == ANSWER


def test_documents_are_listed_and_read_from_where_the_last_piece_ended(services: Services) -> None:
    engine = ScriptedEngine(
        call(LIST, query="guide"), call(READ, name="guide.md"), call(READ, name="guide.md", start=2400), ANSWER
    )
    _, turn = asked(services, engine, "Which form is blue?", tokens=5000, collection="board")
    assert turn.answer is not None
    listed, first, second = turn.answer.steps
    assert listed.result == "guide.md: Guide"
    document = services.documents.document("guide.md", collection="board")
    for step in (first, second):
        (passage,) = step.passages
        assert document.text[passage.start : passage.end] == passage.text and passage.document_version == document.version
        assert (
            f"characters {passage.start} to {passage.end}" in step.result
            and f"[{passage.number}] Guide (guide.md)" in step.result
        )
    begin, end = first.passages[0].end, second.passages[0].start
    assert first.passages[0].start == 0 and begin > 2000 and document.text[begin:end].strip() == "" and end > begin


def test_all_tools_are_confined_to_the_collection(services: Services) -> None:
    script = [call(SEARCH, query="annual bonus room London"), call(READ, name="bonus.md"), call(LIST), ANSWER]
    _, turn = asked(services, ScriptedEngine(*script), collection="main")
    assert turn.answer is not None and turn.asked.collection == "main"
    assert {passage.collection for passage in turn.passages} == {"main"}
    said = "\n".join(step.result for step in turn.answer.steps)
    assert "9,000" not in said and "bonus.md:" not in said and "There is no document 'bonus.md'" in said
    _, everywhere = asked(services, ScriptedEngine(*script), collection="")
    assert "9,000" in "\n".join([everywhere.asked.messages[-1].content, *(step.result for step in everywhere.answer.steps)])  # type: ignore[union-attr]


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "said",
    [
        call(SEARCH, query="room"),
        'First this.\n{"name": "search_documentation", "parameters": {"query": "room"}}',
        '```json\n{"name": "search_documentation", "arguments": "{\\"query\\": \\"room\\"}"}\n```',
        "<think>\nWhere is it?\n</think>\n\n" + call(SEARCH, query="room"),
    ],
)
def test_a_call_in_pieces_of_any_size_is_never_shown(services: Services, said: str, piece: int) -> None:
    engine = ScriptedEngine(said, ANSWER, piece=piece)
    events, turn = asked(services, engine)
    assert turn.answer is not None and turn.answer.steps[-1].arguments == {"query": "room"}
    assert turn.answer.text == shown(events) == ANSWER
    assert not any(mark in ever_shown(events) for mark in ("{", "tool", "`", "name", "think"))
    assert engine.requests[1].messages[-2] == Message(role="assistant", content=said)


def test_stopped_while_it_looks_up_it_stops_the_model_and_keeps_the_steps(services: Services) -> None:
    engine = ScriptedEngine(call(SEARCH, query="VPN support"), call(SEARCH, query="annual leave"), ANSWER, piece=1)
    stream = started(services, engine)
    events: list[ChatEvent] = []
    for event in stream:
        events.append(event)
        if len(engine.requests) == 2:  # in the middle of the second call: nothing of it is shown, and still it can be stopped
            break
    stream.close()  # type: ignore[attr-defined]
    assert isinstance(events[0], Sources) and engine.closed == 2 and len(engine.requests) == 2
    turn = services.store.turn(events[0].turn_id)
    assert turn.answer is not None and turn.answer.finish_reason == "stopped" and turn.answer.text == ""
    assert calls(turn) == [SEARCH] and turn.answer.steps[0].passages
    assert all(entry["answering"] == 0 for entry in services.pool.describe()["loaded"])


def test_an_engine_that_fails_after_a_step_leaves_the_step_and_a_sentence(services: Services) -> None:
    _, turn = asked(services, ScriptedEngine(call(SEARCH, query="VPN support"), "The FAIL", piece=1))
    assert turn.answer is not None and (turn.answer.finish_reason, turn.answer.text) == ("failed", "The")
    assert turn.answer.error == "The engine lost its place: ask again." and calls(turn) == [SEARCH]


def test_without_any_passage_nothing_is_shown_but_the_refusal(services: Services) -> None:
    question = "Which molars does the submarine dentist polish?"
    events, turn = asked(services, ScriptedEngine("He polishes all 32 molars."), question)
    assert turn.passages == () and turn.answer is not None
    assert ever_shown(events) == turn.answer.text == REFUSAL
    assert (turn.answer.finish_reason, turn.answer.written) == ("refused", "He polishes all 32 molars.")


def test_a_question_that_the_fixed_plan_refuses_is_looked_up_in_other_words(services: Services) -> None:
    engine = ScriptedEngine(call(SEARCH, query="VPN support extension"), "The extension is 2217 [1].")
    events, turn = asked(services, engine, "Whom do I phone about my tunnel?")
    assert turn.answer is not None and turn.answer.text == shown(events) == "The extension is 2217 [1]."


def test_auto_takes_the_agent_for_large_models_with_tools_alone() -> None:
    def used(mode: Any, *, tools: bool = True, parameters: int = 3_000_000_000, tokens: int = 1600) -> bool:
        return use_agent(mode, has_tools=lambda: tools, parameters=parameters, prompt_tokens=tokens)

    assert used("auto") and used("agent") and used("agent", parameters=135_000_000) and not used("fixed")
    assert not used("auto", tools=False)
    assert not used("auto", parameters=135_000_000)
    assert not used("auto", tokens=400)
    with pytest.raises(SettingsError, match=r'chat.mode = "agent" needs a base model whose chat template has tools'):
        used("agent", tools=False)
    with pytest.raises(SettingsError, match=r"prompts of 1000 tokens, and they have 400"):
        used("agent", tokens=400)


TOOL_TEMPLATE = """{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{% if loop.first and tools %}Tools, called with <tool_call>{"name": ..., "arguments": ...}</tool_call>:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{{ m.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


@pytest.mark.model
def test_the_embedded_model_goes_through_the_loop(services: Services, base: BaseModel, tmp_path: Path) -> None:
    """It has not learned to call; what counts is that whatever it writes ends in a turn."""
    from assistant.engines.llama_cpp import LlamaCppEngine
    from assistant.engines.template import ChatTemplate

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base.hf_dir / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    assert ChatTemplate(tmp_path).has_tools
    engine = LlamaCppEngine(replace(base, hf_dir=tmp_path), threads=1, slots=1, context=1024)
    limits = PromptLimits(tokens=700, passages=2, following=0)
    agent = Agent(services.library, engine, limits=limits, max_tokens=8)
    try:
        adapter = engine.load(None)
        start = agent.begin(services.prompts.prepare(QUESTION))
        assert engine.count_tokens(start.messages, TOOLS) > engine.count_tokens(start.messages) + 100
        events = list(agent.run(start, adapter))
    finally:
        engine.close()
    last = events[-1]
    assert isinstance(last, Delta) and last.finish_reason is not None
    assert last.prompt_tokens == engine.count_tokens(start.messages, TOOLS) or len(events) > 1
