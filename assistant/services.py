"""Everything that one server (or one command that answers) needs, built in one place."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from assistant.agent import Agent, use_agent
from assistant.chat import Chat
from assistant.config import Settings
from assistant.documents.reading import ReadLimits
from assistant.documents.store import DocumentStore
from assistant.engines.base import AdapterVersion, Engine
from assistant.engines.select import has_cuda, make_engine
from assistant.engines.template import ChatTemplate
from assistant.hardware import SMALL_MODEL_LINES, PromptLimits, cores, prompt_limits
from assistant.home import Home
from assistant.library import Library
from assistant.models import BaseModel, open_base, parameters
from assistant.pool import AdapterPool
from assistant.prompt import PromptBuilder
from assistant.retrieval.followups import CAPABLE_PARAMETERS
from feedback.errors import NightschoolError
from feedback.store import FeedbackStore
from training.examinations import ExaminationStore
from training.registry import AdapterRegistry
from training.runs import RunLedger

SWAP_REFUSED = "swap refused"
"""The audit's name of a version that could not be put into service; its detail is {"version", "reason"}."""
SMALL_CONTEXT = 2048
"""Tokens of one prompt and its answer in the engine, where prompts are at most half of that.

A prompt always holds its whole question and one passage, so a question of many rare letters (each is several tokens) can still
be longer: the engine then says so.
"""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A version that the registry named and that could not be put into service, with the sentence that says why."""

    version: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of a running Nightschool."""

    home: Home
    settings: Settings
    store: FeedbackStore
    library: Library
    registry: AdapterRegistry
    ledger: RunLedger
    examinations: ExaminationStore
    base: BaseModel
    engine: Engine
    prompts: PromptBuilder
    pool: AdapterPool
    chat: Chat
    refused: Refused | None = None  # at the start; None: what the registry names serves

    @property
    def documents(self) -> DocumentStore:
        """The documents themselves."""
        return self.library.store

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
        """Move the pool to what the registry names now.

        A version that may not serve is refused with the sentence that is returned, and the registry names what serves again.
        """
        wanted = self.registry.current()
        if wanted == self.pool.current:
            return None
        refused = self._switch(wanted)
        if refused is None:
            return None
        self.put_back(refused)
        return refused.reason

    def put_back(self, refused: Refused) -> None:
        """Let the registry name what serves again, after it named a version that could not; nothing while none serves."""
        serving = self.pool.current
        if serving not in (None, refused.version):
            self.registry.put_back(refused.version, str(serving), "server", refused.reason)

    def start_serving(self) -> Refused | None:
        """Put what the registry names into service, or else the newest that served before it; returns what was refused first.

        The registry is left as it is: a command beside a server must not move what the server follows.
        """
        first: Refused | None = None
        for version in dict.fromkeys(reversed(self.registry.served())):
            refused = self._switch(version)
            if refused is None:
                break
            first = first or refused
        return first

    def _switch(self, version: str) -> Refused | None:
        """Move the pool, with an audit entry; returns why when that version may not serve."""
        try:
            switch = self.pool.switch(version)
        except NightschoolError as error:
            self.store.audit("server", SWAP_REFUSED, {"version": version, "reason": str(error)})
            return Refused(version=version, reason=str(error))
        # "other build": its canary was recorded by another engine build or machine, and was compared with the base alone
        self.store.audit("server", "swapped", {"version": version, "canary": switch.canary, "seconds": round(switch.seconds, 2)})
        return None


def engine_context(settings: Settings) -> int:
    """Return how many tokens one prompt and its answer may have in the engine, here and with these settings."""
    limits = limits_for(settings, cuda=settings.engine.kind != "llama_cpp" and has_cuda())
    return SMALL_CONTEXT if limits.tokens <= SMALL_CONTEXT // 2 else 2 * SMALL_CONTEXT


def limits_for(settings: Settings, *, cuda: bool, base: BaseModel | None = None) -> PromptLimits:
    """Choose the prompt's limits for this machine and these settings; without `base`, its lines are left open (0)."""
    chat, lines = settings.chat, settings.chat.lines
    if lines < 0:
        lines = SMALL_MODEL_LINES if base is not None and parameters(base) < CAPABLE_PARAMETERS else 0
    return prompt_limits(core_count=cores(), cuda=cuda, tokens=chat.prompt_tokens, passages=chat.passages, lines=lines)


def open_engine(home: Home, settings: Settings) -> tuple[BaseModel, Engine]:
    """Open the base model and the engine that the settings (or the hardware) choose. Raises ModelError."""
    base = open_base(home.models, settings.engine.base_model)
    engine = make_engine(
        settings.engine.kind,
        base,
        threads=settings.engine.threads or cores(),
        slots=settings.engine.slots,
        context=engine_context(settings),
    )
    return base, engine


def open_library(home: Home, settings: Settings) -> Library:
    """Open the documents of a home, and search over them. Raises ModelError for an encoder that is not installed."""
    documents = settings.documents
    return Library(
        home.documents_db,
        encoder=documents.encoder,
        reranker=documents.reranker,
        chunk_tokens=documents.chunk_tokens,
        limits=ReadLimits(max_bytes=documents.max_mb * 1_000_000),
    )


def open_prompts(home: Home, settings: Settings, base: BaseModel, engine: Engine) -> tuple[Library, PromptBuilder]:
    """Open the documents of a home and the builder of prompts over them, as the chat and the examination use it."""
    library = open_library(home, settings)
    limits = limits_for(settings, cuda=engine.name.endswith("cuda"), base=base)
    return library, PromptBuilder(library, engine.count_tokens, limits=limits, threshold=settings.chat.threshold)


def _agent(settings: Settings, base: BaseModel, engine: Engine, library: Library, prompts: PromptBuilder) -> Agent | None:
    """Return the agent where the settings and the model ask for one. Raises SettingsError when they cannot both be had."""
    wanted = use_agent(
        settings.chat.mode,
        has_tools=lambda: ChatTemplate(base.hf_dir).has_tools,
        parameters=parameters(base),
        prompt_tokens=prompts.limits.tokens,
    )
    return Agent(library, engine, limits=prompts.limits, max_tokens=settings.chat.max_tokens) if wanted else None


def assemble(home: Home, settings: Settings, base: BaseModel, engine: Engine) -> Services:
    """Put the parts together around an engine; nothing is loaded yet."""
    store = FeedbackStore(home.db)
    registry = AdapterRegistry(home.db, home.adapters)
    library, prompts = open_prompts(home, settings, base, engine)

    def verified(version: str) -> AdapterVersion:
        registry.verify(version)
        return AdapterVersion(version=version, path=registry.path(version))

    pool = AdapterPool(engine, verified)
    return Services(
        home=home,
        settings=settings,
        store=store,
        library=library,
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
            agent=_agent(settings, base, engine, library, prompts),
            rewrites=settings.chat.followups == "model"
            or (settings.chat.followups == "auto" and parameters(base) >= CAPABLE_PARAMETERS),
        ),
    )


@contextlib.contextmanager
def open_services(home: Home, settings: Settings) -> Iterator[Services]:
    """Open everything, put the registry's current adapter into service, and close it all at the end.

    Where that may not serve, what served before does; `refused` and the audit say why.
    """
    base, engine = open_engine(home, settings)
    try:
        services = assemble(home, settings, base, engine)
        yield replace(services, refused=services.start_serving())
    finally:
        engine.close()
