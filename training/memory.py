"""How much memory a training will take, what is free, and the plan that fits. No heavy imports.

    peak = what the process has now
         + weights       parameters * 4 (2 in bfloat16); packed: linear ones * 0.53 and the rest * 4 (2)
         + trained       trained * 16: the weight, its gradient, Adam's two moments; * 20 with the best weights kept
         + activations   per token of the largest batch, what one layer keeps for the way back, times the adapted layers:
                             6 hidden + 2 keys + 3 inner + 7 rank    (two norms, attention, SwiGLU, LoRA)
                             DoRA: 6 hidden + 4 keys + 4 inner more  (what its products give, twice)
                         recomputed (gradient checkpointing): 1 hidden a layer, and one layer as above
         + passing       per token, 4 hidden + 4 inner: what the layer at work holds beside that
         + beside        200 MB: buffers of the libraries, and what loading leaves behind
         + scores        labelled tokens * vocabulary * 12: scores, probabilities and their gradients in float32

Counted in the forwards that are used here (training.fast_lora, transformers' llama); activations and passing are taken twice,
for what the allocator loses between pieces: 1.4 to 1.6 times in one step, more after hundreds of batches of all lengths. A
process that has grown past the estimate gives free pages back between steps. While the base is loaded its file is in memory
beside it: that peak counts where it is larger.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from feedback.errors import ModelError, RunError

MARGIN = 320 * 2**20
"""Bytes that a plan leaves free."""
LOW = 160 * 2**20
"""With less than this free a training ends while it still can."""
PACKED_BYTES = 0.53
"""Bytes of a number in nf4 with doubly quantised constants (Dettmers et al. 2023, section 3)."""
LOST = 2.0
"""What the allocator takes for a byte of activations at the end of a night, as measured on a CPU (docs/LOG.md)."""
BESIDE = 200 * 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What mallopt(3) sets."""
_CGROUP = Path("/sys/fs/cgroup")


