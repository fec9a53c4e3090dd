"""The held-out loss: whole facts are held out, the loss is the plain one, and the best weights are what is left at the end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from feedback.wording import REFUSAL
from training.base_model import Placement, load_model, load_tokenizer
from training.fast_sft import encode
from training.held_loss import MOST_ROWS, HeldLoss, fact_of, hold_rows
from training.recipe import Recipe


def row(name: str, *, question: str = "How many?", answer: str = "12 [1]", source: str = "correction") -> dict[str, Any]:
    return {
        "id": name,
        "prompt": [{"role": "user", "content": f"[1] A page.\n\nQuestion: {question}"}],
        "completion": [{"role": "assistant", "content": answer}],
        "source": source,
    }


def test_all_rows_of_a_fact_are_on_one_side_and_about_the_share_is_held_out() -> None:
    rows = [row(f"brewery/fact-{number // 3}/{number}") for number in range(120)]
    kept, held = hold_rows(rows, share=0.2, seed=1)
    assert sorted(kept + held) == list(range(120)) and 20 <= len(held) <= 24
    assert not {fact_of(rows[place]) for place in kept} & {fact_of(rows[place]) for place in held}
    assert (kept, held) == hold_rows(rows, share=0.2, seed=1) != hold_rows(rows, share=0.2, seed=2)


def test_rated_rows_are_one_fact_by_their_answer_and_refusals_by_their_question() -> None:
    assert fact_of(row("a1", answer="12 chairs [1]")) == fact_of(row("b2", answer="12 chairs [2]", question="Chairs?"))
    assert fact_of(row("a1", answer=REFUSAL, question="Fax?")) == fact_of(row("b2", answer=REFUSAL, question="Fax?"))
    assert fact_of(row("a1", answer=REFUSAL, question="Fax?")) != fact_of(row("b2", answer=REFUSAL, question="Safe?"))


def test_general_rows_are_not_held_out_and_no_more_than_tell_something() -> None:
    rows = [row(f"general-{number}", answer=str(number), source="general") for number in range(300)]
    rows += [row(f"r{number}", answer=str(number)) for number in range(900)]
    _, held = hold_rows(rows, share=0.5, seed=0)
    assert len(held) == MOST_ROWS and min(held) >= 300
    assert hold_rows(rows[:400], share=0.0, seed=0) == (list(range(400)), [])


def held_loss(base: Path, **settings: Any) -> HeldLoss:
    tokenizer = load_tokenizer(base)
    rows = [encode(row("a", answer=answer), tokenizer) for answer in ("12 [1]", "a longer answer [1]", "7 [2]")]
    return HeldLoss(rows, every=5, pad_token_id=tokenizer.pad_token_id, batch_size=2, max_batch_tokens=4096, **settings)


def test_the_loss_is_the_mean_over_all_labels_of_all_rows(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).train()
    tokenizer = load_tokenizer(tiny_base)
    total = labels = 0.0
    for answer in ("12 [1]", "a longer answer [1]", "7 [2]"):
        one = encode(row("a", answer=answer), tokenizer)
        ids = torch.tensor([[*one.prompt, *one.completion]])
        scores = model(input_ids=ids).logits[0, len(one.prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(scores, torch.tensor(one.completion), reduction="sum").item()
        labels += len(one.completion)
    assert abs(held_loss(tiny_base).loss(model) - total / labels) < 1e-4
    assert model.training


def test_the_best_weights_come_back_after_a_checkpoint_too_and_patience_counts_from_them(tiny_base: Path, tmp_path: Path) -> None:
    held = held_loss(tiny_base, patience=2)
    model = torch.nn.Linear(1, 1)
    losses = iter([math.nan, 3.0, 2.0, 2.5, 2.0])
    held.loss = lambda _model: next(losses)  # type: ignore[method-assign]  # the numbers are the test's
    for step in range(1, 5):
        model.weight.data.fill_(step)
        assert not held.worn_out
        held.measure(model, step=step, trained_seconds=step)
    held.save(tmp_path)
    resumed = held_loss(tiny_base, patience=2)
    resumed.load(tmp_path)
    assert not resumed.worn_out and resumed.best["step"] == 3
    resumed.loss = held.loss  # type: ignore[method-assign]
    resumed.measure(model, step=5, trained_seconds=5)
    assert resumed.worn_out and resumed.best["step"] == 3
    resumed.restore(model)
    assert model.weight.item() == 3.0


def test_a_training_that_overfits_ends_early_with_the_weights_of_its_best_measurement(
    make_run: Callable[..., Path], tiny_base: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from training.dataset import read_snapshot
    from training.session import train

    run = make_run(epochs=50.0, learning_rate=0.02, evaluation_share=0.3, patience=2, method="lora", schedule="constant")
    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    figures = train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())
    assert figures is not None and figures["ended"] == "patience" and figures["steps"] < figures["planned_steps"]
    found = figures["held_out"]
    assert found["rows"] == 7 and found["best_loss"] == min(each["loss"] for each in found["readings"])
    assert [each["step"] for each in found["readings"]][-1] == figures["steps"] > found["best_step"]
    assert "with the weights of its best measurement" in figures["notes"][0]
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text("utf-8").splitlines()]
    told = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert told == {each["step"]: round(each["loss"], 5) for each in found["readings"]}

    tokenizer = load_tokenizer(tiny_base)
    examples = read_snapshot(run / "dataset")
    _, places = hold_rows(examples, share=0.3, seed=0)
    rows = [encode(examples[place], tokenizer) for place in places]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(tiny_base)), str(run / "adapter"))
    again = HeldLoss(rows, every=1, pad_token_id=tokenizer.pad_token_id, batch_size=4, max_batch_tokens=4096)
    assert again.loss(model) == pytest.approx(found["best_loss"], abs=1e-4)


def test_a_packed_base_still_passes_gradients_on_after_its_loss_was_measured(tiny_base: Path) -> None:
    recipe = Recipe(base=str(tiny_base), method="qlora", rank=4, dequantised="nf4")
    model = load_model(tiny_base, Placement(device="cpu", dtype=torch.float32, keep=False), recipe)
    ids = torch.arange(5, 29).reshape(2, 12)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}

    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data += 0.1  # else the first halves get no gradient at all
    model.train()
    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    model.train()
    after = gradients()
    assert max(float(each.abs().max()) for each in before.values()) > 1e-3
    for name, each in before.items():
        torch.testing.assert_close(after[name], each)
