"""Adapters on the upper layers alone: the way back ends below them, and what the frozen layers compute can be kept.

Nothing below the first adapted layer needs a gradient, so a row's hidden state there is the same in every epoch. Kept in
half precision (once per row, in memory or in a file of the run folder), it spares later epochs the lower layers' products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from feedback.errors import ModelError

STACKS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that are a stack of like layers: embedding, layers, norm, scores."""

FILE = "activations.f16"
_TRIED = 24
_TOLERANCE = 1e-3


def linear_names(model: Any, *, upper: int) -> tuple[list[str], list[int]]:
    """Return the names of the linear layers in one decoder layer, and the numbers of the `upper` last decoder layers.

    Raises ModelError for a base that is no plain stack of layers, or that has fewer.
    """
    layers = _layers(model)
    if upper > len(layers):
        raise ModelError(f"upper_layers is {upper}, and the base model has {len(layers)} layers: choose at most so many.")
    names = {name.rpartition(".")[2] for name, module in layers[-1].named_modules() if isinstance(module, nn.Linear)}
    return sorted(names), list(range(len(layers) - upper, len(layers)))


def _layers(model: Any) -> nn.ModuleList:
    kind = str(getattr(model.config, "model_type", "unknown"))
    windows = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention"}
    if kind not in STACKS or windows:
        what = f"a {kind!r} model" if kind not in STACKS else f"a model with {min(windows)}"
        raise ModelError(
            f"upper_layers cannot be used with {what}: known are {', '.join(STACKS)} with full attention. Leave it out."
        )
    layers: nn.ModuleList = model.get_decoder().layers
    return layers


class Kept:
    """Hidden states of rows in half precision: `lengths` tokens of `width` numbers each, in memory or in `folder`.

    A row with a number that half precision cannot hold is not kept.
    """

    def __init__(self, lengths: Sequence[int], *, width: int, folder: Path | None) -> None:
        self._ends = np.cumsum([0, *lengths])
        shape = (int(self._ends[-1]), width)
        if folder is None:
            self._values: Any = np.empty(shape, dtype=np.float16)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._values = np.memmap(folder / FILE, dtype=np.float16, mode="w+", shape=shape)
        self._full = np.zeros(len(lengths), dtype=bool)

    @staticmethod
    def bytes(lengths: Sequence[int], *, width: int) -> int:
        """Return the bytes that these rows take."""
        return 2 * width * sum(lengths)

    def holds(self, row: int) -> bool:
        """Say whether this row is kept."""
        return bool(self._full[row])

    def put(self, row: int, hidden: torch.Tensor) -> None:
        """Keep the hidden state (length, width) of a row, if half precision can."""
        half = hidden.to(torch.float16)
        if torch.isfinite(half).all():
            self._values[self._ends[row] : self._ends[row + 1]] = half.cpu().numpy()
            self._full[row] = True

    def get(self, row: int) -> torch.Tensor:
        """Return the hidden state (length, width) of a kept row."""
        return torch.from_numpy(np.asarray(self._values[self._ends[row] : self._ends[row + 1]]))


class Lower:
    """Runs a model in two parts: the frozen lower layers without gradients, kept row by row, and the upper ones.

    Raises ModelError when the two parts together do not compute what the whole model does.
    """

    def __init__(self, model: Any, *, upper: int, lengths: Sequence[int], folder: Path | None) -> None:
        self._decoder = model.get_decoder()
        layers = list(_layers(model))
        self._below = nn.ModuleList(layers[: len(layers) - upper])
        self._above = nn.ModuleList(layers[len(layers) - upper :])
        self._lengths = lengths
        self._kept = Kept(lengths, width=model.config.hidden_size, folder=folder)
        self._prove(model)

    def __call__(self, input_ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the last hidden state (rows, longest, width) of a padded batch; `numbers` are the rows' places."""
        return self.rest(self.hidden(input_ids, numbers))

    def hidden(self, input_ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return what goes into the first upper layer, zero where a row is padded; computed for rows that are not kept yet."""
        rows = [int(number) for number in numbers]
        missing = [place for place, row in enumerate(rows) if not self._kept.holds(row)]
        fresh: dict[int, torch.Tensor] = {}
        if missing:
            longest = max(self._lengths[rows[place]] for place in missing)
            states = self._run_below(input_ids[missing, :longest])
            for place, state in zip(missing, states, strict=True):
                fresh[place] = state[: self._lengths[rows[place]]]
                self._kept.put(rows[place], fresh[place])
        found = torch.zeros(*input_ids.shape, self._decoder.config.hidden_size, device=input_ids.device, dtype=self._dtype)
        for place, row in enumerate(rows):
            # what was just computed is rounded as well, so that an epoch does not depend on where a training was resumed
            state = self._kept.get(row) if self._kept.holds(row) else fresh[place]
            found[place, : len(state)] = state.to(found)
        return found

    def rest(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run the upper layers and the last norm."""
        with self._part(self._above, self._decoder.norm):
            state: torch.Tensor = self._decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
        return state

    def _run_below(self, input_ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self._part(self._below, nn.Identity()):
            state: torch.Tensor = self._decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        return state

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._decoder.embed_tokens.weight.dtype
        return dtype

    @contextmanager
    def _part(self, layers: nn.ModuleList, norm: nn.Module) -> Iterator[None]:
        whole = self._decoder.layers, self._decoder.norm
        self._decoder.layers, self._decoder.norm = layers, norm
        try:
            yield
        finally:
            self._decoder.layers, self._decoder.norm = whole

    def _prove(self, model: Any) -> None:
        device = self._decoder.embed_tokens.weight.device
        tokens = torch.arange(_TRIED, device=device)[None] % model.config.vocab_size
        with torch.no_grad():
            whole = self._decoder(input_ids=tokens, use_cache=False).last_hidden_state.float()
            parts = self.rest(self._run_below(tokens)).float()
        if (whole - parts).abs().max() > _TOLERANCE * whole.abs().max():
            raise ModelError(
                "keep_activations cannot be used with this base model: it is no plain stack of layers. Leave it out."
            )
