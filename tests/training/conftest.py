"""Run folders over the tiny random llama: everything a trainer needs, built in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feedback.records import Message
from training.curation import Example
from training.dataset import write_snapshot
from training.preference_rows import Pair, Thumb
from training.recipe import Recipe


@pytest.fixture
def make_run(tmp_path: Path, tiny_base: Path) -> Callable[..., Path]:
    """Make a run folder with `count` rows, and as many pairs and thumbs as asked; recipe settings by keyword."""

    def make(*, name: str = "r0001", count: int = 24, pairs: int = 0, ups: int = 0, downs: int = 0, **settings: Any) -> Path:
        run = tmp_path / name
        run.mkdir()
        examples = [
            Example(
                id=f"e{index}",
                prompt=(
                    Message(role="system", content="Answer from the passages."),
                    Message(
                        role="user", content=f"[1] Room {index} holds {index * 7} chairs.{' Quiet.' * (index % 5)}\n\nHow many?"
                    ),
                ),
                completion=f"{index * 7} chairs [1]",
                source="correction",
                turn_id=f"t{index}",
                user_id="u1",
                weight=1.0,
            )
            for index in range(count)
        ]
        better = [
            Pair(id=f"p{index}", prompt=examples[index].prompt, chosen=examples[index].completion, rejected=f"{index} tables")
            for index in range(pairs)
        ]
        thumbs = [
            Thumb(id=f"k{index}", prompt=examples[index].prompt, completion=f"{index} chairs", label=index < ups)
            for index in range(ups + downs)
        ]
        write_snapshot(examples, run / "dataset", pairs=better, thumbs=thumbs)
        defaults: dict[str, Any] = {"compute_dtype": "float32", "dequantised": "keep", "threads": 1, "nice": 0, "rank": 4}
        recipe = Recipe(base=str(tiny_base), base_name="tiny-llama", **{**defaults, **settings})
        (run / "config.json").write_text(recipe.to_json(), "utf-8")
        return run

    return make
