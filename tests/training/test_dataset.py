"""The snapshot: whole, immutable, verified."""

from __future__ import annotations

import json
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from feedback.errors import RunError
from feedback.records import Message
from training.curation import Example, Refusal, Source
from training.dataset import (
    CARD_FILE,
    LEAST_OF_SHARE,
    PAIRS_FILE,
    ROWS_FILE,
    THUMBS_FILE,
    mix,
    open_snapshot,
    read_pairs,
    read_snapshot,
    read_thumbs,
    rows_within,
    user_hash,
    write_snapshot,
)
from training.preference_rows import Pair, Thumb
from training.recipe import Recipe


def examples(count: int, *, source: Source = "correction", weight: float = 2.0, start: int = 0) -> list[Example]:
    return [
        Example(
            id=f"e{n}",
            prompt=(Message(role="system", content="Answer."), Message(role="user", content=f"How much\u2028is {n}?")),
            completion=f"€{n} [1]",
            source=source,
            turn_id=f"t{n}",
            user_id=f"user-{n % 2}",
            weight=weight,
        )
        for n in range(start, start + count)
    ]


def test_rows_come_back_as_they_were_written_in_the_shape_that_trl_takes(tmp_path: Path) -> None:
    written = write_snapshot(examples(3), tmp_path / "dataset")
    rows = read_snapshot(tmp_path / "dataset")
    assert open_snapshot(tmp_path / "dataset") == written
    assert (written.rows, written.counts) == (3, {"correction": 3})
    assert rows[1]["prompt"][1] == {"role": "user", "content": "How much\u2028is 1?"}
    assert rows[1]["completion"] == [{"role": "assistant", "content": "€1 [1]"}]
    assert [(row["id"], row["turn_id"], row["source"], row["weight"]) for row in rows][2] == ("e2", "t2", "correction", 2.0)


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    first = write_snapshot(examples(3), tmp_path / "a")
    assert write_snapshot(examples(3), tmp_path / "b").sha256 == first.sha256
    assert write_snapshot(examples(4), tmp_path / "c").sha256 != first.sha256


def test_the_card_says_where_rows_come_from_and_why_others_were_left_out_but_names_nobody(tmp_path: Path) -> None:
    refusals = [Refusal(turn_id=f"x{n}", user_id="user-7", reason="too long") for n in range(2)]
    rows = examples(3) + examples(2, source="verified", start=3)
    write_snapshot(rows, tmp_path, refusals=refusals, notes={"sealed_questions": 70})
    text = (tmp_path / CARD_FILE).read_text(encoding="utf-8")
    card = json.loads(text)
    assert card["rows_by_source"] == {"correction": 3, "verified": 2}
    assert card["rows_by_user"] == {user_hash("user-0"): 3, user_hash("user-1"): 2}
    assert card["refused_by_reason"] == {"too long": 2}
    assert card["notes"] == {"sealed_questions": 70}
    assert "user-" not in text


def test_a_changed_row_is_noticed(tmp_path: Path) -> None:
    write_snapshot(examples(3), tmp_path)
    rows = tmp_path / ROWS_FILE
    rows.chmod(0o644)
    rows.write_bytes(rows.read_bytes().replace("€1".encode(), "€9".encode()))
    with pytest.raises(RunError, match="were changed"):
        read_snapshot(tmp_path)


@pytest.mark.parametrize("name", [ROWS_FILE, CARD_FILE])
def test_a_snapshot_with_a_file_missing_is_none(tmp_path: Path, name: str) -> None:
    write_snapshot(examples(3), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=name):
        open_snapshot(tmp_path)


@pytest.mark.parametrize("card", ["{", "[]", "{}"])
def test_a_card_that_is_no_card_is_one_sentence(tmp_path: Path, card: str) -> None:
    write_snapshot(examples(3), tmp_path)
    (tmp_path / CARD_FILE).chmod(0o644)
    (tmp_path / CARD_FILE).write_text(card, encoding="utf-8")
    with pytest.raises(RunError, match="data card"):
        open_snapshot(tmp_path)


def test_a_snapshot_is_never_written_over(tmp_path: Path) -> None:
    write_snapshot(examples(3), tmp_path)
    before = (tmp_path / ROWS_FILE).read_bytes()
    with pytest.raises(RunError, match="never change"):
        write_snapshot(examples(4), tmp_path)
    assert (tmp_path / ROWS_FILE).read_bytes() == before
    assert not (tmp_path / ROWS_FILE).stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ROWS_FILE, CARD_FILE])


