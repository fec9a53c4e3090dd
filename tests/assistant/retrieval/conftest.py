"""The packaged encoder, loaded once; encoders of random numbers in folders; an encoder without a model; stores with pages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from assistant.documents.store import DocumentStore
from assistant.retrieval.encoder import Encoded, Encoder, open_encoder

WORDS = ["the", "a", "is", "may", "what", "hotel", "room", "price", "euro", "train", "pump", "valve", "vpn", "##s", ".", "?", "-"]
WIDTH = 16


class WordEncoder:
    """An encoder without a model: a text is the mean of random vectors of its words, so what shares words is near.

    `meanings` says which words mean the same. It counts what it encodes, and calls `before` first.
    """

    max_tokens = 512

    def __init__(self, name: str = "words", meanings: dict[str, str] | None = None) -> None:
        self.name = name
        self.encoded: list[str] = []
        self.before: Callable[[], None] = lambda: None
        self._meanings = meanings or {}

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        self.before()
        self.encoded += texts
        tokens = [np.array([self._vector(word) for word in re.findall(r"\w+", text)] or [np.zeros(WIDTH)]) for text in texts]
        means = [each.mean(axis=0) for each in tokens]
        whole = [mean / (np.linalg.norm(mean) or 1) for mean in means]
        return Encoded(whole=np.array(whole, np.float32).reshape(-1, WIDTH), tokens=[each.astype(np.float32) for each in tokens])

    def _vector(self, word: str) -> np.ndarray:
        word = word.casefold()
        seed = hashlib.sha256(f"{self.name} {self._meanings.get(word, word)}".encode()).digest()
        vector = np.random.default_rng(list(seed)).normal(size=WIDTH)
        return np.asarray(vector / np.linalg.norm(vector))


@pytest.fixture(scope="session")
def word_encoder() -> type[WordEncoder]:
    """The class: see `WordEncoder`."""
    return WordEncoder


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The packaged encoder."""
    encoder = open_encoder("minilm")
    assert encoder is not None
    return encoder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_bert(labels=, pooling=, positions=)`: write a BERT of two layers and random numbers, and return its folder."""

    def make(*, labels: int = 0, pooling: str = "", positions: int = 64, model_max: int = 64) -> Path:
        import torch
        from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

        folder = tmp_path_factory.mktemp("bert")
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=model_max)
        tokenizer.save_pretrained(folder)
        torch.manual_seed(1)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=positions,
            initializer_range=0.5,
            **({"num_labels": labels} if labels else {}),
        )
        model = BertForSequenceClassification(config) if labels else BertModel(config)
        model.save_pretrained(folder)
        if pooling:
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
        return folder

    return make


@pytest.fixture
def store(tmp_path: Path) -> DocumentStore:
    """An empty store."""
    return DocumentStore(tmp_path / "documents.db")


@pytest.fixture
def fill(store: DocumentStore) -> Callable[..., DocumentStore]:
    """`fill({name: text}, collection=)`: put pages into the store."""

    def fill(pages: dict[str, str], *, collection: str = "main") -> DocumentStore:
        for name, text in pages.items():
            store.put(collection=collection, name=name, text=text, sha256=hashlib.sha256(text.encode()).hexdigest())
        return store

    return fill
