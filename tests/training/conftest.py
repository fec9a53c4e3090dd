"""A tiny random llama with a byte tokenizer, and run folders over it: everything a trainer needs, built in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feedback.records import Message
from training.curation import Example
from training.dataset import write_snapshot
from training.recipe import Recipe

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a llama with 2 layers, 4 heads (2 for keys), hidden 64, tied embeddings."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHATML
    )
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def make_run(tmp_path: Path, tiny_base: Path) -> Callable[..., Path]:
    """Make a run folder with `count` rows; recipe settings by keyword."""

    def make(*, name: str = "r0001", count: int = 24, **settings: Any) -> Path:
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
        write_snapshot(examples, run / "dataset")
        defaults: dict[str, Any] = {"compute_dtype": "float32", "dequantised": "keep", "threads": 1, "nice": 0, "rank": 4}
        recipe = Recipe(base=str(tiny_base), base_name="tiny-llama", **{**defaults, **settings})
        (run / "config.json").write_text(recipe.to_json(), "utf-8")
        return run

    return make
