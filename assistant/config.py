"""The settings: one file, every value also from the environment, unknown ones refused, all faults reported at once.

`load` is the only function of the project that reads the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from assistant.home import Home
from feedback.errors import SettingsError
from training.methods import check_combination, check_objective
from training.recipe import TRACKERS, Method, Objective, Schedule
from training.trackers import not_installed

PREFIX = "NIGHTSCHOOL_"
MOST_OF_OTHERS = 0.9
"""The most that the rows beside the ratings may be of all that a night trains on."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the pages are served."""

    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=1, le=65535)
    session_hours: int = Field(default=24, ge=1, description="how long a login lasts")


class DocumentSettings(_Section):
    """What is indexed."""

    folder: str = Field(default="", description="folder that `serve` indexes and watches; empty: only what `documents add` added")
    watch_minutes: float = Field(default=10.0, ge=0, description="how often watched folders are looked at; 0: only at a start")
    encoder: str = Field(
        default="minilm",
        description='what finds passages by meaning: "minilm" (packaged), a Hugging Face name or folder, or "none"',
    )
    reranker: str = Field(
        default="late-interaction",
        description='second look at the best passages: "late-interaction", "cross-encoder:NAME" (Hugging Face), or "none"',
    )
    chunk_tokens: int = Field(
        default=140, ge=32, le=480, description="longest chunk, in tokens of the encoder; at most 32 fewer than it reads"
    )
    max_mb: int = Field(default=100, ge=1, description="largest file that is read, in MB")


class EngineSettings(_Section):
    """What runs the model."""

    kind: Literal["auto", "llama_cpp", "transformers"] = "auto"
    base_model: str = Field(
        default="smollm2-135m-instruct", description="a name below models/, or the path of a Hugging Face folder"
    )
    threads: int = Field(default=0, ge=0, description="0: one for each core")
    slots: int = Field(default=8, ge=1, le=64, description="answers written at the same time")
    queue: int = Field(
        default=32, ge=1, description="answers written and waiting, together; past it people are asked to try again"
    )
    starter: bool = Field(default=True, description="put the starter adapter that ships into a home that has no adapter yet")


class ChatSettings(_Section):
    """How a question becomes a prompt and an answer."""

    prompt_tokens: int = Field(default=0, ge=0, le=3500, description="0: by hardware (about 400 on 2 cores)")
    passages: int = Field(default=0, ge=0, le=20, description="0: by hardware (3 on 2 cores), 5 where lines are taken of them")
    lines: int = Field(
        default=-1,
        ge=-1,
        le=100,
        description="lines of the passages that a prompt holds, the closest to the question; 0: the whole passages; "
        "-1: by the base model (3 for a small one, whole passages for one of 1.5 billion parameters)",
    )
    threshold: float = Field(
        default=-1,
        ge=-1,
        le=1,
        description="how near the passages must come to the question (best score, with the closest line), or no model is "
        "called; -1: as calibrated (docs/LOG.md)",
    )
    followups: Literal["auto", "terms", "model"] = Field(
        default="auto",
        description="how a follow-up is made whole for the search: by earlier words, or by the model (auto: large ones)",
    )
    mode: Literal["auto", "agent", "fixed"] = Field(
        default="auto",
        description="agent: the model calls search tools before it answers; auto: large models with tools in their template",
    )
    max_tokens: int = Field(default=96, ge=8, le=2048, description="longest answer")


