"""Hybrid search: what words alone miss, what meaning alone misses, and what a hit says of itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from assistant.documents.chunks import Splitter
from assistant.documents.store import DocumentStore
from assistant.retrieval.encoder import Encoded, Encoder
from assistant.retrieval.index import embed_pending
from assistant.retrieval.reranker import open_reranker
from assistant.retrieval.search import RERANKED, Hit, Retriever
from feedback.errors import ModelError

Fill = Callable[..., DocumentStore]
PAGES = {
    "hotels.md": "# Hotels\n\n## Price limit\n\nA hotel night may cost up to \u20ac140 in Eastmere. Breakfast is included.\n",
    "leave.md": "# Annual leave\n\nStaff are entitled to 27 days of vacation a year.\n",
    "vpn.md": "# VPN\n\nCulvert is the VPN client. Call extension 4120 when Culvert drops the connection.\n",
    "pumps.md": "# Pumps\n\nThe pump KX-4417 takes the seal S-20.\n\n",
    "other-pumps.md": "# Other pumps\n\nThe pump KX-4471 takes the seal S-30.\n\n",
    "canteen.md": "# Canteen\n\nLunch is served from noon until two.\n",
}


@pytest.fixture
def hybrid(fill: Fill, minilm: Encoder) -> Retriever:
    store = fill(PAGES)
    embed_pending(store, minilm)
    return Retriever(store, minilm)


@pytest.fixture
def by_words(store: DocumentStore, fill: Fill) -> Retriever:
    return Retriever(store if store.paths() else fill(PAGES), None)


def documents(hits: list[Hit]) -> list[str]:
    return [hit.document for hit in hits]


def test_what_words_alone_miss_is_found_by_meaning(hybrid: Retriever, by_words: Retriever) -> None:
    question = "How many holidays do employees get?"
    assert "leave.md" not in documents(by_words.search(question, limit=5))
    assert documents(hybrid.search(question, limit=3))[0] == "leave.md"


@pytest.mark.parametrize("code", ["KX-4417", "KX-4471"])
def test_what_meaning_alone_misses_is_found_by_words(hybrid: Retriever, code: str) -> None:
    expected = "pumps.md" if code == "KX-4417" else "other-pumps.md"
    assert documents(hybrid.search(f"Which seal for {code}?", limit=1)) == [expected]
    for stage in ("fts", "rerank"):
        assert documents(hybrid.search(code, limit=1, stage=stage)) == [expected]


def test_without_an_encoder_words_decide(by_words: Retriever) -> None:
    best = by_words.search("How much may a hotel night cost in Eastmere?", limit=3)[0]
    assert (best.document, best.title) == ("hotels.md", "Hotels > Price limit")
    assert best.score == best.scores["coverage"]
    assert by_words.search("dropped connections", limit=1)[0].document == "vpn.md"


def test_a_score_is_high_when_the_answer_is_there_and_low_when_it_is_not(hybrid: Retriever, by_words: Retriever) -> None:
    for retriever, least in ((hybrid, 0.44), (by_words, 0.33)):
        near = retriever.search("What may a hotel night cost in Eastmere?", limit=1)[0].score
        far = retriever.search("Does the dental insurance cover checked molars?", limit=1)
        assert 1 >= near > least > max((hit.score for hit in far), default=0) >= 0


def test_every_stage_keeps_its_score(hybrid: Retriever) -> None:
    hits = hybrid.search("hotel night price in Eastmere", limit=6)
    assert set(hits[0].scores) == {"fts", "dense", "fused", "evidence", "rerank", "coverage"}
    assert hits[0].score == pytest.approx((hits[0].scores["dense"] + hits[0].scores["coverage"]) / 2, abs=1e-3)
    assert [hit.scores["rerank"] for hit in hits] == sorted((hit.scores["rerank"] for hit in hits), reverse=True)
    assert "fts" not in hits[-1].scores  # it shares no word with the question


@pytest.mark.parametrize(("stage", "by"), [("fts", "fts"), ("dense", "dense"), ("hybrid", "fused"), ("rerank", "rerank")])
def test_each_stage_can_be_measured_by_itself(hybrid: Retriever, stage: Any, by: str) -> None:
    hits = hybrid.search("hotel night pump seal vacation", limit=4, stage=stage)
    assert hits
    values = [hit.scores[by] for hit in hits]
    assert values == sorted(values, reverse=True)
    if stage != "rerank":
        assert not any("rerank" in hit.scores or "evidence" in hit.scores for hit in hits)


def test_chunks_without_vectors_yet_are_found_by_their_words_with_their_full_score(hybrid: Retriever, fill: Fill) -> None:
    fill({"parking.md": "# Parking\n\nA parking permit costs 12 euros a month."})
    hits = hybrid.search("What does a parking permit cost a month?", limit=3)
    assert hits[0].document == "parking.md"
    assert "dense" not in hits[0].scores
    assert hits[0].score == hits[0].scores["coverage"] > 0.44


def test_an_encoder_without_any_vector_yet_searches_by_words(fill: Fill, minilm: Encoder) -> None:
    retriever = Retriever(fill(PAGES), minilm)
    assert documents(retriever.search("hotel night in Eastmere", limit=1)) == ["hotels.md"]
    assert retriever.search("zebra", limit=5) == []


def test_passages_that_tell_nothing_do_no_harm(fill: Fill, minilm: Encoder) -> None:
    store = fill({"the.md": "...", "it.md": "- - -"})
    embed_pending(store, minilm)
    assert set(documents(Retriever(store, minilm).search("What is the price?", limit=5))) == {"the.md", "it.md"}
    fill(PAGES)
    embed_pending(store, minilm)
    assert documents(Retriever(store, minilm).search("hotel night in Eastmere", limit=9))[0] == "hotels.md"


def test_a_collection_is_searched_alone(hybrid: Retriever, fill: Fill, minilm: Encoder) -> None:
    store = fill({"b.md": "# Hotels\n\nA hotel night of the branch may cost 90 euros."}, collection="branch")
    embed_pending(store, minilm)
    for stage in ("fts", "dense", "hybrid", "rerank"):
        branch = hybrid.search("hotel night price", limit=9, collection="branch", stage=stage)
        assert [(hit.collection, hit.document) for hit in branch] == [("branch", "b.md")]
        rest = hybrid.search("hotel night price", limit=9, collection="main", stage=stage)
        assert "b.md" not in documents(rest)
    assert hybrid.search("hotel", limit=9, collection="none") == []


def test_the_context_of_a_follow_up_brings_its_page_up(hybrid: Retriever) -> None:
    question = "And for a year?"
    context = f"What may a hotel night cost? {question}"
    with_context = hybrid.search(question, limit=3, context=context)
    assert documents(with_context)[0] == "hotels.md"
    alone = hybrid.search(question, limit=6)
    assert documents(alone)[0] == "leave.md"
    assert all("dense" in hit.scores for hit in with_context)


def test_a_follow_up_is_scored_as_the_whole_question_is(hybrid: Retriever) -> None:
    whole = "What may a hotel night cost? And in Eastmere?"
    alone, followed, asked = (
        hybrid.search(question, limit=1, context=context)[0]
        for question, context in (("And in Eastmere?", ""), ("And in Eastmere?", whole), (whole, ""))
    )
    assert alone.score < followed.score and followed.score >= asked.score


def test_what_only_the_context_finds_has_a_cosine_for_the_question_too(fill: Fill, word_encoder: Any) -> None:
    encoder = word_encoder()
    store = fill({**{f"{number}.md": f"filler{number} breakfast" for number in range(150)}, "hotel.md": "hotel night eastmere"})
    embed_pending(store, encoder)
    hits = Retriever(store, encoder).search("breakfast", limit=150, context="hotel night eastmere breakfast")
    assert any(hit.document == "hotel.md" and {"dense", "coverage"} <= hit.scores.keys() for hit in hits)


@pytest.mark.parametrize("limit", [1, 5, RERANKED + 20])
def test_as_many_are_given_as_were_asked_for(fill: Fill, word_encoder: Any, limit: int) -> None:
    encoder = word_encoder()
    store = fill({f"{number}.md": f"hotel number{number}" for number in range(80)})
    embed_pending(store, encoder)
    for retriever in (Retriever(store, encoder), Retriever(store, None), Retriever(store, encoder, late=False)):
        hits = retriever.search("hotel", limit=limit)
        assert len({hit.chunk_id for hit in hits}) == len(hits) == limit


def test_a_hit_opens_at_its_place_in_its_version(fill: Fill, store: DocumentStore) -> None:
    fill(PAGES)
    fill({"hotels.md": "# Hotels\n\nA hotel room may cost up to \u20ac155.\n"})
    store.put(name="guide.pdf", text="# Guide\n\nfirst page\n\nsecond hotel page\n", pages=[0, 21], sha256="1")
    for hit in Retriever(store, None).search("hotel room page pump seal", limit=20):
        document = store.document(hit.document, version=hit.document_version)
        assert document.current
        assert document.text[hit.start : hit.end] == hit.text
        assert hit.page == (None if hit.document.endswith(".md") else 2 if "second" in hit.text else 1)
    assert not any("140" in hit.text for hit in Retriever(store, None).search("hotel night Eastmere breakfast", limit=9))


def test_following_chunks_of_the_same_section_are_joined(tmp_path: Path) -> None:
    store = DocumentStore(tmp_path / "documents.db", split=Splitter(60), chunking="60")
    body = "\n\n".join(f"Paragraph {number} about pumps and valves, told at some length. " * 2 for number in range(6))
    text = f"# Long\n\n{body}\n\n## Next section\n\n{'Something else. ' * 9}\n"
    store.put(name="long.md", text=text, sha256="1")
    retriever = Retriever(store, None)
    (alone,) = retriever.search("paragraph 2 pumps", limit=1)
    (joined,) = retriever.search("paragraph 2 pumps", limit=1, following=1)
    assert text[alone.start : alone.end] == alone.text
    assert joined.start == alone.start
    assert joined.end > alone.end
    added = joined.text.removeprefix(alone.text).strip()
    assert added
    assert text[joined.start : joined.end].endswith(added)
    (all_of_it,) = retriever.search("paragraph 0 pumps", limit=1, following=99)
    assert "Paragraph 5" in all_of_it.text
    assert "Something else" not in all_of_it.text
    assert text[all_of_it.start : all_of_it.end].split() == all_of_it.text.split()


def test_a_cross_encoder_that_is_named_has_the_last_word(fill: Fill, word_encoder: Any, tiny_bert: Callable[..., Path]) -> None:
    reranker = open_reranker(f"cross-encoder:{tiny_bert(labels=1)}")
    assert reranker is not None
    store = fill({f"{number}.md": f"hotel {'room ' * number} price" for number in range(8)})
    hits = Retriever(store, None, reranker, late=False).search("hotel", limit=8)
    by_itself = {hit.chunk_id: reranker.score("hotel", [f"{hit.title}\n{hit.text}"])[0] for hit in hits}
    assert [hit.chunk_id for hit in hits] == sorted(by_itself, key=lambda chunk_id: -by_itself[chunk_id])
    assert hits[0].scores["rerank"] == pytest.approx(by_itself[hits[0].chunk_id], abs=1e-3)


@pytest.mark.parametrize("question", ["", "   ", "\u2014", '"', "AND OR NOT", "nul\0byte", "hotel " * 2_000])
def test_no_question_is_too_odd(hybrid: Retriever, by_words: Retriever, question: str) -> None:
    for retriever in (hybrid, by_words):
        assert len(retriever.search(question, limit=3)) <= 3


def test_threads_share_a_retriever(hybrid: Retriever) -> None:
    answers: list[list[str]] = []

    def ask() -> None:
        answers.extend(documents(hybrid.search("hotel night in Eastmere", limit=1)) for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [["hotels.md"]] * 9


class LostEncoder:
    """An encoder whose files are gone."""

    name = "lost"
    max_tokens = 256

    def __init__(self) -> None:
        self.tries = 0

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        self.tries += 1
        raise ModelError("The encoder cannot be loaded: set documents.encoder.")


def test_while_the_encoder_cannot_be_loaded_words_alone_are_searched_and_it_is_not_tried_for_each_question(
    fill: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    lost = LostEncoder()
    retriever = Retriever(fill(PAGES), lost)
    for _ in range(3):
        best = retriever.search("How much may a hotel night cost in Eastmere?", limit=1)[0]
        assert best.document == "hotels.md" and best.score == best.scores["coverage"]
    assert lost.tries == 1 and len(caplog.records) == 1
