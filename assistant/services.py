"""Everything that one server (or one command that answers) needs, built in one place."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from assistant.chat import Chat
from assistant.config import Settings
from assistant.documents.store import DocumentStore
from assistant.engines.base import AdapterVersion, Engine
from assistant.engines.select import has_cuda, make_engine
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

SMALL_CONTEXT = 2048
"""Tokens of one prompt and its answer in the engine, where prompts are at most half of that: room for the longest question."""


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
            switch = self.pool.switch(wanted)
        except NightschoolError as error:
            self.store.audit("server", "swap refused", {"version": wanted, "reason": str(error)})
            return str(error)
        # "other build": its canary was recorded by another engine build or machine, and was compared with the base alone
        self.store.audit("server", "swapped", {"version": wanted, "canary": switch.canary, "seconds": round(switch.seconds, 2)})
        return None


def limits_for(settings: Settings, *, cuda: bool) -> PromptLimits:
    """Choose the prompt's limits for this machine and these settings."""
    return prompt_limits(core_count=cores(), cuda=cuda, tokens=settings.chat.prompt_tokens, passages=settings.chat.passages)


def open_engine(home: Home, settings: Settings) -> tuple[BaseModel, Engine]:
    """Open the base model and the engine that the settings (or the hardware) choose. Raises ModelError."""
    base = open_base(home.models, settings.engine.base_model)
    limits = limits_for(settings, cuda=settings.engine.kind != "llama_cpp" and has_cuda())
    engine = make_engine(
        settings.engine.kind,
        base,
        threads=settings.engine.threads or cores(),
        slots=settings.engine.slots,
        context=SMALL_CONTEXT if limits.tokens <= SMALL_CONTEXT // 2 else 2 * SMALL_CONTEXT,
    )
    return base, engine


def open_prompts(home: Home, settings: Settings, engine: Engine) -> tuple[DocumentStore, PromptBuilder]:
    """Open the documents of a home and the builder of prompts over them, as the chat and the examination use it."""
    documents = DocumentStore(home.documents_db, chunk_chars=settings.documents.chunk_chars)
    limits = limits_for(settings, cuda=engine.name.endswith("cuda"))
    return documents, PromptBuilder(documents, engine.count_tokens, limits=limits, threshold=settings.chat.threshold)


def assemble(home: Home, settings: Settings, base: BaseModel, engine: Engine) -> Services:
    """Put the parts together around an engine; nothing is loaded yet."""
    store = FeedbackStore(home.db)
    registry = AdapterRegistry(home.db, home.adapters)
    documents, prompts = open_prompts(home, settings, engine)

    def verified(version: str) -> AdapterVersion:
        registry.verify(version)
        return AdapterVersion(version=version, path=registry.path(version))

    pool = AdapterPool(engine, verified)
    return Services(
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


@contextlib.contextmanager
def open_services(home: Home, settings: Settings) -> Iterator[Services]:
    """Open everything, put the registry's current adapter into service, and close it all at the end.

    An adapter that may not serve leaves the base in service; the audit says why.
    """
    base, engine = open_engine(home, settings)
    try:
        services = assemble(home, settings, base, engine)
        services.follow_registry()
        yield services
    finally:
        engine.close()
