"""What the trainer leaves of each method is published, and served as PEFT and transformers themselves would, beside others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from assistant.engines.base import AdapterVersion, ChatRequest, LoadedAdapter
from assistant.engines.transformers_engine import TransformersEngine
from assistant.models import BaseModel
from feedback.errors import CorruptAdapter, EngineError
from feedback.records import Message
from training import session
from training.bench import write_rows
from training.recipe import Method, Recipe
from training.registry import AdapterRegistry
from training.runs import RunLedger

QUESTION = (Message(role="user", content="How many chairs?"),)
KINDS: dict[str, Method] = {"lora": "qlora", "dora": "dora", "prefix": "prefix", "full": "full"}


def open_base(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterVersion]:
    """One adapter of each kind, as our trainer leaves it and the registry publishes it."""
    root = tmp_path_factory.mktemp("home")
    ledger, registry = (
        RunLedger(root / "nightschool.db", root / "runs"),
        AdapterRegistry(root / "nightschool.db", root / "adapters"),
    )
    made = {}
    for kind, method in KINDS.items():
        run = ledger.start("", "test")
        folder = train(tiny_base, tmp_path_factory.mktemp(kind) / "run", method)
        ledger.finish(run.id, "succeeded", "HOLD", "Trained for a test.")
        version = registry.publish(folder, {"base_model": "tiny", "base_hash": "0" * 64}, "candidate", run.id)
        registry.verify(version)
        made[kind] = AdapterVersion(version=version, path=registry.path(version))
    return made


def train(base: Path, run: Path, method: Method) -> Path:
    """Train a few steps by a method; returns the folder of what it leaves."""
    recipe = Recipe(
        base=str(base),
        base_name="tiny",
        method=method,
        rank=4,
        max_steps=4,
        learning_rate=0.01 if method == "full" else 0.05,
        compute_dtype="float32",
        threads=1,
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": f"[1] Room {at} holds {at * 7} chairs. How many?"}],
            "completion": [{"role": "assistant", "content": f"{at * 7} chairs [1]"}],
        }
        for at in range(24)
    ]
    write_rows(run, rows, recipe)
    assert session.train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    return run / "adapter"


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[TransformersEngine]:
    base = BaseModel(name="tiny", path=tiny_base, hf_dir=tiny_base, gguf_path=None, sha256="0" * 64)
    made = TransformersEngine(base, threads=1, context=512, precision="float32")
    yield made
    made.close()


def greedy_by_the_library(tiny_base: Path, kind: str, folder: Path, prompt: list[int], count: int) -> list[int]:
    """Write `count` tokens with the whole text read anew for each, so that no cache of ours is in it."""
    from peft import PeftModel

    model = open_base(folder) if kind == "full" else PeftModel.from_pretrained(open_base(tiny_base), str(folder)).eval()
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            given = torch.tensor([ids])
            ids.append(int(model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def answer(engine: TransformersEngine, adapter: LoadedAdapter, count: int = 12) -> str:
    return "".join(delta.text for delta in engine.stream(ChatRequest(messages=QUESTION, max_tokens=count), adapter))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_librarys_own(
    kind: str, engine: TransformersEngine, trained: dict[str, AdapterVersion], tiny_base: Path
) -> None:
    prompt = engine._template.encode(QUESTION)
    expected = greedy_by_the_library(tiny_base, kind, trained[kind].path, prompt, 12)
    assert not set(engine._template.stop_ids) & set(expected)
    bare, loaded = engine.load(None), engine.load(trained[kind])
    assert answer(engine, loaded) == engine._template.decode(expected) != answer(engine, bare)
    engine.unload(loaded)
    with pytest.raises(EngineError, match="no longer loaded"):
        answer(engine, loaded)


def test_answers_of_all_kinds_at_once_are_those_given_alone(
    engine: TransformersEngine, trained: dict[str, AdapterVersion]
) -> None:
    held = {"base": engine.load(None), **{kind: engine.load(adapter) for kind, adapter in trained.items()}}
    alone = {kind: answer(engine, loaded, 30) for kind, loaded in held.items()}
    together: list[tuple[str, str]] = []
    threads = [
        threading.Thread(target=lambda kind=kind, loaded=loaded: together.append((kind, answer(engine, loaded, 30))))
        for kind, loaded in held.items()
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 10 and all(text == alone[kind] for kind, text in together)
    assert len(set(alone.values())) == 5
    for loaded in held.values():
        if loaded.version != "base":
            engine.unload(loaded)


def test_a_whole_model_whose_config_is_another_ones_is_refused(
    engine: TransformersEngine, trained: dict[str, AdapterVersion], tmp_path: Path
) -> None:
    folder = tmp_path / "v0009"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((trained["full"].path / "model.safetensors").read_bytes())
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(CorruptAdapter, match="it cannot be loaded"):
        engine.load(AdapterVersion(version="v0009", path=folder))
