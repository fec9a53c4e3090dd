"""The transformers engine: the same answers as llama.cpp on the same weights, and adapters that never mix."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from assistant import canary
from assistant.engines.base import AdapterVersion, ChatRequest, Engine, LoadedAdapter
from assistant.engines.llama_cpp import LlamaCppEngine
from assistant.engines.transformers_engine import TransformersAdapter, TransformersEngine
from assistant.models import BaseModel
from feedback.errors import CorruptAdapter, EngineError
from feedback.records import Message

pytestmark = pytest.mark.model

QUESTIONS = [
    "What is the capital of France?",
    "[1] Hotels\nThe limit is 140 euros a night.\n\nQuestion: What is the hotel limit?",
    "Name three colours.",
]


@pytest.fixture(scope="module")
def engine(base: BaseModel) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(base, threads=2, context=1024, precision="float32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def bare(engine: TransformersEngine) -> TransformersAdapter:
    return engine.load(None)


def ask(question: str, *, max_tokens: int = 16, temperature: float = 0.0, seed: int = 0) -> ChatRequest:
    return ChatRequest(
        messages=(Message(role="user", content=question),), max_tokens=max_tokens, temperature=temperature, seed=seed
    )


def text_of(engine: Engine, request: ChatRequest, adapter: LoadedAdapter) -> str:
    return "".join(delta.text for delta in engine.stream(request, adapter))


@pytest.mark.parametrize("version", ["base", "v0001", "v0002"])
def test_greedy_answers_are_those_of_llama_cpp(
    version: str, engine: TransformersEngine, base: BaseModel, f16_gguf: Path, adapters: dict[str, AdapterVersion]
) -> None:
    other = LlamaCppEngine(base, threads=2, slots=1, context=1024, gguf_path=f16_gguf)
    ours, theirs = engine.load(adapters.get(version)), other.load(adapters.get(version))
    for question in QUESTIONS:
        mine, its = (list(each.stream(ask(question), held)) for each, held in ((engine, ours), (other, theirs)))
        assert "".join(delta.text for delta in mine) == "".join(delta.text for delta in its)
        assert mine[-1] == its[-1] or (mine[-1].finish_reason, mine[-1].prompt_tokens) == (
            its[-1].finish_reason,
            its[-1].prompt_tokens,
        )
    # below the tolerance, above what rounding in float16 gives
    assert canary.distance(canary.record(engine, ours), canary.record(other, theirs)) < 0.01
    other.close()
    engine.unload(ours)


def test_it_keeps_the_protocol_and_names_its_device(engine: TransformersEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.name.startswith("transformers 5.")
    assert engine.name.endswith((" cpu", " cuda"))


def test_answers_at_once_under_loads_and_unloads_are_those_given_alone(
    engine: TransformersEngine, bare: TransformersAdapter, adapters: dict[str, AdapterVersion]
) -> None:
    held = {"base": bare} | {version: engine.load(adapter) for version, adapter in adapters.items()}
    request = ask(QUESTIONS[2], max_tokens=6)
    alone = {version: text_of(engine, request, loaded) for version, loaded in held.items()}
    assert len(set(alone.values())) == 3
    together: list[tuple[str, str]] = []
    stop = threading.Event()

    def client(version: str) -> None:
        together.append((version, text_of(engine, request, held[version])))

    def swapper() -> None:
        while not stop.is_set():
            engine.unload(engine.load(adapters["v0001"]))

    busy = threading.Thread(target=swapper)
    busy.start()
    clients = [threading.Thread(target=client, args=(version,)) for version in held]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    stop.set()
    busy.join()
    assert len(together) == 3
    assert all(text == alone[version] for version, text in together)
    for version in adapters:
        engine.unload(held[version])


def test_an_unloaded_adapter_answers_nobody(engine: TransformersEngine, adapters: dict[str, AdapterVersion]) -> None:
    loaded = engine.load(adapters["v0001"])
    engine.unload(loaded)
    with pytest.raises(EngineError, match="v0001 is no longer loaded"):
        text_of(engine, ask("Hello"), loaded)


def test_a_version_loaded_again_has_its_new_scale(
    engine: TransformersEngine, bare: TransformersAdapter, adapters: dict[str, AdapterVersion], tmp_path: Path
) -> None:
    """PEFT keeps the old alpha when a name is loaded twice; a candidate may well be loaded twice."""
    plain = canary.record(engine, bare)
    stronger = AdapterVersion(version="v0001", path=tmp_path / "v0001")
    shutil.copytree(adapters["v0001"].path, stronger.path)
    config = json.loads((stronger.path / "adapter_config.json").read_text())
    (stronger.path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))
    first, second = engine.load(adapters["v0001"]), engine.load(stronger)
    moved = [canary.distance(canary.record(engine, each), plain) for each in (first, second)]
    assert moved[1] > 1.5 * moved[0] > 0
    engine.unload(first)
    engine.unload(second)


def test_half_an_adapter_is_refused_and_leaves_nothing(
    engine: TransformersEngine, bare: TransformersAdapter, adapters: dict[str, AdapterVersion], tmp_path: Path
) -> None:
    before = text_of(engine, ask(QUESTIONS[0]), bare)
    broken = AdapterVersion(version="v0009", path=tmp_path / "v0009")
    shutil.copytree(adapters["v0001"].path, broken.path)
    tensors = load_file(broken.path / "adapter_model.safetensors")
    save_file(
        {name: each for name, each in tensors.items() if "layers.3." not in name}, broken.path / "adapter_model.safetensors"
    )
    with pytest.raises(CorruptAdapter, match=r"layers\.3\..* is missing"):
        engine.load(broken)
    assert text_of(engine, ask(QUESTIONS[0]), bare) == before


def test_closing_a_stream_leaves_the_engine_free(base: BaseModel, engine: TransformersEngine, bare: TransformersAdapter) -> None:
    for _ in range(10):  # more than there are slots: each must be given back
        stream = engine.stream(ask("Write a long story.", max_tokens=500), bare)
        next(stream)
        stream.close()
    assert "Paris" in text_of(engine, ask(QUESTIONS[0]), bare)


def test_an_opening_can_be_made_more_or_less_likely(engine: TransformersEngine, bare: TransformersAdapter) -> None:
    plain = ask("What is the capital of France?", max_tokens=1)
    usual = text_of(engine, plain, bare)
    assert text_of(engine, replace(plain, opening="Zebras", opening_bias=100.0), bare) not in ("", usual)
    assert text_of(engine, replace(plain, opening=usual, opening_bias=-100.0), bare) != usual


def test_characters_that_span_tokens_come_whole(engine: TransformersEngine, bare: TransformersAdapter) -> None:
    pieces = [delta.text for delta in engine.stream(ask("Repeat exactly: 数学 😀 déjà 数学 😀", max_tokens=30), bare)]
    assert all("\ufffd" not in piece for piece in pieces[:-1])
    assert any(ord(letter) > 0x3000 for letter in "".join(pieces))


def test_sampling_follows_its_seed(engine: TransformersEngine, bare: TransformersAdapter) -> None:
    def sample(seed: int) -> str:
        return text_of(engine, ask("Invent a name for a boat.", max_tokens=8, temperature=1.5, seed=seed), bare)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_prompt_past_the_context_is_one_sentence(engine: TransformersEngine, bare: TransformersAdapter) -> None:
    with pytest.raises(EngineError, match="and the model takes 1024 with its answer: shorten the question"):
        text_of(engine, ask("word " * 2000), bare)
