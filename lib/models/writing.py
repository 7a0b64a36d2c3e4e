"""Language models write: a token at a time, with keys and values of what stands before kept.

A text is a function of its prompt alone. Numbers of a row differ in their last bits with the rows that are
computed beside it, and where two tokens are nearly equally likely that could turn one into the other; so a
row whose best two tokens ever come closer than CLOSE is written again by itself, which is how its text is
defined. All the others have the same text either way. In bf16 nearly every text of 12 tokens would be
written again, so texts are written in float32, whatever the precision of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.data.collate import Grouped, TokenGroup, matrix, split_by_length
from lib.data.completions import clusters
from lib.models.adapters import has_int8, in_float32
from lib.models.language import Decoder, Encoded, LanguageModel, Seq2Seq

# How near the best two logits may come before a row is written again alone, as a share of the largest of the
# row's logits. In batches of 1, 3, 16 and 48 their distance differed by at most 6e-6 of that in float32
# (stories260K, random Llamas and GPT-NeoXs of hidden size 384 and 512; 48 real rows, 11 tokens each), and by
# 1.7e-5 (a Llama of 768 and 16 layers with weights five times too large). In bf16 it is 2e-2.
CLOSE = 1e-4
COMPACT = 0.75  # the batch is made smaller when no more than so many of its rows still go on


@dataclass(frozen=True)
class How:
    """How texts are written."""

    max_new_tokens: int
    ends: tuple[int, ...]
    """Tokens that end a text."""
    pad: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass
class Written:
    """One text."""

    ids: list[int] = field(default_factory=list)
    """The end token included, if it came."""
    ended: bool = False
    again: bool = False
    """Written a second time, alone."""


Layers = list[tuple[Tensor, Tensor]]  # keys and values of every layer, (1, heads, length, size)
Choose = Callable[
    [Tensor, list[int]], Tensor
]  # (rows, words) logits, whose they are -> (rows, words) to compare


def write(
    model: LanguageModel, prompts: Sequence[np.ndarray], how: How, seeds: Sequence[int]
) -> list[Written]:
    """The texts behind the prompts; `seeds`: of each row's draws."""
    texts = [Written() for _ in prompts]
    with torch.inference_mode(), in_float32(model.backbone, model.device):
        # products in 8 bits look at all rows of a batch to choose what they keep whole: no two together
        together = len(prompts) > 1 and not has_int8(model.backbone)
        close = _write(model, prompts, how, seeds, texts) if together else range(len(prompts))
        for row in close:
            texts[row] = Written(again=together)
            _write(model, [prompts[row]], how, [seeds[row]], [texts[row]])
    return texts


def _write(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    how: How,
    seeds: Sequence[int],
    texts: list[Written],
) -> list[int]:
    """Write all at once; the rows that came close to another text, which are given up where they did."""
    device = model.device
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    state: _DecoderState | _Seq2SeqState
    if isinstance(model, Decoder):
        state = _DecoderState(model, prompts, how, device)
    else:
        assert isinstance(model, Seq2Seq)
        state = _Seq2SeqState(model, prompts, how.pad, device)
    going, close = list(range(len(prompts))), []
    for left in reversed(range(how.max_new_tokens)):
        logits = state.logits()  # (rows that go on, words)
        compared = (
            logits.float() if how.temperature == 0 else _drawn(logits, how, [draws[row] for row in going])
        )
        best, scale = compared.topk(2, dim=1), logits.float().abs().amax(1) / (how.temperature or 1.0)
        near = (best.values[:, 0] - best.values[:, 1] < CLOSE * scale).tolist()
        chosen, kept = best.indices[:, 0].tolist(), []
        for line, row in enumerate(going):
            if near[line] and len(prompts) > 1:
                close.append(row)
                continue
            texts[row].ids.append(chosen[line])
            texts[row].ended = chosen[line] in how.ends
            if not texts[row].ended:
                kept.append(line)
        if not kept or not left:
            break
        going = [going[line] for line in kept]
        state.go_on(kept, [chosen[line] for line in kept])
    return close


def _drawn(logits: Tensor, how: How, draws: list[torch.Generator]) -> Tensor:
    """(rows, words) whose largest is a draw from the softmax of logits / temperature: Gumbel noise is added
    (Gumbel 1954); words outside of the nucleus (Holtzman 2019) are never the largest."""
    scaled = logits.float() / how.temperature
    if how.top_p < 1:
        ordered, places = scaled.sort(dim=1, descending=True)
        before = ordered.softmax(1).cumsum(1) - ordered.softmax(1)  # probability of all that are likelier
        scaled = scaled.masked_fill((before >= how.top_p).gather(1, places.argsort(1)), -torch.inf)
    size = scaled.shape[1]
    uniform = torch.stack([torch.rand(size, generator=draw, dtype=torch.float64) for draw in draws])
    noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
    return scaled + noise.float().to(scaled.device)


