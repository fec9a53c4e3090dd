"""The llama.cpp engine: streams, stops, refuses what is corrupt, and gives back what it took."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from assistant.engines.base import AdapterVersion, ChatRequest, Engine
from assistant.engines.llama_cpp import LlamaCppAdapter, LlamaCppEngine
from assistant.engines.select import make_engine
from assistant.models import BaseModel
from assistant.pool import AdapterPool
from feedback.errors import CorruptAdapter, EngineError, ModelError, SettingsError
from feedback.records import Message

pytestmark = pytest.mark.model

LIMIT = "[1] Hotels\nThe limit is 140 euros a night.\n\nQuestion: What is the hotel limit?"


@pytest.fixture(scope="module")
def engine(base: BaseModel) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(base, threads=2, slots=4, context=1024)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def bare(engine: LlamaCppEngine) -> LlamaCppAdapter:
    return engine.load(None)


def ask(question: str, *, max_tokens: int = 32, temperature: float = 0.0, seed: int = 0) -> ChatRequest:
    return ChatRequest(
        messages=(Message(role="user", content=question),), max_tokens=max_tokens, temperature=temperature, seed=seed
    )


def text_of(engine: Engine, request: ChatRequest, adapter) -> str:
    return "".join(delta.text for delta in engine.stream(request, adapter))


def test_it_keeps_the_protocol_and_names_its_build(engine: LlamaCppEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.name.startswith("llama_cpp 20")


def test_an_answer_comes_in_pieces_and_the_last_one_counts(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    request = ask(LIMIT)
    deltas = list(engine.stream(request, bare))
    assert "140" in "".join(delta.text for delta in deltas)
    assert len(deltas) > 3
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].prompt_tokens == engine.count_tokens(request.messages)
    assert deltas[-1].completion_tokens >= len(deltas) - 1


def test_the_token_limit_ends_an_answer_and_says_so(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    last = list(engine.stream(ask("Write a long story.", max_tokens=7), bare))[-1]
    assert (last.finish_reason, last.completion_tokens) == ("length", 7)


def test_an_opening_can_be_made_more_or_less_likely(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    plain = ask("What is the capital of France?", max_tokens=1)
    usual = text_of(engine, plain, bare)
    assert text_of(engine, replace(plain, opening="Zebras", opening_bias=100.0), bare) not in ("", usual)
    assert text_of(engine, replace(plain, opening=usual, opening_bias=-100.0), bare) != usual


def test_characters_that_span_tokens_come_whole(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    pieces = [delta.text for delta in engine.stream(ask("Repeat exactly: 数学 😀 déjà 数学 😀", max_tokens=40), bare)]
    assert "\ufffd" not in "".join(pieces)
    assert any(ord(letter) > 0x3000 for letter in "".join(pieces))


def test_sampling_follows_its_seed(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    def sample(seed: int) -> str:
        return text_of(engine, ask("Invent a name for a boat.", temperature=1.5, seed=seed), bare)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_closing_a_stream_stops_the_model(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    stream = engine.stream(ask("Write a very long story about the sea.", max_tokens=900), bare)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while bare.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bare.calls == 0
    assert "140" in text_of(engine, ask(LIMIT), bare)


def test_a_prompt_past_the_context_is_one_sentence(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    with pytest.raises(EngineError, match="and the model takes 1024 with its answer: shorten the question"):
        text_of(engine, ask("word " * 2000), bare)


def test_eight_streams_at_once_all_finish(engine: LlamaCppEngine, bare: LlamaCppAdapter) -> None:
    answers: list[str] = []

    def client(number: int) -> None:
        answers.append(text_of(engine, ask(f"Count from {number} upwards.", max_tokens=12), bare))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answers)


def test_an_adapter_changes_answers_and_its_neighbour_keeps_its_own(
    engine: LlamaCppEngine, bare: LlamaCppAdapter, adapters: dict[str, AdapterVersion]
) -> None:
    request = ask("Name three colours.", max_tokens=24)
    before = text_of(engine, request, bare)
    loaded = [engine.load(adapter) for adapter in adapters.values()]
    answers = [text_of(engine, request, each) for each in (bare, *loaded)]
    assert answers[0] == before
    assert len(set(answers)) == 3
    for each in loaded:
        engine.unload(each)
    with pytest.raises(EngineError, match="v0001 is no longer loaded"):
        text_of(engine, request, loaded[0])


def test_unloading_gives_the_memory_back(
    engine: LlamaCppEngine, bare: LlamaCppAdapter, adapters: dict[str, AdapterVersion]
) -> None:
    def own_memory() -> int:
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)  # the base's file is mapped once more, but its pages are shared

    def load_and_unload() -> int:
        loaded = engine.load(adapters["v0001"])
        text_of(engine, ask("Hello", max_tokens=4), loaded)
        held = own_memory()
        engine.unload(loaded)
        return held - own_memory()

    load_and_unload()
    before = own_memory()
    freed = [load_and_unload() for _ in range(3)]
    assert min(freed) > 90e6  # the KV cache of 4 slots alone is 94 MB
    assert own_memory() - before < 90e6  # of three instances not one stays; the allocator keeps some tens of MB for itself


def test_unload_waits_for_a_stopped_stream(engine: LlamaCppEngine, adapters: dict[str, AdapterVersion]) -> None:
    loaded = engine.load(adapters["v0001"])
    stream = engine.stream(ask("Write a very long story.", max_tokens=900), loaded)
    next(stream)
    stream.close()
    engine.unload(loaded)  # frees the instance: it would crash the process if the model were still running
    assert loaded.calls == 0


def test_closing_the_engine_ends_a_stream_that_nobody_reads(base: BaseModel) -> None:
    engine = LlamaCppEngine(base, threads=2, slots=1, context=1024)
    stream = engine.stream(ask("Write a very long story.", max_tokens=900), engine.load(None))
    next(stream)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 20  # 900 tokens take longer
    with pytest.raises(EngineError, match="stopped without finishing"):
        list(stream)


DAMAGES = {
    "missing": lambda path, base: path.unlink(),
    "empty": lambda path, base: path.write_bytes(b""),
    "not a GGUF": lambda path, base: path.write_bytes(b"junk" * 1000),
    "cut short": lambda path, base: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a model, not an adapter": lambda path, base: shutil.copy(base.gguf_path, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_adapter_file_is_refused_and_the_old_version_serves_on(
    damage: str, engine: LlamaCppEngine, adapters: dict[str, AdapterVersion], base: BaseModel, tmp_path: Path
) -> None:
    broken = AdapterVersion(version="v0009", path=tmp_path / "v0009")
    shutil.copytree(adapters["v0002"].path, broken.path)
    DAMAGES[damage](broken.path / "adapter.gguf", base)
    pool = AdapterPool(engine, {**adapters, "v0009": broken}.__getitem__)
    pool.switch("v0001")
    with pytest.raises(CorruptAdapter, match="The adapter v0009 cannot serve"):
        pool.switch("v0009")
    with pool.acquire() as lease:
        assert lease.version == "v0001"
        assert text_of(engine, ask("Hello", max_tokens=4), lease.adapter)
        engine.unload(lease.adapter)


def test_the_canary_tells_adapters_apart_and_repeats(
    engine: LlamaCppEngine, bare: LlamaCppAdapter, adapters: dict[str, AdapterVersion]
) -> None:
    from assistant import canary

    loaded = engine.load(adapters["v0001"])
    reading, plain = canary.record(engine, loaded), canary.record(engine, bare)
    again = engine.load(adapters["v0001"])
    assert canary.check("v0001", canary.record(engine, again), plain, reading) == "as recorded"
    assert canary.distance(canary.record(engine, loaded), reading) < 1e-5
    other = engine.load(adapters["v0002"])
    with pytest.raises(CorruptAdapter):
        canary.check("v0001", canary.record(engine, other), plain, reading)
    for each in (loaded, again, other):
        engine.unload(each)


SCRIPT = """
import sys
from pathlib import Path
from assistant.engines.base import ChatRequest
from assistant.engines.llama_cpp import LlamaCppEngine
from assistant.models import EMBEDDED, open_base
from feedback.records import Message
engine = LlamaCppEngine(open_base(Path(sys.argv[1]), EMBEDDED), threads=1, slots=1, context=512)
request = ChatRequest(messages=(Message(role="user", content="Write a long story."),), max_tokens=400)
stream = engine.stream(request, engine.load(None))
print(next(stream).text)
"""


def test_a_process_that_ends_within_a_stream_ends_clean(base: BaseModel) -> None:
    command = [sys.executable, "-c", SCRIPT, str(base.path.parent)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_base_without_a_gguf_is_refused_and_served_by_transformers(base: BaseModel) -> None:
    from dataclasses import replace

    folder_only = replace(base, gguf_path=None)
    with pytest.raises(ModelError, match="has no GGUF file: use the transformers engine"):
        make_engine("llama_cpp", folder_only)
    assert make_engine("auto", folder_only, threads=1).name.startswith("transformers ")


def test_an_unknown_engine_is_refused_by_name(base: BaseModel) -> None:
    with pytest.raises(SettingsError, match="engine is 'vllm': choose auto, llama_cpp or transformers"):
        make_engine("vllm", base)  # type: ignore[arg-type]
