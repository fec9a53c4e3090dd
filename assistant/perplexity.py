"""Perplexity of the gold answer under a model with and without an adapter (torch; a leaf module)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from feedback.records import Message


def gold_perplexity(
    hf_dir: Path, adapter: Path | None, gold: Sequence[tuple[Sequence[Message], str]], *, seconds: float
) -> tuple[float, int]:
    """Return exp of the mean negative log-likelihood of all tokens of the gold answers, and how many answers were read.

    `gold` pairs the prompt's messages with the answer, of which the end of turn is a part; at least one is read, and no
    new one after `seconds`. Perplexity as in Jurafsky and Martin, Speech and Language
    Processing, chapter 3, over the answers' tokens alone.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hf_dir)
    model = AutoModelForCausalLM.from_pretrained(hf_dir, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    total, count, read = 0.0, 0, 0
    started = time.monotonic()
    with torch.inference_mode():
        for messages, answer in gold:
            if read and time.monotonic() - started > seconds:
                break
            prompt = tokenizer.apply_chat_template(
                [message.as_dict() for message in messages], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            target = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            logits = model(input_ids=torch.tensor([prompt + target]), logits_to_keep=len(target) + 1).logits[0, :-1]
            chosen = torch.log_softmax(logits.float(), dim=-1).gather(1, torch.tensor(target)[:, None])
            total -= float(chosen.sum())
            count += len(target)
            read += 1
    return math.exp(total / count), read