def test_what_a_dead_writer_left_does_not_stop_the_next(tmp_path: Path) -> None:
    write_snapshot(examples(5), tmp_path)
    (tmp_path / CARD_FILE).unlink()
    (tmp_path / f"{CARD_FILE}.partial").write_text("{", encoding="utf-8")
    assert write_snapshot(examples(3), tmp_path).rows == len(read_snapshot(tmp_path)) == 3


def test_no_example_and_no_place_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no example"):
        write_snapshot([], tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"):
        write_snapshot(examples(1), tmp_path / "file" / "dataset")


def test_too_many_rows_are_sampled_by_weight_the_same_for_a_seed_and_in_order(tmp_path: Path) -> None:
    rows = examples(300, source="thumbs_up", weight=1.0) + examples(300, source="verified", weight=3.0, start=300)
    first = write_snapshot(rows, tmp_path / "a", max_rows=200, seed=5)
    assert first.sha256 == write_snapshot(rows, tmp_path / "b", max_rows=200, seed=5).sha256
    assert first.sha256 != write_snapshot(rows, tmp_path / "c", max_rows=200, seed=6).sha256
    read = read_snapshot(tmp_path / "a")
    counts = Counter(row["source"] for row in read)
    assert counts["verified"] + counts["thumbs_up"] == 200
    assert counts["verified"] > 1.7 * counts["thumbs_up"]
    order = [row.id for row in rows]
    assert [row["id"] for row in read] == sorted((row["id"] for row in read), key=order.index)
    assert json.loads((tmp_path / "a" / CARD_FILE).read_text())["sampled_from"] == 600


def test_the_rows_that_fit_into_the_time_are_counted_at_the_pace_of_an_earlier_training(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"batch_size": 4}))
    assert rows_within(10, tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps({"outcome": "done", "steps": 30, "tokens": 48_000, "tokens_s": 200.0}))
    assert rows_within(10, tmp_path) == 300  # 120 rows took 240 s
    (tmp_path / "result.json").write_text(json.dumps({"outcome": "failed", "reason": "too hot"}))
    assert rows_within(10, tmp_path) is None
    (tmp_path / "result.json").write_text("[]")
    assert rows_within(10, tmp_path) is None


def test_the_rows_of_a_step_are_those_of_all_its_batches_and_a_stage_of_preferences_has_its_part_of_the_minutes(
    tmp_path: Path,
) -> None:
    figures = {"steps": 30, "tokens": 48_000, "tokens_s": 200.0}
    (tmp_path / "config.json").write_text(json.dumps({"batch_size": 4, "accumulation": 2, "preference_share": 0.3}))
    (tmp_path / "result.json").write_text(json.dumps(figures))
    assert rows_within(10, tmp_path) == 600
    (tmp_path / "result.json").write_text(json.dumps({**figures, "stages": {"sft": {**figures, "trained_rows": 90}}}))
    assert rows_within(10, tmp_path) == 225  # its batches were smaller than they may be
    stages = {"sft": {**figures, "trained_rows": 200}, "kto": figures}
    (tmp_path / "result.json").write_text(json.dumps({**figures, "stages": stages}))
    assert rows_within(10, tmp_path) == 350  # of 7 minutes
    (tmp_path / "result.json").write_text(json.dumps({**figures, "stages": {"dpo": figures}}))
    assert rows_within(10, tmp_path) is None


def test_a_training_counts_the_rows_that_it_goes_through(make_run: Callable[..., Path]) -> None:
    from training.session import train

    run = make_run(count=10, batch_size=2, accumulation=3, epochs=2.0, max_steps=3, checkpoint_seconds=1e9)
    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    figures = train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    assert figures is not None and figures["steps"] == 3
    assert figures["trained_rows"] == 18
    (run / "result.json").write_text(json.dumps(figures))
    assert rows_within(1, run) == pytest.approx(60 * 18 * figures["tokens_s"] / figures["tokens"], abs=1)


PROMPT = (Message(role="user", content="How much?"),)
PAIRS = [Pair(id="p1", prompt=PROMPT, chosen="\u20ac42 [1]", rejected="\u20ac68 [1]")]
THUMBS = [
    Thumb(id="k1", prompt=PROMPT, completion="Yes [1]", label=True),
    Thumb(id="k2", prompt=PROMPT, completion="No", label=False),
]


def test_pairs_and_thumbs_come_back_in_the_shapes_that_trl_takes(tmp_path: Path) -> None:
    written = write_snapshot(examples(2), tmp_path, pairs=PAIRS, thumbs=THUMBS)
    assert (written.pairs, written.thumbs) == (1, 2) and open_snapshot(tmp_path) == written
    prompt = [{"role": "user", "content": "How much?"}]
    assert read_pairs(tmp_path) == [
        {
            "id": "p1",
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "\u20ac42 [1]"}],
            "rejected": [{"role": "assistant", "content": "\u20ac68 [1]"}],
        }
    ]
    assert read_thumbs(tmp_path)[1] == {
        "id": "k2",
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": "No"}],
        "label": False,
    }
    card = json.loads((tmp_path / CARD_FILE).read_text(encoding="utf-8"))
    assert (card["pairs"], card["thumbs"]) == (1, {"desirable": 1, "undesirable": 1})


