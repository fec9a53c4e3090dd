"""What the machine can carry: cores, and from them the size of a prompt."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

SMALL_MODEL_LINES, PASSAGES_OF_LINES = 3, 5
"""Lines that a small model reads, and the passages that they are taken from: what holds the answer is nearly always among
them, and whatever lies beside it costs such a reader right answers (docs/LOG.md)."""


@dataclass(frozen=True, kw_only=True)
class PromptLimits:
    """How large a prompt may be: tokens in all, passages at most, and how many chunks after the found one a passage takes in.

    `lines` is how many lines of all the passages together are laid out; 0: the passages are laid out whole.
    """

    tokens: int
    passages: int
    following: int
    lines: int = 0


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def prompt_limits(*, core_count: int, cuda: bool, tokens: int = 0, passages: int = 0, lines: int = 0) -> PromptLimits:
    """Choose the prompt's limits: reading the prompt is what costs on a CPU (about 300 tokens a second on 2 cores).

    `tokens` and `passages` other than 0 are taken as they are, and `lines` always.
    """
    if cuda:
        by_machine = PromptLimits(tokens=2400, passages=8, following=1)
    elif core_count <= 2:
        by_machine = PromptLimits(tokens=400, passages=3, following=0)
    elif core_count <= 4:
        by_machine = PromptLimits(tokens=640, passages=4, following=0)
    elif core_count <= 8:
        by_machine = PromptLimits(tokens=1000, passages=5, following=0)
    else:
        by_machine = PromptLimits(tokens=1600, passages=6, following=1)
    most = PASSAGES_OF_LINES if lines else by_machine.passages
    return replace(by_machine, tokens=tokens or by_machine.tokens, passages=passages or most, lines=lines)
