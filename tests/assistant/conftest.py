"""The embedded model, imported once and kept; adapters of random numbers; an engine without a model; the web application."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from assistant.adapter_checks import linear_shapes
from assistant.engines.base import BASE_VERSION, AdapterVersion, CanaryReading, ChatRequest, Delta, LoadedAdapter
from assistant.models import EMBEDDED, BaseModel, open_base, write_gguf
from feedback.records import Message, Turn
from training.lora_gguf import convert

if TYPE_CHECKING:
    from assistant.services import Services

SITE = "http://testserver"
MakeAdapter = Callable[..., Path]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="session")
def base(pytestconfig: pytest.Config) -> BaseModel:
    """The embedded base model. The import takes most of a minute, so it is kept between sessions."""
    assert pytestconfig.cache is not None
    return open_base(pytestconfig.cache.mkdir("models"), EMBEDDED)


@pytest.fixture(scope="session")
def random_adapter() -> MakeAdapter:
    """Write a PEFT adapter of random numbers for a Hugging Face folder: `random_adapter(folder, hf_dir, seed=, scale=)`."""

    def make(folder: Path, hf_dir: Path, *, seed: int = 0, scale: float = 0.02, rank: int = 4) -> Path:
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        numbers = np.random.default_rng(seed)
        tensors = {}
        for module, (rows, columns) in linear_shapes(hf_dir).items():
            if module.rpartition(".")[2] in TARGETS:
                key = f"base_model.model.{module}"
                tensors[f"{key}.lora_A.weight"] = numbers.normal(0, scale, (rank, columns)).astype(np.float32)
                tensors[f"{key}.lora_B.weight"] = numbers.normal(0, scale, (rows, rank)).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "target_modules": TARGETS}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture(scope="session")
def f16_gguf(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as a GGUF of the very weights that the Hugging Face folder holds."""
    return write_gguf(base, "F16", tmp_path_factory.mktemp("f16") / "base-f16.gguf")


@pytest.fixture(scope="session")
def adapters(base: BaseModel, random_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterVersion]:
    """Two adapters of random numbers, v0001 and v0002, large enough to change answers; complete folders."""
    made = {}
    for number, scale in ((1, 0.04), (2, 0.06)):
        version = f"v000{number}"
        folder = random_adapter(tmp_path_factory.mktemp("adapters") / version, base.hf_dir, seed=number, scale=scale)
        convert(folder, base.hf_dir, folder / "adapter.gguf")
        made[version] = AdapterVersion(version=version, path=folder)
    return made


class SpokenAdapter:
    """What `SpeakingEngine` loads: it knows its version and whether it is still loaded."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.loaded = True


class SpeakingEngine:
    """An engine without a model: an answer is its version's name over and over, a millisecond a word.

    An adapter that is unloaded while it speaks says so, which is what a pool must never let happen.
    """

    name = "speaking 1"

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.alive: set[str] = set()
        self.canaries: dict[str, float] = {}  # version -> how far its canary stands from the base's
        self._lock = threading.Lock()

    def load(self, adapter: AdapterVersion | None) -> SpokenAdapter:
        version = adapter.version if adapter else BASE_VERSION
        with self._lock:
            self.loads.append(version)
            self.alive.add(version)
        return SpokenAdapter(version)

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        assert isinstance(adapter, SpokenAdapter)
        for _ in range(request.max_tokens):
            time.sleep(0.001)
            yield Delta(text=f"{adapter.version} " if adapter.loaded else "UNLOADED ")
        yield Delta(text="", finish_reason="length", prompt_tokens=1, completion_tokens=request.max_tokens)

    def unload(self, adapter: LoadedAdapter) -> None:
        assert isinstance(adapter, SpokenAdapter)
        adapter.loaded = False
        with self._lock:
            self.unloads.append(adapter.version)
            self.alive.discard(adapter.version)

    def canary(self, adapter: LoadedAdapter, prompts: Sequence[Sequence[Message]]) -> list[CanaryReading]:
        moved = 0.0 if adapter.version == BASE_VERSION else self.canaries.get(adapter.version, 0.5)
        logprobs = {token: -1.0 - token / 10 - moved for token in range(40)}
        return [CanaryReading(prompt=prompt[-1].content, logprobs=logprobs) for prompt in prompts]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    def close(self) -> None:
        self.alive.clear()


@pytest.fixture
def speaking_engine() -> SpeakingEngine:
    """A fresh engine without a model."""
    return SpeakingEngine()


@pytest.fixture
def bare(tmp_path: Path, speaking_engine: SpeakingEngine) -> Services:
    """The parts of a server on a new home, without users and pages: quick to make."""
    from assistant.config import Settings
    from assistant.home import Home
    from assistant.services import assemble

    home = Home(tmp_path / "bare")
    base = BaseModel(name="speaker", path=home.models, hf_dir=home.models, gguf_path=None, sha256="0" * 64)
    return assemble(home, Settings(), base, speaking_engine)


# ---- the web application, driven by a client ----


@pytest.fixture(scope="module")
def services(make_services: Callable[..., Services], tmp_path_factory: pytest.TempPathFactory) -> Services:
    """One for the module: laying out the pages takes seconds. What changes adapters, nights or pages uses `own`."""
    return make_services(tmp_path_factory.mktemp("home"))


@pytest.fixture
def own(make_services: Callable[..., Services], tmp_path: Path) -> Services:
    return make_services(tmp_path / "home")


@pytest.fixture(scope="module")
def app(services: Services) -> FastAPI:
    from assistant.web.app import create_app

    return create_app(services)


@pytest.fixture(scope="module")
def opened(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=SITE, follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def client(opened: TestClient) -> TestClient:
    opened.cookies.clear()
    return opened


@pytest.fixture
def log_in(client: TestClient, passwords: dict[str, str]) -> Callable[[str], TestClient]:
    def log_in(name: str) -> TestClient:
        client.cookies.clear()
        reply = client.post("/login", data={"name": name, "password": passwords[name]}, headers={"origin": SITE})
        assert reply.status_code == 303, reply.text
        return client

    return log_in


@pytest.fixture
def ask_of() -> Callable[..., Turn]:
    def ask_of(services: Services, name: str, question: str = "What may a room in London cost?") -> Turn:
        user = services.store.user_by_name(name)
        conversation = services.store.start_conversation(user.id, history=False)
        events = list(services.chat.ask(user_id=user.id, conversation_id=conversation, question=question, history=False))
        turn: Turn = events[-1].turn
        return turn

    return ask_of


@pytest.fixture
def ask(services: Services, ask_of: Callable[..., Turn]) -> Callable[..., Turn]:
    return partial(ask_of, services)
