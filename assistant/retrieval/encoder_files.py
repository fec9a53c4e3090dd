"""What the files of an encoder say of it: how texts are given to it, how many tokens it reads, and what it is made of.

An encoder lies in a folder, or on the Hugging Face hub under a name. The files are those of the sentence-transformers library
(Reimers and Gurevych 2019) beside the transformers library's own; each of them may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.errors import ModelError

PROMPTS = "config_sentence_transformers.json"
PASSAGE_PROMPTS = ("document", "passage", "corpus")
"""Names under which the prompt of passages is kept; the first one that is there holds."""
TITLE_TOKENS = 32
"""Tokens kept free beside a chunk: it is read under its heading path, between the tokenizer's own marks."""
UNBOUNDED = 1e9
"""What a tokenizer writes that knows no limit is larger."""
_KNOWN = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What stands before a question and before a passage when they are encoded; "": nothing."""

    question: str = ""
    passage: str = ""


def find_file(source: str, name: str) -> Path | None:
    """Return a file of an encoder's folder, or of its place on the hub; None where it has none, or cannot be reached.

    What the hub's cache knows is not asked for again. Raises OSError for a name that the hub does not know or give.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    if (kept := try_to_load_from_cache(source, name)) is not None:
        return Path(kept) if isinstance(kept, str) else None  # the other value says that the hub has no such file
    from transformers.utils import cached_file

    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return Path(found) if found else None


def read_json(source: str, name: str) -> Any:
    """Return what a file of an encoder holds, None where there is none. Raises OSError, and ValueError for what is no JSON."""
    file = find_file(source, name)
    return None if file is None else json.loads(file.read_text(encoding="utf-8"))


def read_prompts(source: str) -> Prompts:
    """Return the prompts of an encoder, none where they cannot be read: then none are given to it."""
    found = _told(source, PROMPTS)
    prompts = found.get("prompts")
    if not isinstance(prompts, dict):
        return Prompts()
    usual = prompts.get(found.get("default_prompt_name"))

    def first(names: Sequence[str]) -> str:
        return str(next((prompts[name] for name in names if name in prompts), usual) or "")

    return Prompts(question=first(["query"]), passage=first(PASSAGE_PROMPTS))


def longest_chunk(source: str) -> int | None:
    """Return how many tokens a chunk may have for an encoder to read all of it under its title; None where nothing tells."""
    told = [
        _told(source, file).get(key)
        for file, key in (
            ("sentence_bert_config.json", "max_seq_length"),
            ("config.json", "max_position_embeddings"),
            ("tokenizer_config.json", "model_max_length"),
        )
    ]
    limits = [int(limit) for limit in told if isinstance(limit, int | float) and 0 < limit < UNBOUNDED]
    return max(min(limits) - TITLE_TOKENS, min(limits) // 2) if limits else None


def check_modules(name: str, modules: Any) -> str:
    """Check the modules that an encoder is made of (the content of its modules.json); returns the folder of its pooling.

    Raises ModelError for modules besides those that are known here: without them its vectors would be others.
    """
    listed = [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    kinds = [str(each.get("type", "")) for each in listed]
    strange = [kind for kind in kinds if kind.rpartition(".")[2] not in _KNOWN or not kind.startswith("sentence_transformers.")]
    if strange:
        raise ModelError(
            f"The encoder {name!r} has modules besides {', '.join(sorted(_KNOWN))}, which is all that is known here "
            f'({", ".join(strange)}): set documents.encoder to another one, or to "minilm".'
        )
    pooling = (str(each.get("path") or "") for each, kind in zip(listed, kinds, strict=True) if kind.endswith(".Pooling"))
    return next(pooling, "") or "1_Pooling"


def _told(source: str, name: str) -> dict[str, Any]:
    """Return a file's object, {} where it cannot be had: what is damaged is said when the encoder is loaded."""
    try:
        found = read_json(source, name)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
