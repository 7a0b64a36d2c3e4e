"""What a model keeps while it writes, so that each token is computed once."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.data.amounts import Amounts
from lib.data.collate import Grouped, TokenGroup, matrix, split_by_length
from lib.data.completions import clusters
from lib.models import cache
from lib.models.adapters import plain
from lib.models.cache import Beginning, Layers, SharedCache
from lib.models.language import Decoder, Encoded, LanguageModel, Seq2Seq

COMPACT = 0.75  # the batch is made smaller when no more than so many of its rows still go on


class State:
    """Some rows, whose next tokens are predicted."""

    def logits(self) -> Tensor:
        """(rows that go on, words)"""
        raise NotImplementedError

    def go_on(self, kept: list[int], tokens: list[int]) -> None:
        """With these of the rows that went on, and a token behind each."""
        raise NotImplementedError

    def alone(self, prompt: np.ndarray, written: list[int]) -> Tensor:
        """(1, words) logits of what follows, of one row with nothing kept and nothing beside it"""
        raise NotImplementedError


def begin(model: LanguageModel, prompts: Sequence[np.ndarray], pad: int, room: int) -> State:
    """`room`: most tokens that are written."""
    if isinstance(model, Decoder):
        return DecoderState(model, prompts, pad, room)
    assert isinstance(model, Seq2Seq)
    return Seq2SeqState(model, prompts, pad)


def installed(model: LanguageModel) -> AbstractContextManager[None]:
    """While a model writes."""
    return cache.installed(plain(model.backbone)) if isinstance(model, Decoder) else nullcontext()


class DecoderState(State):
    """Keys and values; what some prompts begin with alike is computed and kept once."""

    def __init__(self, model: Decoder, prompts: Sequence[np.ndarray], pad: int, room: int) -> None:
        self.model, self.device, self.pad = model, model.device, pad
        (self.inner,) = model.called()
        shared = clusters(prompts)
        # what is computed once: what a cluster shares; of a row alone all but its last token
        sizes = [cluster.shared or len(prompts[cluster.rows[0]]) - 1 for cluster in shared]
        begun = [
            (cluster.rows, prompts[cluster.rows[0]][:size])
            for cluster, size in zip(shared, sizes, strict=True)
        ]
        lengths = np.zeros(len(prompts), np.int64)
        for cluster, size in zip(shared, sizes, strict=True):
            lengths[cluster.rows] = size
        rests = [prompt[length:] for prompt, length in zip(prompts, lengths, strict=True)]
        width = max(map(len, rests))
        layers = plain(model.backbone).config.num_hidden_layers
        self.cache = SharedCache(
            self._prefilled([pair for pair in begun if len(pair[1])]), layers, width + room
        )
        ids, positions = np.full((len(rests), width), pad, np.int64), np.zeros((len(rests), width), np.int64)
        for line, (rest, length) in enumerate(zip(rests, lengths, strict=True)):  # padded on the left
            ids[line, width - len(rest) :] = rest
            positions[line, width - len(rest) :] = np.arange(length, length + len(rest))
        self.first = self._on_device(np.array([width - len(rest) for rest in rests]))  # column, of each row
        self.next = self._on_device(positions[:, -1] + 1)
        self.lines = torch.arange(len(prompts), device=self.device)  # those that go on
        columns = torch.arange(width, device=self.device)
        before, itself = columns[:, None] >= columns, columns[:, None] == columns
        # what pads sees itself: a softmax over nothing would be NaN
        mask = before & (columns >= self.first[:, None, None]) | itself
        self.last = self._forward(self._on_device(ids), self._on_device(positions), mask)

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _prefilled(self, begun: list[tuple[list[int], np.ndarray]]) -> list[Beginning]:
        found = []
        for members in split_by_length(np.array([len(ids) for _, ids in begun])) if begun else ():
            ids = self._on_device(matrix([begun[member][1] for member in members], self.pad))
            kept = _new_cache()
            self.inner(input_ids=ids, past_key_values=kept, use_cache=True)  # on the right nobody looks
            for line, member in enumerate(members):
                rows, size = begun[member][0], len(begun[member][1])
                layers: Layers = [
                    (layer.keys[line, :, :size], layer.values[line, :, :size]) for layer in kept.layers
                ]
                found.append(Beginning(rows, layers))
        return found

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(rows, hidden) of the last tokens; the mask is (rows, length, own tokens)"""
        with self.cache.reading():
            states = self.inner(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask[:, None],
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state
        return states[:, -1]

    def logits(self) -> Tensor:
        return self.model.backbone.get_output_embeddings()(self.last)

    def go_on(self, kept: list[int], tokens: list[int]) -> None:
        """The others are computed too, until there are so many of them that a copy of the rest costs less."""
        self.lines = self.lines[torch.tensor(kept, device=self.device)]
        if len(self.lines) <= COMPACT * len(self.next):
            self.cache.batch_select_indices(self.lines)
            self.first, self.next = self.first[self.lines], self.next[self.lines]
            self.lines = torch.arange(len(kept), device=self.device)
        ids = torch.full_like(self.next, self.pad)
        ids[self.lines] = torch.tensor(tokens, device=self.device)
        columns = torch.arange(self.cache.get_seq_length() + 1, device=self.device)
        mask = (columns >= self.first[:, None])[:, None]
        self.last = self._forward(ids[:, None], self.next[:, None], mask)[self.lines]
        self.next = self.next + 1

    def alone(self, prompt: np.ndarray, written: list[int]) -> Tensor:
        ids = self._on_device(np.concatenate([prompt, written]).astype(np.int64)[None])
        return self.model.backbone.get_output_embeddings()(self.model.states([TokenGroup(ids, None)])[-1:])


class Seq2SeqState(State):
    """What the encoder made of some rows, and the decoder's keys and values."""

    def __init__(self, model: Seq2Seq, prompts: Sequence[np.ndarray], pad: int) -> None:
        from transformers import EncoderDecoderCache

        self.model, self.device, self.pad = model, model.device, pad
        self.source = self._encoded(prompts)
        self.cache = EncoderDecoderCache(_new_cache(), _new_cache())
        self.start = model.backbone.config.decoder_start_token_id
        self.last = self._forward(torch.full((len(prompts), 1), self.start, device=self.device))

    def _encoded(self, prompts: Sequence[np.ndarray]) -> Encoded:
        lengths = np.array([len(prompt) for prompt in prompts])
        ids = matrix(list(prompts), self.pad)
        there = torch.from_numpy((np.arange(ids.shape[1])[None] < lengths[:, None]).astype(np.int64))
        mask = there if lengths.min() < ids.shape[1] else None
        source = Grouped([TokenGroup(torch.from_numpy(ids), mask)], torch.arange(len(prompts)), Amounts(), 0)
        return self.model.encode(source.to(self.device))

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
        if len(kept) < len(self.last):
            lines = torch.tensor(kept, device=self.device)
            self.cache.batch_select_indices(lines)
            self.source = self.source.of(lines)
        self.last = self._forward(torch.tensor(tokens, device=self.device)[:, None])

    def alone(self, prompt: np.ndarray, written: list[int]) -> Tensor:
        starts = torch.tensor([[self.start, *written]], device=self.device)
        states = self.model.states(self._encoded([prompt]), starts)
        return self.model.backbone.get_output_embeddings()(states[0, -1:])


def _new_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()
