"""The second look at the best passages: token by token, or by a model that reads question and passage together.

Late interaction (Khattab and Zaharia 2020) compares the question's token vectors with those of each passage. The encoder makes
both anyway, so it needs no second model: of the passage's tokens the signs are kept when it is indexed, one bit a dimension.
A cross-encoder is a Hugging Face sequence classifier with one score (Nogueira and Cho 2019), loaded when one is named.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from assistant.retrieval.encoder import Vectors
from feedback.errors import ModelError

LATE, NONE = "late-interaction", "none"
_CROSS = "cross-encoder:"
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
    """Open the cross-encoder that a setting names, or None for "late-interaction" and "none"; nothing is loaded yet.

    Raises ModelError for a name that says no kind.
    """
    if name in (LATE, NONE):
        return None
    if not name.removeprefix(_CROSS) or not name.startswith(_CROSS):
        raise ModelError(
            f'documents.reranker = {name!r} names no reranker: write "{LATE}", "{NONE}", or {_CROSS}NAME with a Hugging Face '
            "name or folder."
        )
    return CrossEncoder(name, str(Path(name.removeprefix(_CROSS)).expanduser()))


def late_interaction(question: Vectors, passages: Mapping[int, bytes]) -> dict[int, float]:
    """Score passages by the mean, over the question's tokens, of the nearest token of the passage; best first.

    `question` has shape (tokens, dimensions), each of length 1; a passage is the packed signs of its tokens' vectors. One
    without telling tokens is as near as chance: 0.
    """
    width = question.shape[1]
    scores: dict[int, float] = {}
    for chunk_id, packed in passages.items():
        bits = np.unpackbits(np.frombuffer(packed, np.uint8).reshape(-1, (width + 7) // 8), axis=1, count=width)
        near = (bits.astype(np.float32) * 2 - 1) @ question.T / np.sqrt(width)
        scores[chunk_id] = float(near.max(axis=0).mean()) if len(bits) else 0.0
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


class CrossEncoder:
    """Reads question and passage together: one score of a sequence classifier each."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._lock = threading.Lock()
        self._parts: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._name

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """Return one score a passage. Raises ModelError when the model cannot be loaded, or gives more than one."""
        import torch

        model, tokenizer = self._load()
        most = min(MAX_TOKENS, int(tokenizer.model_max_length), int(getattr(model.config, "max_position_embeddings", MAX_TOKENS)))
        scores: list[float] = []
        for begin in range(0, len(passages), BATCH):
            part = list(passages[begin : begin + BATCH])
            given = tokenizer([question] * len(part), part, padding=True, truncation=True, max_length=most, return_tensors="pt")
            with torch.inference_mode():
                scores.extend(model(**given).logits[:, 0].float().tolist())
        return scores

    def _load(self) -> tuple[Any, Any]:
        from safetensors import SafetensorError
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        with self._lock:
            if self._parts is None:
                try:
                    tokenizer = AutoTokenizer.from_pretrained(self._source)
                    model = AutoModelForSequenceClassification.from_pretrained(self._source).eval()
                except (OSError, ValueError, SafetensorError) as error:
                    raise ModelError(
                        f"The reranker {self._name!r} cannot be loaded ({str(error).splitlines()[0]}): set documents.reranker "
                        f'to another, or to "{LATE}".'
                    ) from error
                if model.config.num_labels != 1:
                    raise ModelError(
                        f"The reranker {self._name!r} gives {model.config.num_labels} scores a passage: name one that gives one."
                    )
                self._parts = model, tokenizer
            return self._parts