def available(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that may still be used: of the machine, or of the container where that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((cgroup / "memory.max").read_text("utf-8"))
        used = int((cgroup / "memory.current").read_text("utf-8"))
        rows = (line.split() for line in (cgroup / "memory.stat").read_text("utf-8").splitlines())
        cached = sum(int(value) for name, value in rows if name == "inactive_file")
    except (OSError, ValueError):
        return free  # no container, or one without a limit
    return max(0, min(free, limit - used + cached))


def keep_pages() -> None:
    """Let the allocator (glibc's) keep what it has: giving the top of the heap back after every step costs page faults."""
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(M_TRIM_THRESHOLD, 2**31 - 1)
        option(M_MMAP_THRESHOLD, 32 * 2**20)


def give_back() -> None:
    """Give the pages that this process has freed back to the machine, where its allocator can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a base model decides its memory.

    `keys` is the width of a layer's keys, `inner` that between the two halves of its MLP.
    """

    parameters: int
    hidden: int
    keys: int
    inner: int
    layers: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> int:
        """The parameters of the linear layers: all but the embeddings."""
        return max(0, self.parameters - self.vocabulary * self.hidden * (1 if self.tied else 2))


def read_shape(base: Path, *, parameters: int) -> Shape:
    """Read a model folder's config.json. Raises ModelError when it lacks the sizes."""
    try:
        config: Mapping[str, Any] = json.loads((base / "config.json").read_text("utf-8"))
        config = config.get("text_config", config)
        hidden = int(_first(config, "hidden_size", "n_embd", "d_model"))
        heads = _first(config, "num_attention_heads", "n_head")
        head = _first(config, "head_dim", default=hidden // heads)
        return Shape(
            parameters=parameters,
            hidden=hidden,
            keys=head * _first(config, "num_key_value_heads", default=heads),
            inner=int(_first(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)),
            layers=int(_first(config, "num_hidden_layers", "n_layer")),
            vocabulary=int(_first(config, "vocab_size")),
            tied=bool(config.get("tie_word_embeddings", True)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The sizes of the base model {base.name} cannot be read ({error}): import it again.") from error


def _first(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        if config.get(name) is not None:
            return int(config[name])
    if default is None:
        raise KeyError(names[0])
    return default


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a training asks of the memory beside the base.

    `longest` row and `answer` are in tokens, `trained` counts parameters. `copies` rows stand in a batch for each of
    `batch_size`. `adapted` layers take part in the way back. `number` is the bytes of a number in the products.
    """

    longest: int
    answer: int
    batch_size: int
    max_batch_tokens: int
    accumulation: int
    trained: int
    rank: int
    adapted: int
    number: int = 4
    copies: int = 1
    keep: bool = True  # weights unpacked
    recompute: bool = False  # gradient checkpointing
    dora: bool = False
    best_kept: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the largest batch, padding included."""
        return self.copies * max(self.longest, min(self.max_batch_tokens, self.batch_size * self.longest))


def needs(shape: Shape, load: Load) -> dict[str, int]:
    """Return the bytes of each part of the formula above, but what the process has now; "loading" is the other peak."""
    narrow, layer = load.number, 6 * shape.hidden + 2 * shape.keys + 3 * shape.inner + 7 * load.rank
    if load.dora:
        layer += 6 * shape.hidden + 4 * shape.keys + 4 * shape.inner
    each = shape.hidden * load.adapted + layer if load.recompute else layer * load.adapted
    dense = shape.parameters * narrow
    packed = int(shape.linear * PACKED_BYTES) + (shape.parameters - shape.linear) * narrow
    return {
        "weights": dense if load.keep else packed,
        "trained": load.trained * (20 if load.best_kept else 16),
        "activations": int(LOST * load.tokens * each * narrow),
        "passing": int(LOST * load.tokens * 4 * (shape.hidden + shape.inner) * narrow),
        "scores": load.batch_size * load.copies * load.answer * shape.vocabulary * 12,
        "beside": BESIDE,
        "loading": 2 * dense if load.keep else dense + packed,
    }


def peak(shape: Shape, load: Load) -> int:
    """Return the bytes that a training adds to its process at the highest."""
    parts = needs(shape, load)
    return max(parts.pop("loading"), sum(parts.values()))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A plan that fits: the load as reduced, the bytes that it adds and those that were free, and what was changed."""

    load: Load
    needed: int
    free: int
    notes: tuple[str, ...] = ()

    def figures(self, *, present: int) -> dict[str, Any]:
        """Return what is told of it; `present` are the bytes that the process had before."""
        load = asdict(self.load)
        return {
            "estimated_peak_mb": (present + self.needed) // 2**20,
            "free_mb": self.free // 2**20,
            "batch_size": load["batch_size"],
            "accumulation": load["accumulation"],
            "dequantised": load["keep"],
            "recompute": load["recompute"],
        }


def fit(shape: Shape, load: Load, *, free: int, may_split: bool, may_pack: bool, may_recompute: bool) -> Fitted:
    """Return the first plan that fits into `free` bytes: as asked; smaller batches, more a step; the base packed; recomputed.

    Raises RunError, with what the smallest plan needs and what is free, when none does.
    """
    needed = 0
    for plan in _ladder(load, may_split=may_split, may_pack=may_pack, may_recompute=may_recompute):
        needed = peak(shape, plan)
        if needed + MARGIN <= free:
            return Fitted(load=plan, needed=needed, free=free, notes=_notes(load, plan))
    raise RunError(
        f"The training needs {(needed + MARGIN) / 2**30:.1f} GiB of memory at the least, and {free / 2**30:.1f} GiB are free: "
        "end other programs, or choose a smaller base."
    )


def _ladder(load: Load, *, may_split: bool, may_pack: bool, may_recompute: bool) -> Iterator[Load]:
    yield load
    while may_split and load.batch_size > load.copies:
        half = load.batch_size // 2
        load = replace(
            load,
            accumulation=load.accumulation * load.batch_size // half,
            batch_size=half,
            max_batch_tokens=max(load.longest, load.max_batch_tokens // 2),
        )
        yield load
    if may_pack and load.keep:
        load = replace(load, keep=False)
        yield load
    if may_recompute:
        yield replace(load, recompute=True)


def _notes(asked: Load, plan: Load) -> tuple[str, ...]:
    found = []
    if plan.batch_size != asked.batch_size:
        found.append(f"{plan.batch_size} rows at a time and {plan.accumulation} batches a step")
    if plan.keep != asked.keep:
        found.append("the base packed at every use")
    if plan.recompute:
        found.append("activations computed twice")
    return (f"Memory was short, so the training was planned with {', '.join(found)}.",) if found else ()