class _DecoderState:
    """Keys and values of some rows, each as long as the longest, padded on the left."""

    def __init__(self, model: Decoder, prompts: Sequence[np.ndarray], how: How, device: torch.device) -> None:
        self.model, self.device, self.pad = model, device, how.pad
        (self.inner,) = model.called()
        shared = clusters(prompts)
        # what is computed once: what a cluster shares; of a row alone all but its last token
        sizes = [cluster.shared or len(prompts[cluster.rows[0]]) - 1 for cluster in shared]
        of_row = {row: number for number, cluster in enumerate(shared) for row in cluster.rows}
        begun = [prompts[cluster.rows[0]][:size] for cluster, size in zip(shared, sizes, strict=True)]
        lengths = [sizes[of_row[row]] for row in range(len(prompts))]
        rests = [prompt[length:] for prompt, length in zip(prompts, lengths, strict=True)]
        width, most = max(map(len, rests)), max(lengths)
        self.cache = _roomy(
            self._prefilled(begun),
            [of_row[row] for row in range(len(prompts))],
            width + how.max_new_tokens - 1,
        )
        ids = np.full((len(rests), width), how.pad, np.int64)
        positions, mask = (
            np.zeros((len(rests), width), np.int64),
            np.zeros((len(rests), most + width), np.int64),
        )
        for line, (rest, length) in enumerate(zip(rests, lengths, strict=True)):
            ids[line, width - len(rest) :] = rest
            positions[line, width - len(rest) :] = np.arange(length, length + len(rest))
            mask[line, most - length : most] = 1
            mask[line, most + width - len(rest) :] = 1
        self.mask, self.next = self._on_device(mask), self._on_device(positions[:, -1] + 1)
        self.lines = torch.arange(len(prompts), device=device)  # those that go on
        self.last = self._forward(self._on_device(ids), self._on_device(positions))

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _prefilled(self, begun: list[np.ndarray]) -> list[Layers]:
        """For each beginning the keys and values of every layer, (1, heads, length, size)."""
        found: dict[int, Layers] = {}
        empty = [number for number, ids in enumerate(begun) if not len(ids)]
        some = [number for number, ids in enumerate(begun) if len(ids)]
        groups = split_by_length(np.array([len(begun[number]) for number in some])) if some else []
        for places in groups:
            members = [some[place] for place in places]
            ids = self._on_device(matrix([begun[number] for number in members], self.pad))
            cache = _new_cache()
            self.inner(input_ids=ids, past_key_values=cache, use_cache=True)  # on the right nobody looks
            for line, number in enumerate(members):
                size = len(begun[number])
                found[number] = [
                    (layer.keys[line : line + 1, :, :size], layer.values[line : line + 1, :, :size])
                    for layer in cache.layers
                ]
        for number in empty:  # a prompt of one token
            found[number] = (
                [(keys[:, :, :0], values[:, :, :0]) for keys, values in found[some[0]]] if some else []
            )
        return [found[number] for number in range(len(begun))]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(rows, hidden) of the last tokens"""
        states = self.inner(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -1]

    def logits(self) -> Tensor:
        return self.model.backbone.get_output_embeddings()(self.last)

    def go_on(self, kept: list[int], tokens: list[int]) -> None:
        """With these of the lines that went on, and a token behind each. The others are computed too, until
        there are so many of them that a copy of the rest costs less."""
        self.lines = self.lines[torch.tensor(kept, device=self.device)]
        if len(self.lines) <= COMPACT * len(self.next):
            self.cache.batch_select_indices(self.lines)
            self.mask, self.next = self.mask[self.lines], self.next[self.lines]
            self.lines = torch.arange(len(kept), device=self.device)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        ids = torch.full_like(self.next, self.pad)
        ids[self.lines] = torch.tensor(tokens, device=self.device)
        self.last = self._forward(ids[:, None], self.next[:, None])[self.lines]
        self.next = self.next + 1


class _Seq2SeqState:
    """What the encoder made of some rows, and the decoder's keys and values."""

    def __init__(self, model: Seq2Seq, prompts: Sequence[np.ndarray], pad: int, device: torch.device) -> None:
        from transformers import EncoderDecoderCache

        self.model, self.device = model, device
        lengths = np.array([len(prompt) for prompt in prompts])
        ids = matrix(list(prompts), pad)
        mask = (np.arange(ids.shape[1])[None] < lengths[:, None]).astype(np.int64)
        source = Grouped(
            [TokenGroup(torch.from_numpy(ids), torch.from_numpy(mask))], torch.arange(len(prompts)), 0, 0
        )
        self.source = model.encode(source.to(device))
        self.cache = EncoderDecoderCache(_new_cache(), _new_cache())
        start = model.backbone.config.decoder_start_token_id
        self.last = self._forward(torch.full((len(prompts), 1), start, device=device))

    def _forward(self, ids: Tensor) -> Tensor:
        _, decoder = self.model.called()
        states = decoder(
            input_ids=ids,
            encoder_hidden_states=self.source.states,
            encoder_attention_mask=self.source.mask,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return self.model.scaled(states)[:, -1]

    def logits(self) -> Tensor:
        return self.model.backbone.get_output_embeddings()(self.last)

    def go_on(self, kept: list[int], tokens: list[int]) -> None:
        """With these lines, and a token behind each."""
        if len(kept) < len(self.last):
            lines = torch.tensor(kept, device=self.device)
            self.cache.batch_select_indices(lines)
            self.source = Encoded(self.source.states[lines], self.source.mask[lines])
        self.last = self._forward(torch.tensor(tokens, device=self.device)[:, None])


def _new_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _roomy(begun: list[Layers], of_row: list[int], room: int) -> Any:
    """A cache with a line for each row, padded on the left."""
    if not begun[0]:  # prompts of one token
        return _new_cache()
    from lib.models import cache

    return cache.padded_left(begun, of_row, room)