class NightSettings(_Section):
    """When and how long it learns."""

    cron: str = Field(default="0 2 * * *", description="five cron fields, local time; empty: never by itself")
    minutes: float = Field(default=60.0, gt=0, description="time budget of the training")
    min_examples: int = Field(default=40, ge=1, description="fewer examples than this is a HOLD")
    min_facts: int = Field(default=20, ge=2, description="fewer examination facts than this is a HOLD")
    min_effect: float = Field(default=0.02, ge=0, le=1, description="least gain that counts as better")
    questions: str = Field(default="", description="JSONL file of sealed questions; never trained on")
    examined: int = Field(default=150, ge=2, description="most questions of one examination, sampled by fact past that")
    paraphrases: int = Field(default=20, ge=0, description="facts asked in two wordings at least, where there are two")
    unanswerable: int = Field(
        default=50,
        ge=0,
        description="most questions that cannot be answered; past the sealed ones, others whose pages the search leaves out",
    )
    pushback: int = Field(default=25, ge=0, description="most right answers that are objected to")
    general: int = Field(default=40, ge=0, le=100, description="most general answers whose probability is compared (torch)")
    side_by_side: bool = Field(default=True, description="also let each model write on ten general prompts, to look at")
    perplexity: bool = Field(default=True, description="also measure the perplexity of the right answers (torch)")
    examination: float = Field(
        default=0.5, gt=0, le=0.5, description="longest examination, as a share of `minutes`: past it the suites are sampled"
    )
    max_per_user: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="largest share of the usable examples that one person can contribute; no cap with fewer than 3 raters",
    )
    seed_share: float = Field(
        default=0.25, ge=0, le=0.9, description="share of the rows that are questions made from the documents"
    )
    starter_share: float = Field(default=0.25, ge=0, le=0.9, description="share of the rows behind the starter adapter")
    general_share: float = Field(default=0.05, ge=0, le=0.9, description="share of general rows, against forgetting")
    absent_share: float = Field(
        default=0.3, ge=0, le=0.9, description="share of the questions made from the documents whose page is taken away"
    )
    refusal_share: float = Field(
        default=0.2, ge=0, le=0.5, description="share of all rows that refuse; the starter's make up what the others lack"
    )
    method: Method = Field(default="qlora", description="what is trained; dora, prefix and full need the transformers engine")
    objective: Objective = Field(
        default="sft", description="learn from examples, from corrected answers (dpo) or from thumbs (kto)"
    )
    start_from: Literal["starter", "base", "serving"] = Field(
        default="starter",
        description="weights to begin with: of the starter adapter (where method and rank are its own), of the bare base, or of "
        "the adapter in service",
    )
    beta: float = Field(default=0.1, gt=0, description="how near DPO and KTO stay to what the examples taught")
    preference_rate: float = Field(default=5e-6, gt=0)
    preference_share: float = Field(default=0.3, gt=0, lt=1, description="share of the minutes for the DPO or KTO after SFT")
    rank: int = Field(default=16, ge=1, le=256)
    learning_rate: float = Field(default=0, ge=0, description="0: by the method")
    epochs: float = Field(default=3.0, gt=0)
    batch: int = Field(default=4, ge=1)
    accumulation: int = Field(default=1, ge=1, description="batches behind one step")
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule = Field(default="linear", description="way of the learning rate after the warm-up")
    max_steps: int = Field(default=0, ge=0, description="0: as many as epochs and minutes allow")
    evaluation_share: float = Field(default=0.0, ge=0, lt=1, description="share of the examples that the loss is measured on")
    patience: int = Field(default=0, ge=0, description="measurements without a gain after which a training ends; 0: any number")
    upper_layers: int = Field(default=0, ge=0, description="adapt only so many of the last layers; 0: all")
    keep_activations: bool = Field(default=False, description="keep what the layers below upper_layers compute")
    keep_days: int = Field(default=90, ge=0, description="days after which a night's run folder is deleted; 0: never")
    seed: int = 0
    report_to: tuple[str, ...] = Field(
        default=(), description="trackers that a training also writes for, into its run folder: tensorboard, trackio, wandb"
    )

    @model_validator(mode="after")
    def _leave_the_ratings_a_part(self) -> Self:
        shares = round(self.seed_share + self.starter_share + self.general_share, 4)
        if shares > MOST_OF_OTHERS:
            raise PydanticCustomError(
                "shares",
                "seed_share, starter_share and general_share are {shares} together: at most {most}, the rest is for the ratings",
                {"shares": shares, "most": MOST_OF_OTHERS},
            )
        return self

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        for one, other in (("patience", "evaluation_share"), ("keep_activations", "upper_layers")):
            if getattr(self, one) and not getattr(self, other):
                raise PydanticCustomError("halves", "{one} needs {other}: set it too", {"one": one, "other": other})
        return self

    @field_validator("report_to", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Take the environment's text too, where commas part the names."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("report_to")
    @classmethod
    def _trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        strangers = [name for name in value if name not in TRACKERS]
        if strangers:
            raise PydanticCustomError("tracker", "choose from {known}", {"known": ", ".join(TRACKERS)})
        if lacking := not_installed(value):
            raise PydanticCustomError(
                "tracker", "not installed here: `pip install {names}`, or leave it out", {"names": " ".join(lacking)}
            )
        return value


class Settings(_Section):
    """All settings, by section."""

    server: ServerSettings = ServerSettings()
    documents: DocumentSettings = DocumentSettings()
    engine: EngineSettings = EngineSettings()
    chat: ChatSettings = ChatSettings()
    night: NightSettings = NightSettings()


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name == f"{PREFIX}HOME":
            continue
        section, _, key = name.removeprefix(PREFIX).lower().partition("__")
        found.setdefault(section, {})[key or "?"] = value
    return found


def _fault(error: Any, file: Path, file_values: Mapping[str, Any]) -> str:
    *sections, key = (str(part) for part in error["loc"] if not isinstance(part, int))  # a number is a place in a list
    in_file = isinstance(file_values.get(sections[0] if sections else key), dict) and (
        not sections or key in file_values[sections[0]]
    )
    where = file.name if in_file or (not sections and key in file_values) else "the environment"
    name = ".".join((*sections, key))
    if error["type"] == "shares":
        return f"{where}: [{name}]: {error['msg']}."
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no setting {name!r}: remove it, or see docs/settings.md for the names."
    return f"{where}: {name} = {error['input']!r} is wrong: {error['msg'].lower()}."


def parse(file: Path, environment: Mapping[str, str]) -> Settings:
    """Read the settings from `file` (may be missing) and `environment`, which wins. Raises SettingsError with every fault."""
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{file.name} cannot be read: {error}: mend it or move it away.") from error
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for section, entries in _from_environment(environment).items():
        if isinstance(merged.get(section, {}), dict):
            merged.setdefault(section, {}).update(entries)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("\n".join(_fault(each, file, values) for each in error.errors())) from error
    kind, night = settings.engine.kind, settings.night
    check_combination(night.method, engine=None if kind == "auto" else kind, upper_layers=night.upper_layers or None)
    check_objective(
        night.objective,
        evaluation_share=night.evaluation_share,
        patience=night.patience,
        keep_activations=night.keep_activations,
    )
    return settings


def load(home: Path | None = None) -> tuple[Home, Settings]:
    """Open the home directory (argument, NIGHTSCHOOL_HOME, or the user's data directory) and read its settings."""
    chosen = home or Path(os.environ.get(f"{PREFIX}HOME") or platformdirs.user_data_path("nightschool"))
    opened = Home(chosen)
    return opened, parse(opened.settings, os.environ)
