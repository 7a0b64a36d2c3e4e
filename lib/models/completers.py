"""Models that write a text behind a prompt. In training they say how likely each token of the text is; the
logits of other places are never made."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lib.data.amounts import Amounts
from lib.data.collate import Grouped
from lib.data.completions import Texts
from lib.models import language
from lib.models.language import Decoder, LanguageModel, Seq2Seq


class Likely(NamedTuple):
    """How the model sees the tokens of some texts."""

    log_probabilities: Tensor  # (tokens,) float32
    right: Tensor  # (tokens,) bool: it is the likeliest of all


def likely(model: LanguageModel, states: Tensor, targets: Tensor) -> Likely:
    """(tokens, hidden) states that predict the targets (tokens,); a few logits at a time."""
    output = model.backbone.get_output_embeddings()

    def piece(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = output(states).float()
        right = logits.detach().argmax(1) == targets
        return -F.cross_entropy(logits, targets, reduction="none"), right

    size = language.piece_size(output, len(targets))
    if len(targets) <= size:
        return Likely(*piece(states, targets))
    pairs = zip(states.split(size), targets.split(size), strict=True)
    parts = [checkpoint(piece, *pair, use_reentrant=False) for pair in pairs]
    return Likely(*(torch.cat(column) for column in zip(*parts, strict=True)))


class CausalCompleter(Decoder):
    """A decoder."""

    def forward(self, texts: Texts) -> Likely:
        states = [self.states(some) for some in (texts.trees, texts.groups) if some]
        return likely(self, torch.cat(states)[texts.predictors], texts.targets)


@dataclass(frozen=True)
class SourcesAndTexts:
    """Prompts for the encoder of T5, texts for its decoder."""

    sources: Grouped  # one sequence a row
    starts: Tensor  # (rows, length) int64: the decoder's input, a text behind the start token
    predictors: Tensor  # (tokens,) places in the decoder's flattened states
    targets: Tensor  # (tokens,) int64
    amounts: Amounts
    computed_tokens: int

    def to(self, device: torch.device) -> "SourcesAndTexts":
        return replace(
            self,
            sources=self.sources.to(device),
            starts=self.starts.to(device, non_blocking=True),
            predictors=self.predictors.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
        )


class Seq2SeqCompleter(Seq2Seq):
    """An encoder-decoder (T5)."""

    def forward(self, texts: SourcesAndTexts) -> Likely:
        states = self.states(self.encode(texts.sources), texts.starts).flatten(0, 1)
        return likely(self, states[texts.predictors], texts.targets)
