"""Models that give each option of a row a score: an encoder with a small head, a decoder, or T5.

An option's score under a language model is the mean (or sum) of its tokens' log-probabilities after context
and question. All three answer with (rows, most options) in float32, -inf where a row has fewer options.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.data.amounts import Amounts
from lib.data.collate import Grouped
from lib.data.tree import Continuations, Trees, Widths
from lib.models.heads import Encoder, in_float32, new_head
from lib.models.language import Decoder, Seq2Seq


@dataclass(frozen=True)
class Options:
    """One sequence an option (context, question, option), and how many options each row has."""

    grouped: Grouped
    widths: Widths

    @property
    def amounts(self) -> Amounts:
        return self.grouped.amounts

    @property
    def computed_tokens(self) -> int:
        return self.grouped.computed_tokens

    def to(self, device: torch.device) -> "Options":
        return Options(self.grouped.to(device), self.widths.to(device))


class OptionEncoder(Encoder):
    """An encoder that reads context, question and one option at a time."""

    def __init__(self, backbone: Any, pooling: str, frozen: list[nn.Module], seed: int) -> None:
        super().__init__(backbone, pooling, frozen)
        self.head = new_head(self.hidden_size, self.hidden_size, 1, seed)

    def forward(self, options: Options) -> Tensor:
        scores = in_float32(self.head, self.encode(options.grouped)).squeeze(1)  # (options,)
        return options.widths.table(scores)


def score(of_tokens: Tensor, options: Continuations, how: str) -> Tensor:
    """(tokens,) log-probabilities of the options' tokens -> (rows, most options); `how`: mean or sum"""
    # a table of options by places: sums are then taken in the same order on every device
    table = of_tokens.new_zeros(len(options.sizes), options.longest)
    sums = table.index_put((options.option_of, options.place_of), of_tokens).sum(1)  # (options,)
    return options.widths.table(sums / options.sizes if how == "mean" else sums)


class CausalChooser(Decoder):
    """A decoder: context and question are computed once for all options of a row."""

    def __init__(self, backbone: Any, option_score: str, frozen: list[nn.Module]) -> None:
        super().__init__(backbone, frozen)
        self.option_score = option_score

    def forward(self, trees: Trees) -> Tensor:
        states = self.states(trees.groups)[trees.predictors]
        of_tokens = self.log_probabilities(states, trees.options.targets)
        return score(of_tokens, trees.options, self.option_score)


@dataclass(frozen=True)
class Pairs:
    """Context and question for the encoder of T5, the options for its decoder."""

    sources: Grouped  # one sequence a row
    starts: Tensor  # (options, length) int64: the decoder's input, an option behind the start token
    row_of: Tensor  # (options,) int64
    options: Continuations
    amounts: Amounts
    computed_tokens: int

    @property
    def widths(self) -> Widths:
        return self.options.widths

    def to(self, device: torch.device) -> "Pairs":
        return replace(
            self,
            sources=self.sources.to(device),
            starts=self.starts.to(device, non_blocking=True),
            row_of=self.row_of.to(device, non_blocking=True),
            options=self.options.to(device),
        )


class Seq2SeqChooser(Seq2Seq):
    """An encoder-decoder (T5): the encoder runs once a row."""

    def __init__(self, backbone: Any, option_score: str, frozen: list[nn.Module]) -> None:
        super().__init__(backbone, frozen)
        self.option_score = option_score

    def forward(self, pairs: Pairs) -> Tensor:
        encoded = self.encode(pairs.sources)
        decoded = self.states(encoded.of(pairs.row_of), pairs.starts)  # (options, length, hidden)
        states = decoded[pairs.options.option_of, pairs.options.place_of]
        of_tokens = self.log_probabilities(states, pairs.options.targets)
        return score(of_tokens, pairs.options, self.option_score)
