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


def test_lists_and_yes_or_no_survive_the_json_and_a_wrong_kind_is_named() -> None:
    recipe = Recipe(base="b", upper_layers=8, keep_activations=True, report_to=("tensorboard",), method="dora", start="old")
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(SettingsError) as caught:
        Recipe.from_json('{"base": "b", "keep_activations": 1, "report_to": "wandb", "patience": true}')
    for part in ("keep_activations is 1: it must be bool", "report_to is 'wandb': it must be a list", "patience is True"):
        assert part in str(caught.value)


def test_words_outside_the_choices_and_halves_of_a_pair_of_settings_are_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        Recipe(base="b", method="pissa", report_to=("mlflow",), keep_activations=True, patience=3, weight_decay=-1)  # type: ignore[arg-type]
    for part in ("method is 'pissa'", "'mlflow'", "without upper_layers", "without evaluation_share", "weight_decay is -1"):
        assert part in str(caught.value)
