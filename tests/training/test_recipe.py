"""The recipe: a round trip, and every fault named at once."""

from __future__ import annotations

import json

import pytest

from feedback.errors import SettingsError
from training.recipe import Recipe


def test_a_recipe_survives_its_json() -> None:
    recipe = Recipe(base="models/small", minutes=12.5, max_steps=3, compute_dtype="bfloat16", learning_rate=1e-4)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_every_unknown_missing_or_mistyped_key_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Recipe.from_json(json.dumps({"rang": 8, "rank": "8", "epochs": True}))
    for part in ("'rang'", "'base' is missing", "rank is '8'", "epochs is True"):
        assert part in str(caught.value)


def test_numbers_that_no_training_can_use_are_refused_together() -> None:
    with pytest.raises(SettingsError, match=r"rank is 0.*minutes is -1.*dropout is 1.*dequantised is 'fast'"):
        Recipe(base="b", rank=0, minutes=-1, dropout=1.0, dequantised="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_what_is_no_recipe_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(SettingsError, match="training recipe is"):
        Recipe.from_json(text)


def test_a_whole_number_is_a_good_float_and_null_means_left_out() -> None:
    recipe = Recipe.from_json('{"base": "b", "epochs": 2, "minutes": null}')
    assert recipe.epochs == 2 and recipe.minutes is None
