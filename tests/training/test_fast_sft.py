"""Rows, batches and the loss: nothing is cut, every row comes once an epoch, and the loss is the plain one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from feedback.errors import RunError
from training.base_model import Placement, load_model, load_tokenizer, speed_up
from training.fast_sft import PADDED_TO, Row, collate, encode, labelled, labels_loss, plan_batches, refuse_long
from training.recipe import Recipe

EXAMPLE = {
    "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How many chairs?"}],
    "completion": [{"role": "assistant", "content": "12 chairs [1]"}],
}


def padded_rows(tiny_base: Path) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    tokenizer = load_tokenizer(tiny_base)
    longer = {**EXAMPLE, "prompt": [{"role": "user", "content": "How many chairs are there in the room under the roof?"}]}
    rows = [encode(example, tokenizer) for example in (EXAMPLE, longer)]
    batch = collate([labelled(row, number=number) for number, row in enumerate(rows)], pad_token_id=tokenizer.pad_token_id)
    width = batch["input_ids"].shape[1]
    mask = torch.tensor([[1] * row.length + [0] * (width - row.length) for row in rows])
    assert rows[0].length != rows[1].length
    return tokenizer, batch, mask


def test_a_prompt_is_encoded_as_it_is_served_and_the_completion_ends_the_turn(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    row = encode(EXAMPLE, tokenizer)
    served = tokenizer.apply_chat_template(EXAMPLE["prompt"], add_generation_prompt=True, return_dict=False)
    assert list(row.prompt) == served
    assert tokenizer.decode(row.completion) == "12 chairs [1]<|im_end|>"


def test_a_template_that_never_ends_a_turn_is_refused(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    with pytest.raises(RunError, match="never ends a turn"):
        encode(EXAMPLE, tokenizer)


def test_rows_that_are_too_long_are_refused_by_number_and_length() -> None:
    rows = [Row(prompt=(1,) * 10, completion=(2,)), Row(prompt=(1,) * 90, completion=(2,) * 20)]
    refuse_long(rows, max_length=110)
    with pytest.raises(RunError, match=r"1 of 2 examples are longer than 109 tokens \(row 1 first; the longest has 110\)"):
        refuse_long(rows, max_length=109)


def test_every_row_comes_once_an_epoch_within_the_limits() -> None:
    lengths = [50 + (37 * row) % 300 for row in range(101)]
    batches = plan_batches(lengths, batch_size=4, max_batch_tokens=900, epochs=2.0, seed=3)
    half = next(at for at in range(len(batches)) if sum(map(len, batches[:at])) == 101)
    first, second = batches[:half], batches[half:]
    for epoch in (first, second):
        assert Counter(row for batch in epoch for row in batch) == Counter(range(101))
    assert all(len(batch) <= 4 and len(batch) * max(lengths[row] for row in batch) <= 900 for batch in batches)
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))


def test_batches_hold_little_padding_and_their_order_is_shuffled() -> None:
    lengths = [50 + (37 * row) % 300 for row in range(100)]
    batches = plan_batches(lengths, batch_size=4, max_batch_tokens=4000, epochs=1.0, seed=0)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_batches_come_in_few_sizes_that_the_allocator_can_use_again() -> None:
    rows = [Row(prompt=(1,) * (length - 2), completion=(2, 3)) for length in range(60, 380)]
    widths = [collate([labelled(row, number=0)], pad_token_id=0)["input_ids"].shape[1] for row in rows]
    assert all(row.length <= width < row.length + PADDED_TO for row, width in zip(rows, widths, strict=True))
    assert len(set(widths)) <= 320 / PADDED_TO + 1
    lengths = [200] * 30
    batches = plan_batches(lengths, batch_size=9, max_batch_tokens=1000, epochs=1.0, seed=0)
    assert max(map(len, batches)) == 4, "five rows of 200 would be 1,040 tokens with their padding"


def test_the_same_seed_plans_the_same_batches_and_a_part_of_an_epoch_is_a_part() -> None:
    lengths = list(range(100, 180))
    plan = plan_batches(lengths, batch_size=4, max_batch_tokens=4000, epochs=1.5, seed=5)
    assert plan == plan_batches(lengths, batch_size=4, max_batch_tokens=4000, epochs=1.5, seed=5)
    assert plan != plan_batches(lengths, batch_size=4, max_batch_tokens=4000, epochs=1.5, seed=6)
    assert len(plan) == 30


def test_one_row_longer_than_a_batch_may_be_still_gets_its_batch() -> None:
    assert plan_batches([5000, 10, 10], batch_size=4, max_batch_tokens=1000, epochs=1.0, seed=0)
    assert [0] in plan_batches([5000, 10, 10], batch_size=4, max_batch_tokens=1000, epochs=1.0, seed=0)


def test_the_loss_on_the_labels_alone_equals_the_plain_masked_loss(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()
    _, batch, mask = padded_rows(tiny_base)
    plain = model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    ours = labels_loss(model, batch["input_ids"], batch["labels"])
    assert abs(plain.item() - ours.item()) < 1e-5


def test_a_sped_up_adapter_has_the_plain_loss_and_gradients(tiny_base: Path) -> None:
    recipe = Recipe(base=str(tiny_base), rank=4)
    model = load_model(tiny_base, Placement(device="cpu", dtype=torch.float32, keep=True), recipe)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for value in trained.values():
            value.normal_(std=0.1)
    _, batch, mask = padded_rows(tiny_base)
    plain = model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    plain.backward()
    expected = {name: value.grad.clone() for name, value in trained.items() if value.grad is not None}
    model.zero_grad()
    assert speed_up(model) == 2 * (7 + 1)  # two layers of seven products and a SwiGLU
    ours = labels_loss(model, batch["input_ids"], batch["labels"])
    ours.backward()
    assert abs(plain.item() - ours.item()) < 1e-5
    assert expected.keys() == trained.keys()
    for name, value in trained.items():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_weights_unpacked_once_are_those_that_nf4_unpacks_at_every_use(tiny_base: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    recipe = Recipe(base=str(tiny_base), rank=4)
    kept, packed = (
        load_model(tiny_base, Placement(device="cpu", dtype=torch.float32, keep=keep), recipe) for keep in (True, False)
    )
    dense = AutoModelForCausalLM.from_pretrained(str(tiny_base))
    name = "model.layers.1.mlp.up_proj"
    held = kept.get_base_model().get_submodule(name).base_layer.weight
    weight = packed.get_base_model().get_submodule(name).base_layer.weight
    torch.testing.assert_close(held.data, dequantize_4bit(weight.data, weight.quant_state), rtol=0, atol=0)
    assert not torch.equal(held, dense.get_submodule(name).weight)  # so the equality is that of nf4, not of doing nothing
