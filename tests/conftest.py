"""A whole Nightschool without a model: real stores, real documents, a real pool, and an engine that reads passages aloud."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from assistant.engines.base import AdapterVersion, CanaryReading, ChatRequest, Delta, LoadedAdapter
    from assistant.services import Services
    from feedback.records import Message

PASSWORDS = {"anna": "correct horse", "ben": "battery staple", "ada": "admin of admins"}
PAGES = {
    "travel/hotels.md": (
        "# Hotels\n\nA room in London may cost up to €140 a night, breakfast not included.\n\n"
        "## Booking\n\nBook in Pennant at least 3 weeks before departure.\n"
    ),
    "leave/annual-leave.md": (
        "# Annual leave\n\nEverybody has 27 days of annual leave a year.\n\n"
        "- Up to 5 days can be carried over.\n- They lapse on 31 March.\n"
    ),
    "it/vpn.md": (
        "# Network and VPN\n\n| What | Extension |\n| --- | --- |\n| Service desk | 2200 |\n| VPN support | 2217 |\n\n"
        "The VPN closes idle connections after 8 hours.\n"
    ),
}


@dataclass
class ReadAloud:
    """What `ReadingEngine` loads."""

    version: str


class ReadingEngine:
    """An engine without a model: it reads the first line of the first passage aloud, word by word, and cites it.

    "slowly" in a question makes it take its time, "fail" makes it fail half-way.
    """

    name = "reading aloud 1"

    def __init__(self) -> None:
        self.seen: list[tuple[Message, ...]] = []

    def load(self, adapter: AdapterVersion | None) -> ReadAloud:
        return ReadAloud(adapter.version if adapter else "base")

    def stream(self, request: ChatRequest, adapter: LoadedAdapter) -> Iterator[Delta]:
        from assistant.engines.base import Delta
        from feedback.errors import EngineError

        self.seen.append(request.messages)
        last = request.messages[-1].content
        passage, question = last.split("\n\n", 1)[0], last.rsplit("Question: ", 1)[-1]
        read = next((line for line in passage.splitlines()[1:] if line.strip()), passage)  # without passages: said again
        words = [*read.split(), "[1]"]
        for word in words * (40 if "slowly" in question else 1):
            time.sleep(0.1 if "slowly" in question else 0.002)
            yield Delta(text=f"{word} ")
            if "fail" in question:
                raise EngineError("The engine lost its place: ask again.")
        yield Delta(text="", finish_reason="stop", prompt_tokens=20, completion_tokens=len(words))

    def unload(self, adapter: LoadedAdapter) -> None:
        pass

    def canary(self, adapter: LoadedAdapter, prompts: Sequence[Sequence[Message]]) -> list[CanaryReading]:
        from assistant.engines.base import CanaryReading

        moved = 0.0 if adapter.version == "base" else 0.5
        return [
            CanaryReading(prompt=prompt[-1].content, logprobs={token: -1.0 - token / 10 - moved for token in range(40)})
            for prompt in prompts
        ]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    def close(self) -> None:
        pass


def build_services(home_dir: Path, *, queue: int = 8, pages: Path | None = None) -> Services:
    """Open every store below `home_dir`, with three users, the pages above (or a folder) and the engine without a model."""
    from assistant.config import ChatSettings, DocumentSettings, EngineSettings, Settings
    from assistant.home import Home
    from assistant.models import BaseModel
    from assistant.services import assemble

    home = Home(home_dir)
    settings = Settings(
        documents=DocumentSettings(encoder="none"),
        engine=EngineSettings(queue=queue),
        chat=ChatSettings(prompt_tokens=400, passages=2, threshold=0.3, max_tokens=96),
    )
    base = BaseModel(name="reader", path=home.models, hf_dir=home.models, gguf_path=None, sha256="0" * 64)
    engine: Any = ReadingEngine()
    services = assemble(home, settings, base, engine)
    for name, password in PASSWORDS.items():
        services.store.add_user(name, password, "admin" if name == "ada" else "employee")
    if pages is None:
        pages = home.root / "pages"
        for path, text in PAGES.items():
            (pages / path).parent.mkdir(parents=True, exist_ok=True)
            (pages / path).write_text(text, encoding="utf-8")
    services.library.add_folder(pages)
    return services


def publish_adapter(services: Services, *, status: Any = "candidate", run_id: str | None = None) -> str:
    """Publish an adapter whose files hold nothing; the engine without a model serves it under its version's name."""
    folder = services.home.root / "candidate"
    folder.mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter.gguf"):
        (folder / name).write_text("{}", encoding="utf-8")
    return services.registry.publish(folder, {}, status, run_id)


@contextmanager
def running_server(app: Any) -> Iterator[str]:
    """Serve an application on a free port in a thread, and yield its address."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline and thread.is_alive(), "the server does not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(15)


@pytest.fixture(scope="session")
def make_services() -> Callable[..., Services]:
    """`make_services(home_dir)`: see `build_services`."""
    return build_services


@pytest.fixture(scope="session")
def make_adapter() -> Callable[..., str]:
    """`make_adapter(services)`: see `publish_adapter`."""
    return publish_adapter


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """`with serve(app) as address`: see `running_server`."""
    return running_server


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    """The users by name: anna and ben are employees, ada is an admin."""
    return PASSWORDS


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a llama with 2 layers, 4 heads (2 for keys), hidden 64, tied embeddings."""
    from training.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """Write the files of a Hugging Face model that a night reads itself: all but the trainer and the examiner."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "tiny"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "chat_template": template}))
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder
