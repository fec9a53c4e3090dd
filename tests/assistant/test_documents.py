"""The index: what is found, what is skipped, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.documents.store import DocumentStore, query_terms
from feedback.errors import DocumentError

PAGES = {
    "travel/flights.md": "# Flights\n\nFly economy.\n\n## Luggage\n\nOne checked bag of 23 kilograms is included.\n",
    "travel/hotels.md": "# Hotels\n\n## Price limit\n\nA hotel night may cost up to €140 in Eastmere. Breakfast is included.\n",
    "it/vpn.md": "# VPN\n\nCulvert is the VPN client.\n\n## Problems\n\nCall extension 4120 when Culvert drops the connection.\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pages"
    for name, text in PAGES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> DocumentStore:
    documents = DocumentStore(tmp_path / "documents.db")
    documents.add_folder(folder)
    return documents


def test_a_question_finds_the_chunk_that_answers_it(store: DocumentStore) -> None:
    best = store.search("How much may a hotel night cost in Eastmere?", limit=3)[0]
    assert best.document == "travel/hotels.md"
    assert "€140" in best.text
    assert best.title == "Hotels > Price limit"


def test_words_are_found_in_other_forms(store: DocumentStore) -> None:
    assert store.search("dropped connections", limit=1)[0].document == "it/vpn.md"


def test_a_score_is_high_when_the_words_are_there_and_low_when_they_are_not(store: DocumentStore) -> None:
    near = store.search("How heavy may a checked bag be?", limit=1)[0].score
    far = store.search("Does the dental insurance cover checked molars?", limit=1)[0].score
    assert near > 0.33 > far


@pytest.mark.parametrize(
    "question", ['"', "AND OR NOT", "hotel*", "title:hotel", "(((", "—", "'; drop table chunks; --", "NEAR(a b)"]
)
def test_no_question_is_taken_for_query_syntax(store: DocumentStore, question: str) -> None:
    assert isinstance(store.search(question, limit=3), list)
    assert store.paths() == sorted(PAGES)


def test_terms_leave_out_what_carries_no_meaning_but_never_all() -> None:
    assert query_terms("What is the price of a hotel?") == ["price", "hotel"]
    assert query_terms("Who is it?") == ["who", "is", "it"]


def test_an_unchanged_folder_changes_nothing(store: DocumentStore, folder: Path) -> None:
    before = store.index_hash()
    report = store.add_folder(folder)
    assert (report.added, report.changed, report.unchanged, report.removed) == (0, 0, 3, 0)
    assert store.index_hash() == before


def test_a_changed_page_is_a_new_version_and_its_old_text_is_found_no_more(store: DocumentStore, folder: Path) -> None:
    (folder / "travel/hotels.md").write_text("# Hotels\n\nA room may cost up to €155.\n", encoding="utf-8")
    assert store.add_folder(folder).changed == 1
    assert store.page("travel/hotels.md")[2] == 2
    assert not any("€140" in hit.text for hit in store.search("hotel night cost Eastmere breakfast", limit=10))


def test_a_page_that_is_gone_leaves_the_index(store: DocumentStore, folder: Path) -> None:
    (folder / "it/vpn.md").unlink()
    assert store.add_folder(folder).removed == 1
    assert not any(hit.document == "it/vpn.md" for hit in store.search("Culvert VPN extension", limit=10))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\x00\x01binary", "not a text file"), (b"caf\xe9", "not UTF-8")], ids=["binary", "latin-1"]
)
def test_an_unreadable_file_is_reported_and_the_others_are_indexed(
    tmp_path: Path, folder: Path, content: bytes, reason: str
) -> None:
    (folder / "bad.md").write_bytes(content)
    documents = DocumentStore(tmp_path / "other.db")
    report = documents.add_folder(folder)
    assert report.added == 3
    assert len(report.unread) == 1 and reason in report.unread[0] and "bad.md" in report.unread[0]


def test_a_file_that_became_unreadable_keeps_what_was_indexed(store: DocumentStore, folder: Path) -> None:
    (folder / "it/vpn.md").write_bytes(b"\x00")
    report = store.add_folder(folder)
    assert report.unread and not report.removed
    assert store.search("Culvert VPN", limit=1)[0].document == "it/vpn.md"


def test_a_link_that_leads_nowhere_is_passed_over(store: DocumentStore, folder: Path) -> None:
    (folder / "dangling.md").symlink_to(folder / "nowhere.md")
    assert store.add_folder(folder).unchanged == 3


def test_a_missing_folder_is_named(store: DocumentStore, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no documents folder .*gone"):
        store.add_folder(tmp_path / "gone")


def test_a_chunk_opens_at_its_place_in_the_page(store: DocumentStore) -> None:
    for path in store.paths():
        _, text, _ = store.page(path)
        for hit in store.search(text, limit=20):
            if hit.document == path:
                assert hit.text in text


def test_following_chunks_of_the_same_section_are_joined(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "long.md").write_text(
        "# Long\n\n" + "\n\n".join(f"Paragraph {n} about pumps and valves, told at length." * 4 for n in range(6))
    )
    documents = DocumentStore(tmp_path / "documents.db", chunk_chars=300)
    documents.add_folder(folder)
    alone = documents.search("paragraph 2 pumps", limit=1)[0]
    joined = documents.search("paragraph 2 pumps", limit=1, following=1)[0]
    assert joined.text.startswith(alone.text) and len(joined.text) > len(alone.text)
