"""Log-probabilities of given answers: what transformers' own loss says of the same tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from feedback.records import Message
from training.perplexity import BATCH, Given, Reading, _batches, read_answers
from training.results import perplexity

QUESTIONS = ("What is it?", "Which room?", "When does the shop at the corner of the long street open?")
ANSWERS = ("Twelve.", "A room on the third floor, next to the stairs.", "At nine.")
GIVEN: list[Given] = [
    ([Message(role="user", content=question)], answer) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
]


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes what the tiny model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(model, config).save_pretrained(str(folder))
    return folder


def by_transformers(base: Path, given: Given, adapter: Path | None = None) -> tuple[float, int]:
    """Return the loss (mean over tokens) that transformers computes from labels, and the number of labels."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    messages, answer = given
    conversation = [*(message.as_dict() for message in messages), {"role": "assistant", "content": answer}]
    prompt = tokenizer.apply_chat_template(conversation[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    whole = whole[: len(whole) - len(tokenizer("\n")["input_ids"])]  # the template writes a line break after the end of turn
    labels = [-100] * len(prompt) + whole[len(prompt) :]
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([whole]), labels=torch.tensor([labels])).loss
    return float(loss), len(whole) - len(prompt)


@pytest.mark.parametrize("adapted", [False, True])
def test_perplexity_is_what_the_loss_of_transformers_says_over_the_same_tokens(
    tiny_base: Path, adapter: Path, adapted: bool
) -> None:
    folder = adapter if adapted else None
    found = read_answers(tiny_base, folder, {"gold": GIVEN}, seconds={"gold": 60.0})["gold"]
    total = count = 0.0
    for place, given in enumerate(GIVEN):
        loss, tokens = by_transformers(tiny_base, given, folder)
        assert found[place].tokens == tokens
        assert found[place].logprob == pytest.approx(-loss * tokens, rel=1e-4), "padding changes nothing"
        total, count = total + loss * tokens, count + tokens
    assert perplexity({"gold": [each.a_token() for each in found.values()]}) == pytest.approx(math.exp(total / count), rel=1e-4)


def test_an_adapter_changes_what_is_read(tiny_base: Path, adapter: Path) -> None:
    bare = read_answers(tiny_base, None, {"gold": GIVEN}, seconds={"gold": 60.0})["gold"]
    adapted = read_answers(tiny_base, adapter, {"gold": GIVEN}, seconds={"gold": 60.0})["gold"]
    assert bare.keys() == adapted.keys() == {0, 1, 2}
    assert abs(bare[0].logprob - adapted[0].logprob) > 1e-3


def test_batches_hold_answers_of_about_one_length_and_every_answer_once() -> None:
    lengths = [40, 3, 900, 41, 5, 700, *[10] * 20]
    batches = list(_batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) == BATCH
    assert [lengths[place] for batch in batches for place in batch] == sorted(lengths)
    assert [2] in batches, "two long ones do not stand in one batch"


def test_out_of_time_the_same_answers_are_read_for_every_contestant(tiny_base: Path, adapter: Path) -> None:
    many = GIVEN * 12
    base = read_answers(tiny_base, None, {"gold": many}, seconds={"gold": 0.0}, seed=3)["gold"]
    other = read_answers(tiny_base, adapter, {"gold": many}, seconds={"gold": 0.0}, seed=3)["gold"]
    assert 0 < len(base) == len(other) <= BATCH and base.keys() == other.keys()


def test_perplexity_weighs_every_token_alike() -> None:
    readings = [Reading(logprob=-1.0, tokens=1), Reading(logprob=-9.0, tokens=9)]
    assert perplexity({"gold": [each.a_token() for each in readings]}) == pytest.approx(math.e, abs=1e-4)
