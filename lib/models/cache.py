"""Keys and values of texts that are being written: those of what prompts begin with alike are kept, and read,
once for all of them; those of each text's own tokens stand in tensors with room for the tokens to come.

Attention over both is made of its two parts, joined by their sums of exponentials (Juravsky et al. 2024,
https://arxiv.org/abs/2402.05099). transformers' own cache copies all that stands before for each token: with
32 prompts of 1,000 tokens that took three quarters of the time of writing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lib.models import attention_interface

NAME = "shared_beginnings"
MOST_SCORES = 1 << 25  # that exist at once: 128 MiB of float32
Layers = list[tuple[Tensor, Tensor]]  # keys and values of every layer, (heads, length, head size)


@dataclass(frozen=True)
class Beginning:
    """What some prompts begin with."""

    rows: list[int]
    layers: Layers


class RoomyLayer(DynamicLayer):
    """One layer's keys and values of each text's own tokens."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0
        self.whole: Tensor | None = None  # (2, rows, heads, room, head size)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put (rows, heads, length, head size) behind what is kept; all of it."""
        if self.whole is None:
            rows, heads, _, size = key_states.shape
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.whole = key_states.new_empty(2, rows, heads, self.room, size)
        begin, self.length = self.length, self.length + key_states.shape[2]
        assert self.length <= self.room, "there is room for as many tokens as are written"
        self.whole[0, :, :, begin : self.length] = key_states
        self.whole[1, :, :, begin : self.length] = value_states
        self.keys, self.values = self.whole[:, :, :, : self.length]  # where transformers looks for them
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        assert self.whole is not None
        self.whole = self.whole[:, indices]
        self.keys, self.values = self.whole[:, :, :, : self.length]


class SharedCache(Cache):
    """All layers. Inside of `reading`, a forward pass with this cache sees each row's beginning and its own
    tokens."""

    active: "SharedCache | None" = None
    """The one that is read now."""

    def __init__(self, beginnings: list[Beginning], num_layers: int, room: int) -> None:
        super().__init__(layers=[RoomyLayer(room) for _ in range(num_layers)])
        self.beginnings = beginnings

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows, which are called 0, 1 ... from now on."""
        super().batch_select_indices(indices)
        new = {old: number for number, old in enumerate(indices.tolist())}
        left = [Beginning([new[r] for r in b.rows if r in new], b.layers) for b in self.beginnings]
        self.beginnings = [beginning for beginning in left if beginning.rows]

    @contextmanager
    def reading(self) -> Iterator[None]:
        SharedCache.active = self
        try:
            yield
        finally:
            SharedCache.active = None


@contextmanager
def installed(model: Any) -> Iterator[None]:
    """Let a model of transformers read such caches; without one it computes what SDPA does."""
    before = model.config._attn_implementation
    attention_interface.use(model, NAME, attention, sdpa_mask)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **words: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface. While a cache is read: query (rows, heads, length, head size), key
    and value of the texts' own tokens (rows, heads or fewer, tokens, head size), the mask (rows, 1, length,
    tokens) of these; of what its prompt begins with each token sees all."""
    cache = SharedCache.active
    if cache is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **words)
    if odd := [name for name in ("position_bias", "softcap", "s_aux") if words.get(name) is not None]:
        raise RuntimeError(f"attention with {', '.join(odd)} cannot share what prompts begin with")
    assert attention_mask is not None
    rows, heads, length, size = query.shape
    groups = key.shape[1]  # heads of a group share their keys
    scaling = words.get("scaling")
    query = (query * (size**-0.5 if scaling is None else scaling)).reshape(rows, groups, -1, size)
    scores = (query @ key.mT).view(rows, groups, -1, length, key.shape[2])
    scores = scores.masked_fill(~attention_mask[:, :, None], -torch.inf).flatten(2, 3)
    sums, out = scores.logsumexp(-1), scores.softmax(-1) @ value
    for beginning in cache.beginnings:
        keys, values = beginning.layers[module.layer_idx]  # type: ignore[index]
        at_once = max(1, MOST_SCORES // (heads * length * keys.shape[1]))
        for lines in torch.tensor(beginning.rows, device=query.device).split(at_once):
            scores = query[lines].transpose(0, 1).flatten(1, 2) @ keys.mT  # (groups, of all lines, length)
            seen = (scores.softmax(-1) @ values).view(groups, len(lines), -1, size).transpose(0, 1)
            before = scores.logsumexp(-1).view(groups, len(lines), -1).transpose(0, 1)
            out[lines] = out[lines].lerp(seen, torch.sigmoid(before - sums[lines])[..., None])
    return out.view(rows, heads, length, size).transpose(1, 2).contiguous(), None
