"""Search by words: what a question is asked for, and how much of it a chunk holds; no question is taken for syntax."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from assistant.documents.store import DocumentStore
from assistant.retrieval import lexical
from assistant.retrieval.lexical import MAX_TERMS, LexicalIndex, query_terms, quoted

Fill = Callable[..., DocumentStore]
PAGES = {
    "flights.md": "# Flights\n\nFly economy. One checked bag of 23 kilograms is included.\n",
    "hotels.md": "# Hotels\n\n## Price limit\n\nA hotel night may cost up to \u20ac140 in Eastmere. Breakfast is included.\n",
    "vpn.md": "# VPN\n\nCulvert is the VPN client. Call extension 4120 when Culvert drops the connection.\n",
}


def index_of(store: DocumentStore) -> LexicalIndex:
    return LexicalIndex(store.connections.db, generation=store.generation(), frequencies={})


def names(store: DocumentStore, question: str, *, limit: int = 9, collection: str = "") -> list[str]:
    found = index_of(store).search(query_terms(question), limit=limit, collection=collection)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    sql = "select name from documents d join chunks c on c.document_id = d.id where c.id = ?"
    return [store.connections.db.execute(sql, [chunk_id]).fetchone()[0] for chunk_id in found]


def test_terms_leave_out_what_carries_no_meaning_but_never_all() -> None:
    assert query_terms("What is the price of a hotel?") == ["price", "hotel"]
    assert query_terms("Who is it?") == ["who", "is", "it"]
    assert query_terms("Hotel HOTEL hotel 3.5 KX-4417 Gr\u00f6\u00dfe") == ["hotel", "3.5", "kx", "4417", "gr\u00f6sse"]
    assert query_terms("\u2014 ?! ...") == []


def test_a_question_of_two_thousand_words_is_cut(fill: Fill) -> None:
    question = " ".join(f"word{number}" for number in range(2000))
    assert query_terms(question) == question.split()[:MAX_TERMS]
    assert names(fill(PAGES), f"eastmere {question}") == ["hotels.md"]


def test_words_are_found_in_other_forms_and_in_titles(fill: Fill) -> None:
    store = fill(PAGES)
    assert names(store, "dropped connections", limit=1) == ["vpn.md"]
    assert names(store, "limits")[0] == "hotels.md"
    assert names(store, "included")[:2] == ["flights.md", "hotels.md"] or names(store, "included")[:2] == [
        "hotels.md",
        "flights.md",
    ]
    assert names(store, "4120") == ["vpn.md"]
    assert names(store, "submarine") == []


@pytest.mark.parametrize(
    "question",
    [
        *(
            '"',
            '""',
            "'",
            "AND OR NOT",
            "AND",
            "hotel*",
            "title:hotel",
            "(((",
            "\u2014",
            "NEAR(a b)",
            "^hotel",
            "a + b",
            "{x} : y",
        ),
        *(
            "'; drop table chunks; --",
            "nul\0byte hotel",
            "\0",
            "",
            "what is it",
            "\ud800 hotel",
            "\u0661\u0662 \u00b2 \u00bd \u0345",
        ),
        *("\U0001f600", "_", "____", "-", "e\u0301", "a" * 50_000),
    ],
)
def test_no_question_is_taken_for_query_syntax(fill: Fill, question: str) -> None:
    store = fill(PAGES)
    terms = query_terms(question)
    found = index_of(store).search(terms, limit=3, collection="")
    assert found.keys() <= {1, 2, 3}
    assert ("hotel" in terms) == (2 in found) or question in {"what is it"}
    assert set(index_of(store).coverage(terms, [1, 2, 3])) == {1, 2, 3}
    assert store.paths() == sorted(PAGES)


def test_a_quote_in_a_term_is_doubled() -> None:
    assert quoted('a"b') == '"a""b"'


def test_a_collection_is_searched_alone(fill: Fill) -> None:
    fill(PAGES)
    store = fill({"other.md": "# Hotels\n\nHotels of the other collection."}, collection="other")
    assert names(store, "hotel", collection="other") == ["other.md"]
    assert names(store, "hotel", collection="main") == ["hotels.md"]
    assert set(names(store, "hotel")) == {"hotels.md", "other.md"}
    assert names(store, "hotel", collection="none") == []


def test_coverage_is_the_weighted_share_of_the_terms_that_a_chunk_holds(fill: Fill) -> None:
    index = index_of(fill(PAGES))
    whole, part, none = index.coverage(query_terms("Culvert extension"), [3, 1, 2]).values()
    assert [whole, part, none] == pytest.approx([1, 0, 0])
    held = index.coverage(query_terms("included breakfast"), [1, 2, 3])
    assert held[2] == pytest.approx(1)
    assert 0 < held[1] < 0.5  # it holds only the more common one of the two
    assert held[3] == 0


@pytest.mark.parametrize(
    "question", ["", "submarine", "hotel", "hotel submarine", " ".join(f"w{n}" for n in range(99)), "the is"]
)
def test_coverage_stays_between_zero_and_one(fill: Fill, question: str) -> None:
    store = fill({f"{number}.md": f"hotel the {'w1 w2' if number % 2 else 'is'}" for number in range(20)})
    for value in index_of(store).coverage(query_terms(question), range(1, 21)).values():
        assert 0 <= value <= 1
    assert index_of(store).coverage(query_terms(question), []) == {}


def test_coverage_means_the_same_for_an_empty_store(store: DocumentStore) -> None:
    index = index_of(store)
    assert index.size() == 0
    assert index.search(["hotel"], limit=5, collection="") == {}
    assert index.coverage(["hotel"], []) == {}


def test_enough_rare_words_are_full_coverage_whatever_is_said_beside_them(fill: Fill) -> None:
    rare = " ".join(f"rare{number}" for number in range(12))
    store = fill({"a.md": rare, **{f"{number}.md": "filler text" for number in range(30)}})
    aside = " ".join(f"aside{number}" for number in range(6))
    assert index_of(store).coverage(query_terms(f"{rare} {aside}"), [1])[1] == 1
    assert index_of(store).coverage(query_terms(f"rare1 {aside}"), [1])[1] < 0.3


def test_in_a_large_index_common_terms_are_not_searched_for(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fill({**{f"{number}.md": "common text" for number in range(20)}, "rare.md": "common kumquat"})
    assert len(names(store, "common kumquat", limit=30)) == 21
    monkeypatch.setattr(lexical, "LARGE", 20)
    assert names(store, "common kumquat", limit=30) == ["rare.md"]
    assert len(names(store, "common", limit=30)) == 21  # there is nothing else to search for


def test_frequencies_are_counted_once_a_generation(fill: Fill) -> None:
    store = fill(PAGES)
    kept: dict[tuple[int, str], int] = {}

    def frequency(term: str) -> int:
        return LexicalIndex(store.connections.db, generation=store.generation(), frequencies=kept).frequency(term)

    assert (frequency("hotel"), frequency("hotel"), frequency("submarine")) == (1, 1, 0)
    assert len(kept) == 2
    fill({"more.md": "another hotel"})
    assert frequency("hotel") == 2


def test_threads_may_share_the_frequencies(fill: Fill) -> None:
    store = fill(PAGES)
    kept = {(0, str(number)): 1 for number in range(20_001)}
    failures: list[Exception] = []

    def ask(begin: int) -> None:
        try:
            for number in range(begin, begin + 200):
                index = LexicalIndex(store.connections.db, generation=number % 7, frequencies=kept)
                assert index.coverage(["hotel", "vpn", "bag"], [1, 2, 3])
                kept.update({(0, f"{number}{each}"): 1 for each in range(120)})
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=[begin]) for begin in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
