"""Models that give each option of a row a score: an encoder with a small head, a decoder, or T5.

An option's score under a language model is the mean (or sum) of its tokens' log-probabilities after context
and question. All three answer with (rows, most options) in float32, -inf where a row has fewer options.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib.data.collate import Grouped
from lib.data.tree import Continuations, Trees
from lib.models.adapters import plain
from lib.models.heads import Encoder, in_float32, new_head

# Logits that exist at once: 2**25 float32 numbers are 128 MiB. More are made in pieces, and once more in the
# backward pass, which costs a third of the output layer's time.
MOST_LOGITS = 1 << 25


@dataclass(frozen=True)
class Options:
    """One sequence an option (context, question, option), and how many options each row has."""

    grouped: Grouped
    widths: Tensor  # (rows,) int64

    @property
    def real_tokens(self) -> int:
        return self.grouped.real_tokens

    @property
    def computed_tokens(self) -> int:
        return self.grouped.computed_tokens

    def to(self, device: torch.device) -> "Options":
        return Options(self.grouped.to(device), self.widths.to(device, non_blocking=True))


def by_row(scores: Tensor, widths: Tensor) -> Tensor:
    """(options,) -> (rows, most options), -inf where a row has fewer"""
    most = int(widths.max())
    filled = torch.arange(most, device=widths.device)[None, :] < widths[:, None]  # (rows, most)
    table = scores.new_full(filled.shape, -torch.inf)
    return table.masked_scatter(filled, scores)


class OptionEncoder(Encoder):
    """An encoder that reads context, question and one option at a time."""

    def __init__(self, backbone: Any, pooling: str, frozen: list[nn.Module], seed: int) -> None:
        super().__init__(backbone, pooling, frozen)
        self.head = new_head(self.hidden_size, self.hidden_size, 1, seed)

    def forward(self, options: Options) -> Tensor:
        scores = in_float32(self.head, self.encode(options.grouped)).squeeze(1)  # (options,)
        return by_row(scores, options.widths)


class LanguageModel(nn.Module):
    """A model with an output layer over its words. `frozen` modules stay in evaluation mode."""

    def __init__(self, backbone: Any, option_score: str, frozen: list[nn.Module]) -> None:
        super().__init__()
        self.backbone, self.option_score = backbone, option_score
        self.frozen = tuple(frozen)  # a tuple: not registered a second time

    def called(self) -> list[Any]:
        """The modules of the backbone whose forward runs."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "LanguageModel":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def score(self, states: Tensor, options: Continuations) -> Tensor:
        """(tokens, hidden) states that predict the options' tokens -> (rows, most options)"""
        of_tokens = log_probabilities(self.backbone.get_output_embeddings(), states, options.targets)
        # a table of options by places: sums are then taken in the same order on every device
        sizes = torch.bincount(options.option_of)
        table = of_tokens.new_zeros(len(sizes), int(sizes.max()))
        sums = table.index_put((options.option_of, options.place_of), of_tokens).sum(1)  # (options,)
        return by_row(sums / sizes if self.option_score == "mean" else sums, options.widths)


def log_probabilities(output: Any, states: Tensor, targets: Tensor) -> Tensor:
    """(tokens,) float32 log-probability of each target under the output layer; a few logits at a time."""

    def piece(states: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(output(states).float(), targets, reduction="none")

    size = max(1, MOST_LOGITS // output.weight.shape[0])
    if len(targets) <= size:
        return piece(states, targets)
    parts = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(piece, *part, use_reentrant=False) for part in parts])


class CausalChooser(LanguageModel):
    """A decoder: context and question are computed once for all options of a row."""

    def called(self) -> list[Any]:
        return [plain(self.backbone).base_model]

    def forward(self, trees: Trees) -> Tensor:
        (inner,) = self.called()
        states = [
            inner(
                input_ids=group.ids, position_ids=group.positions, attention_mask=group.mask()
            ).last_hidden_state.flatten(0, 1)
            for group in trees.groups
        ]
        return self.score(torch.cat(states)[trees.predictors], trees.options)


@dataclass(frozen=True)
class Pairs:
    """Context and question for the encoder of T5, the options for its decoder."""

    sources: Grouped  # one sequence a row
    starts: Tensor  # (options, length) int64: the decoder's input, an option behind the start token
    row_of: Tensor  # (options,) int64
    options: Continuations
    real_tokens: int
    computed_tokens: int

    @property
    def widths(self) -> Tensor:
        return self.options.widths

    def to(self, device: torch.device) -> "Pairs":
        return replace(
            self,
            sources=self.sources.to(device),
            starts=self.starts.to(device, non_blocking=True),
            row_of=self.row_of.to(device, non_blocking=True),
            options=self.options.to(device),
        )


class Seq2SeqChooser(LanguageModel):
    """An encoder-decoder (T5): the encoder runs once a row."""

    def called(self) -> list[Any]:
        return [self.backbone.get_encoder(), self.backbone.get_decoder()]

    def forward(self, pairs: Pairs) -> Tensor:
        config = self.backbone.config
        encoder, decoder = self.called()
        most = max(group.ids.shape[1] for group in pairs.sources.groups)
        states, masks = [], []
        for group in pairs.sources.groups:
            mask = torch.ones_like(group.ids) if group.mask is None else group.mask
            encoded = encoder(input_ids=group.ids, attention_mask=mask).last_hidden_state
            states.append(F.pad(encoded, (0, 0, 0, most - encoded.shape[1])))
            masks.append(F.pad(mask, (0, most - mask.shape[1])))
        row_of = pairs.sources.order[pairs.row_of]
        decoded = decoder(
            input_ids=pairs.starts,
            encoder_hidden_states=torch.cat(states)[row_of],
            encoder_attention_mask=torch.cat(masks)[row_of],
        ).last_hidden_state  # (options, length, hidden)
        # t5 (not mt5) with one table for input and output scales the states in between
        tied = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        if config.model_type == "t5" and tied:
            decoded = decoded * config.d_model**-0.5
        return self.score(decoded[pairs.options.option_of, pairs.options.place_of], pairs.options)