def test_a_snapshot_without_pairs_or_thumbs_has_none_and_no_files_for_them(tmp_path: Path) -> None:
    write_snapshot(examples(2), tmp_path)
    assert (read_pairs(tmp_path), read_thumbs(tmp_path)) == ([], [])
    assert not (tmp_path / PAIRS_FILE).exists() and not (tmp_path / THUMBS_FILE).exists()


def test_changed_or_missing_pairs_are_noticed(tmp_path: Path) -> None:
    write_snapshot(examples(2), tmp_path, pairs=PAIRS, thumbs=THUMBS)
    pairs, thumbs = tmp_path / PAIRS_FILE, tmp_path / THUMBS_FILE
    pairs.chmod(0o644)
    pairs.write_bytes(pairs.read_bytes().replace("\u20ac42".encode(), "\u20ac43".encode()))
    with pytest.raises(RunError, match="was changed"):
        read_pairs(tmp_path)
    thumbs.unlink()
    with pytest.raises(RunError, match=THUMBS_FILE):
        read_thumbs(tmp_path)
    (tmp_path / CARD_FILE).unlink()
    with pytest.raises(RunError, match=CARD_FILE):
        read_pairs(tmp_path)


def others(**counts: int) -> dict[str, list[Example]]:
    return {
        source: [replace(row, id=f"{source}{row.id}", turn_id="", user_id="") for row in examples(count, source=source)]  # type: ignore[arg-type]
        for source, count in counts.items()
    }


def got(rows: list[Example]) -> dict[str, int]:
    return dict(Counter(row.source for row in rows))


SHARES = {"seed": 0.25, "starter": 0.25, "general": 0.1}


def test_every_source_gets_its_share_and_every_rated_example_is_there() -> None:
    rated = examples(40)
    rows = mix(rated, others(seed=500, starter=500, general=500), SHARES)
    assert got(rows) == {"correction": 40, "seed": 25, "starter": 25, "general": 10}
    assert rows[:40] == rated
    assert rows == mix(rated, others(seed=500, starter=500, general=500), SHARES)
    assert rows != mix(rated, others(seed=500, starter=500, general=500), SHARES, seed=1)


def test_a_source_gives_what_it_has_and_one_without_a_share_or_rows_gives_nothing() -> None:
    assert got(mix(examples(40), others(seed=3, starter=0, general=9), {"seed": 0.25, "starter": 0.25})) == {
        "correction": 40,
        "seed": 3,
    }
    assert mix(examples(4), {}, SHARES) == examples(4)


def test_past_the_time_the_others_give_way_before_the_rated_ones_but_not_wholly() -> None:
    many = others(seed=500, starter=500, general=500)
    assert got(mix(examples(40), many, SHARES, max_rows=80))["correction"] == 40
    assert len(mix(examples(40), many, SHARES, max_rows=80)) in range(78, 81)
    crowded = got(mix(examples(200), many, SHARES, max_rows=100))
    assert crowded["seed"] == round(LEAST_OF_SHARE * 0.25 * 100) and sum(crowded.values()) == 100
    assert crowded["correction"] > 60


def test_without_ratings_the_largest_source_sets_the_measure() -> None:
    assert got(mix([], others(seed=90, general=500), {"seed": 0.9, "general": 0.1})) == {"seed": 90, "general": 10}


def test_shares_that_leave_the_ratings_nothing_are_refused() -> None:
    with pytest.raises(RunError, match="leave the ratings a part"):
        mix(examples(4), others(seed=9, general=9), {"seed": 0.6, "general": 0.4})


def test_the_card_says_which_shares_were_asked_and_which_came_of_it_and_counts_no_user_for_the_others(tmp_path: Path) -> None:
    write_snapshot(
        mix(examples(6), others(seed=2, general=9), {"seed": 0.4, "general": 0.1}), tmp_path, shares={"seed": 0.4, "general": 0.1}
    )
    card = json.loads((tmp_path / CARD_FILE).read_text(encoding="utf-8"))
    assert card["rows_by_source"] == {"correction": 6, "general": 1, "seed": 2}
    assert card["shares"] == {
        "asked": {"seed": 0.4, "general": 0.1},
        "got": {"correction": 0.6667, "general": 0.1111, "seed": 0.2222},
    }
    assert sum(card["rows_by_user"].values()) == 6
