"""Everything that one server (or one command that answers) needs, built in one place."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assistant.chat import Chat
from assistant.config import Settings
from assistant.documents import DocumentStore
from assistant.engines.base import AdapterVersion, Engine
from assistant.engines.select import make_engine
from assistant.hardware import PromptLimits, cores, prompt_limits
from assistant.home import Home
from assistant.models import BaseModel, open_base
from assistant.pool import AdapterPool
from assistant.prompt import PromptBuilder
from feedback.errors import NightschoolError
from feedback.store import FeedbackStore
from training.examinations import ExaminationStore
from training.registry import AdapterRegistry
from training.runs import RunLedger

CONTEXT_TOKENS = 4096
"""Tokens of one conversation's prompt and answer in the engine: above every prompt budget with the longest question."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of a running Nightschool."""

    home: Home
    settings: Settings
    store: FeedbackStore
    documents: DocumentStore
    registry: AdapterRegistry
    ledger: RunLedger
    examinations: ExaminationStore
    base: BaseModel
    engine: Engine
    prompts: PromptBuilder
    pool: AdapterPool
    chat: Chat

    def start_night(self, requested_by: str, *, slot: str = "") -> int:
        """Start a night in a process of its own, for a due slot or at once; returns its process id."""
        log = (self.home.root / "night.log").open("ab")
        with log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "assistant.cli", "--home", str(self.home.root), "night"),
                    *("--requested-by", requested_by),
                    *(("--slot", slot) if slot else ("--now",)),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        threading.Thread(target=process.wait, daemon=True).start()
        return process.pid

    def follow_registry(self) -> str | None:
        """Move the pool to what the registry names now; returns a sentence when that version may not serve."""
        wanted = self.registry.current()
        if wanted == self.pool.current:
            return None
        try:
            self.pool.switch(wanted)
        except NightschoolError as error:
            self.store.audit("server", "swap refused", {"version": wanted, "reason": str(error)})
            return str(error)
        self.store.audit("server", "swapped", {"version": wanted})
        return None


def limits_for(settings: Settings, *, cuda: bool) -> PromptLimits:
    """Choose the prompt's limits for this machine and these settings."""
    return prompt_limits(core_count=cores(), cuda=cuda, tokens=settings.chat.prompt_tokens, passages=settings.chat.passages)


def open_engine(home: Home, settings: Settings) -> tuple[BaseModel, Engine]:
    """Open the base model and the engine that the settings (or the hardware) choose. Raises ModelError."""
    base = open_base(home.models, settings.engine.base_model)
    engine = make_engine(
        settings.engine.kind,
        base,
        threads=settings.engine.threads or cores(),
        slots=settings.engine.slots,
        context=CONTEXT_TOKENS,
    )
    return base, engine


@contextlib.contextmanager
def open_services(home: Home, settings: Settings) -> Iterator[Services]:
    """Open everything, put the registry's current adapter into service, and close it all at the end.

    An adapter that may not serve leaves the base in service; the audit says why.
    """
    base, engine = open_engine(home, settings)
    store = FeedbackStore(home.db)
    registry = AdapterRegistry(home.db, home.adapters)
    documents = DocumentStore(home.documents_db, chunk_chars=settings.documents.chunk_chars)
    prompts = PromptBuilder(
        documents,
        engine.count_tokens,
        limits=limits_for(settings, cuda=engine.name.endswith("cuda")),
        threshold=settings.chat.threshold,
    )

    def verified(version: str) -> AdapterVersion:
        registry.verify(version)
        return AdapterVersion(version=version, path=registry.path(version))

    pool = AdapterPool(engine, verified)
    services = Services(
        home=home,
        settings=settings,
        store=store,
        documents=documents,
        registry=registry,
        ledger=RunLedger(home.db, home.runs),
        examinations=ExaminationStore(home.db),
        base=base,
        engine=engine,
        prompts=prompts,
        pool=pool,
        chat=Chat(
            store=store,
            prompts=prompts,
            engine=engine,
            pool=pool,
            base_model=base.name,
            base_hash=base.sha256,
            max_tokens=settings.chat.max_tokens,
            queue=settings.engine.queue,
        ),
    )
    try:
        services.follow_registry()
        yield services
    finally:
        engine.close()


def index_documents(documents: DocumentStore, folder: Path) -> list[str]:
    """Index a folder; returns the sentences about files that could not be read."""
    return list(documents.add_folder(folder).unread)
