"""From a question to messages: the budget, the history, the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.hardware import PromptLimits, prompt_limits
from assistant.library import Library
from assistant.prompt import (
    BIAS_LIMIT,
    BIAS_POINT,
    INSTRUCTIONS,
    LINES_POINT,
    Prepared,
    PromptBuilder,
    nearness,
    passage_of,
    refusal_bias,
    request_of,
)
from assistant.retrieval.encoder import Encoded
from assistant.retrieval.lines import LineReader
from feedback.errors import QuestionError
from feedback.records import Message, Passage
from feedback.wording import REFUSAL


def words(messages: Sequence[Message]) -> int:
    return sum(len(message.content.split()) + 4 for message in messages)


@pytest.fixture
def documents(tmp_path: Path) -> Library:
    folder = tmp_path / "pages"
    folder.mkdir()
    for name in ("parking", "canteen", "library", "garage"):
        (folder / f"{name}.md").write_text(
            f"# The {name}\n\n" + f"The {name} permit costs \u20ac12 a month and {name} keys hang at the gate. " * 6
        )
    library = Library(tmp_path / "documents.db", encoder="none")
    library.add_folder(folder)
    return library


def builder(documents: Library, *, tokens: int = 400, passages: int = 3, threshold: float = 0.33) -> PromptBuilder:
    return PromptBuilder(
        documents, words, limits=PromptLimits(tokens=tokens, passages=passages, following=0), threshold=threshold
    )


def test_passages_are_numbered_and_the_question_comes_last(documents: Library) -> None:
    prepared = builder(documents).prepare("What does a parking permit cost?")
    assert [passage.number for passage in prepared.passages] == list(range(1, len(prepared.passages) + 1))
    assert prepared.messages[0].content == INSTRUCTIONS
    assert prepared.messages[-1].content.endswith("Question: What does a parking permit cost?")
    for passage in prepared.passages:
        assert f"[{passage.number}] {passage.title}\n{passage.text}" in prepared.messages[-1].content


def test_passages_found_without_vectors_stay_whole_and_the_encoder_is_not_asked_again(tmp_path: Path) -> None:
    library = Library(tmp_path / "documents.db", encoder="minilm")
    (tmp_path / "gate.md").write_text(
        "# The gate\n\nA permit for the gate costs \u20ac12.\n\nDeliveries ring twice at the gate.\n"
    )
    library.add([tmp_path])  # not encoded yet, as with an encoder that cannot be loaded
    limits = PromptLimits(tokens=400, passages=3, following=0, lines=1)
    question = "What does a permit for the gate cost?"
    found = library.search(question, limit=3)
    assert found and "dense" not in found[0].scores
    library._line_reader = LineReader(Refusing())
    passages = [passage_of(1, found[0])]
    assert library.focused(passages, question, limits.lines) == tuple(passages)


class Refusing:
    """An encoder that must not be asked."""

    name, max_tokens = "refusing", 10

    def encode(self, texts: Sequence[str], *, telling: bool, asked: bool = False) -> Encoded:
        raise AssertionError("the encoder was asked")


def test_the_closest_line_bears_on_the_refusal_where_it_is_known() -> None:
    def passage(score: float, line: float | None) -> Passage:
        scores = {"dense": score} if line is None else {"dense": score, "line": line}
        return Passage(
            number=1, document="a.md", document_version=1, chunk_id=1, title="A", text="A.", score=score, scores=scores
        )

    assert nearness([passage(0.5, None)]) == 0.5 and nearness([passage(0.5, 0.9), passage(0.6, 0.2)]) == pytest.approx(0.8)
    assert refusal_bias([passage(0.4, None)]) == 0 == refusal_bias([passage(LINES_POINT, LINES_POINT)])
    assert refusal_bias([passage(0.45, 0.3)]) > 0 > refusal_bias([passage(0.45, 0.7)])  # the same passage, another line


def test_a_small_model_reads_the_closest_lines_and_the_passages_are_kept_whole(tmp_path: Path) -> None:
    (tmp_path / "gate.md").write_text(
        "# The gate\n\nThe gate is painted green, as it has been for longer than anybody remembers.\n\n"
        "A parking permit for the yard behind the gate costs €12 a month.\n\n"
        "Deliveries ring twice and wait until somebody comes down from the second floor.\n"
    )
    library = Library(tmp_path / "documents.db", encoder="minilm")
    library.add_folder(tmp_path)
    limits = PromptLimits(tokens=400, passages=3, following=0, lines=1)
    question = "What does a parking permit cost?"
    (passage,) = PromptBuilder(library, words, limits=limits).prepare(question).passages
    assert passage.excerpt == "A parking permit for the yard behind the gate costs €12 a month."
    assert passage.excerpt in passage.text and "Deliveries" in passage.text
    prompt = PromptBuilder(library, words, limits=limits).prepare(question).messages[-1].content
    assert passage.excerpt in prompt and "Deliveries" not in prompt and "green" not in prompt
    whole = PromptBuilder(library, words, limits=replace(limits, lines=0)).prepare(question)
    assert whole.passages[0].excerpt == "" and "Deliveries" in whole.messages[-1].content


@pytest.mark.parametrize("tokens", [150, 250, 400])
def test_a_prompt_stays_within_its_budget(documents: Library, tokens: int) -> None:
    prepared = builder(documents, tokens=tokens, passages=8).prepare("permit costs keys gate")
    assert words(prepared.messages) <= tokens
    assert prepared.passages


def test_a_larger_budget_holds_more_passages(documents: Library) -> None:
    small = builder(documents, tokens=200, passages=8).prepare("permit costs keys gate")
    large = builder(documents, tokens=900, passages=8).prepare("permit costs keys gate")
    assert len(large.passages) > len(small.passages)


def test_one_passage_is_kept_however_small_the_budget(documents: Library) -> None:
    assert len(builder(documents, tokens=1).prepare("parking permit").passages) == 1


def test_a_question_far_from_the_documents_calls_no_model(documents: Library) -> None:
    prepared = builder(documents).prepare("Which dental molars does our submarine insurance cover?")
    assert prepared.refused and prepared.messages == ()


def test_the_threshold_is_the_least_score_that_is_answered(documents: Library) -> None:
    question = "What does a parking permit for helicopters cost?"
    score = max(passage.score for passage in builder(documents, threshold=0).prepare(question).passages)
    assert not builder(documents, threshold=score).prepare(question).refused
    assert builder(documents, threshold=min(1.0, score + 0.01)).prepare(question).refused


def test_an_empty_index_refuses(tmp_path: Path) -> None:
    assert builder(Library(tmp_path / "empty.db", encoder="none")).prepare("parking permit").refused


def test_history_is_in_the_prompt_without_its_citations(documents: Library) -> None:
    past = (Message(role="user", content="Where are the keys?"), Message(role="assistant", content="At the gate [2]."))
    prepared = builder(documents).prepare("And what does the parking permit cost?", past)
    assert [message.content for message in prepared.messages[1:3]] == ["Where are the keys?", "At the gate ."]


def test_old_history_is_dropped_before_the_passages_are(documents: Library) -> None:
    past = [Message(role=role, content="word " * 60) for _ in range(5) for role in ("user", "assistant")]
    prepared = builder(documents).prepare("parking permit", past)
    assert prepared.messages[1].role == "user" and len(prepared.messages) == 2
    assert prepared.passages


def test_a_follow_up_is_searched_with_what_it_leaves_unsaid_and_asked_as_it_is(documents: Library) -> None:
    past = (Message(role="user", content="What does a garage permit cost a month?"), Message(role="assistant", content="12."))
    prepared = builder(documents).prepare("And the keys?", past)
    assert prepared.passages[0].document == "garage.md"
    assert prepared.searched == "What does a garage permit cost a month? And the keys?"
    assert prepared.messages[-1].content.endswith("Question: And the keys?")
    assert builder(documents).prepare("Where do the canteen permit keys hang?", past).searched == ""


def test_a_query_that_was_written_for_a_question_is_searched_instead_of_it(documents: Library) -> None:
    prepared = builder(documents).prepare("And there?", query="canteen permit")
    assert (prepared.passages[0].document, prepared.searched) == ("canteen.md", "canteen permit")
    assert prepared.messages[-1].content.endswith("Question: And there?")


def test_a_collection_is_searched_alone_and_named(documents: Library, tmp_path: Path) -> None:
    (tmp_path / "branch.md").write_text("# Branch\n\nThe branch parking permit costs 5 euros.\n")
    documents.add([tmp_path / "branch.md"], collection="branch")
    prepared = builder(documents).prepare("What does a parking permit cost?", collection="branch")
    assert {(passage.collection, passage.document) for passage in prepared.passages} == {("branch", "branch.md")}
    assert prepared.collection == "branch"


def test_a_passage_says_where_it_stands(documents: Library) -> None:
    passage = builder(documents).prepare("What does a parking permit cost?").passages[0]
    text = documents.store.document(passage.document, version=passage.document_version).text
    assert text[passage.start : passage.end] == passage.text
    assert (passage.collection, passage.page) == ("main", None)
    assert passage.scores["coverage"] == passage.score


@pytest.mark.parametrize(("question", "said"), [("", "empty"), (" \n ", "empty"), ("x" * 10_000, "10,000 characters")])
def test_a_question_that_cannot_be_asked_is_refused_in_a_sentence(documents: Library, question: str, said: str) -> None:
    with pytest.raises(QuestionError, match=said):
        builder(documents).prepare(question)


def test_the_model_is_taught_the_sentence_that_the_chat_says() -> None:
    assert REFUSAL in INSTRUCTIONS


def test_more_cores_mean_a_larger_prompt_and_settings_win() -> None:
    sizes = [prompt_limits(core_count=count, cuda=False).tokens for count in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes) and sizes[1] == 400
    assert prompt_limits(core_count=2, cuda=True).tokens > sizes[-1]
    assert prompt_limits(core_count=2, cuda=False, tokens=123, passages=7) == PromptLimits(tokens=123, passages=7, following=0)


def test_a_question_asks_the_collection_that_it_names(documents: Library, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "parking.md").write_text("# Parking abroad\n\nA parking permit abroad costs \u20ac99 a month.\n")
    documents.add_folder(other, collection="abroad")
    question = "What does a parking permit cost?"
    assert {each.collection for each in builder(documents).prepare(question).passages} == {"main", "abroad"}
    asked = builder(documents).prepare(question, collection="abroad")
    assert {each.collection for each in asked.passages} == {"abroad"} and asked.collection == "abroad"


def found(score: float, *, by_meaning: bool = True) -> Passage:
    scores = {"dense": score} if by_meaning else {}
    return Passage(number=1, document="d", document_version=1, chunk_id=1, title="t", text="x", score=score, scores=scores)


def test_the_better_the_best_passage_the_less_likely_a_refusal_begins_within_limits() -> None:
    scores = (0.1, BIAS_POINT - 0.1, BIAS_POINT, BIAS_POINT + 0.1, 0.9)
    biases = [refusal_bias([found(0.0), found(score)]) for score in scores]
    assert biases == sorted(biases, reverse=True) and biases[2] == 0
    assert max(map(abs, biases)) <= BIAS_LIMIT
    assert refusal_bias([found(0.9, by_meaning=False)]) == 0 == refusal_bias([])


def test_the_engine_is_asked_with_the_bias_of_the_passages() -> None:
    prepared = Prepared(question="?", messages=(Message(role="user", content="?"),), passages=(found(0.9),))
    request = request_of(prepared, max_tokens=7)
    assert (request.opening, request.opening_bias, request.max_tokens) == (REFUSAL, refusal_bias(prepared.passages), 7)
