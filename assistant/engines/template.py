"""Messages to token ids with the model's own chat template, without transformers.

Every engine feeds the ids that this module makes, so that two engines see the same prompt, token for token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from assistant.engines.base import Tool
from feedback.errors import ModelError
from feedback.records import Message

_TAG = re.compile(r"<[^<>\s]+>")
_PROBE_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
_PROBE_CALLS = ("callone", "calltwo")
_PROBE_RESULTS = ("resultone", "resulttwo")


class ChatTemplate:
    """The tokenizer and the chat template of a Hugging Face folder.

    Reads tokenizer.json, and the template from chat_template.jinja or tokenizer_config.json. Raises ModelError when one of
    them is missing or cannot be read.
    """

    def __init__(self, hf_dir: Path) -> None:
        from tokenizers import Tokenizer

        config = _read_json(hf_dir / "tokenizer_config.json")
        generation = _read_json(hf_dir / "generation_config.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(hf_dir / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"The tokenizer {hf_dir / 'tokenizer.json'} cannot be read: {error}.") from error
        self._variables = {
            name: text for name in ("bos_token", "eos_token", "unk_token", "pad_token") if (text := _token(config, name))
        }
        self._template = _compile(_template_source(hf_dir, config))
        added = self._tokenizer.get_added_tokens_decoder().values()
        # A document or a question that holds the mark of a turn's end must not end the turn.
        self._marks = tuple(token.content for token in added if token.special and len(token.content) > 1)
        # Nor may it hold a tag that the model itself writes, such as that of a call.
        self._tags = (*self._marks, *(token.content for token in added if not token.special and _TAG.fullmatch(token.content)))
        self.stop_ids = _stop_ids(generation, self._tokenizer.token_to_id(self._variables.get("eos_token", "")))

    def first_token(self, text: str) -> int:
        """Return the id of the token that an answer with this text begins with."""
        return int(self._tokenizer.encode(text, add_special_tokens=False).ids[0])

    @cached_property
    def has_tools(self) -> bool:
        """Say whether the template shows a model its tools, its own calls as it wrote them, and what they gave back.

        Decided by rendering a conversation of two calls, with the tool and without.
        """
        messages = [Message(role="system", content="instructions"), Message(role="user", content="question")]
        for call, result in zip(_PROBE_CALLS, _PROBE_RESULTS, strict=True):
            messages += [Message(role="assistant", content=call), Message(role="tool", content=result)]
        try:
            without, shown = self.render(messages), self.render(messages, [_PROBE_TOOL])
        except ModelError:
            return False
        if not ("look_up" in shown and "look_up" not in without):
            return False
        return all(word in text for text in (without, shown) for word in (*_PROBE_CALLS, *_PROBE_RESULTS))

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool = True) -> str:
        """Render messages as the model was trained to see them, marks of the template inside contents taken apart.

        Calls of tools stand in assistant messages as the model wrote them. Raises ModelError for messages that it refuses.
        """
        from jinja2 import TemplateError

        rows = [{"role": message.role, "content": self._disarm(message)} for message in messages]
        variables = {"tools": [dict(tool) for tool in tools] or None, "add_generation_prompt": add_generation_prompt}
        try:
            return str(self._template.render(messages=rows, **variables, **self._variables))
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(f"The chat template of the base model cannot lay out these messages: {error}.") from error

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Return the token ids of the prompt that asks the model for the next assistant message."""
        return self.tokenize(self.render(messages, tools))

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Return how many tokens the prompt of these messages has."""
        return len(self.encode(messages, tools))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of plain text, without a template."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _disarm(self, message: Message) -> str:
        text = message.content
        for mark in self._marks if message.role == "assistant" else self._tags:
            if mark in text:
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


def _compile(source: str) -> Any:
    """Compile a chat template in a sandbox, with the whitespace rules and helpers that such templates expect."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ModelError(f"The chat template refuses these messages: {message}.")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = _tojson
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ModelError(f"The chat template of the base model is broken: {error}.") from error


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Write JSON as templates expect it: Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _template_source(hf_dir: Path, config: dict[str, Any]) -> str:
    file = hf_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    source = config.get("chat_template")
    if isinstance(source, str):
        return source
    raise ModelError(f"The base model in {hf_dir} has no chat template: use an instruct model.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"The file {path} is not JSON: {error}.") from error
    return content


def _token(config: dict[str, Any], name: str) -> str:
    """Return a special token's text; older folders keep it as a dictionary."""
    value = config.get(name) or ""
    return str(value["content"]) if isinstance(value, dict) else str(value)


def _stop_ids(generation: dict[str, Any], eos: int | None) -> tuple[int, ...]:
    """Return the ids that end an answer: those of the generation config, and the tokenizer's end of turn."""
    named = generation.get("eos_token_id", [])
    ids = list(named) if isinstance(named, list) else [named]
    if eos is not None:
        ids.append(eos)
    return tuple(dict.fromkeys(int(number) for number in ids))
