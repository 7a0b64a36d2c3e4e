"""Language models as the tasks use them: the states of the tokens that matter, and how likely the words that
follow are; logits are made only where something is predicted."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib.data.collate import Grouped, TokenGroup
from lib.data.tree import Tree
from lib.models import tree_attention
from lib.models.adapters import plain

# Logits that exist at once: 2**25 float32 numbers are 128 MiB. More are made in pieces, and once more in the
# backward pass, which costs a third of the output layer's time.
MOST_LOGITS = 1 << 25


class LanguageModel(nn.Module):
    """A model with an output layer over its words. `frozen` modules stay in evaluation mode."""

    causal = False
    """Whether no token of what it is called with looks to its right."""

    def __init__(self, backbone: Any, frozen: list[nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.frozen = tuple(frozen)  # a tuple: not registered a second time

    def called(self) -> list[Any]:
        """The modules of the backbone whose forward runs."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where it computes; weights that are kept on the disk have no place of their own."""
        places = (parameter.device for parameter in self.backbone.parameters())
        there = next((place for place in places if place.type != "meta"), None)
        return there or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def train(self, mode: bool = True) -> "LanguageModel":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def log_probabilities(self, states: Tensor, targets: Tensor) -> Tensor:
        """(tokens, hidden), (tokens,) -> (tokens,) float32: of each target after its state"""
        return log_probabilities(self.backbone.get_output_embeddings(), states, targets)


def no_mask(ids: Tensor) -> Tensor:
    """What a causal model gets for a mask. Padding stands on the right, where no token looks, so it needs
    none, and the fast kernels stay open: tree_attention drops these ones. They keep transformers from looking
    for packed sequences, for which it would wait for the device."""
    return torch.ones_like(ids)


class Decoder(LanguageModel):
    """A causal language model."""

    causal = True

    def called(self) -> list[Any]:
        return [plain(self.backbone).base_model]

    def states(self, groups: list[Tree] | list[TokenGroup]) -> Tensor:
        """(tokens of all groups, hidden), padding included"""
        return torch.cat([self._states(group).flatten(0, 1) for group in groups])

    def _states(self, group: Tree | TokenGroup) -> Tensor:
        (inner,) = self.called()
        if isinstance(group, TokenGroup):
            return inner(input_ids=group.ids, attention_mask=no_mask(group.ids)).last_hidden_state
        states = inner(
            input_ids=group.ids,
            position_ids=group.positions,
            attention_mask=group.mask(),
            **{tree_attention.KEYWORD: group.begin},
        )
        return states.last_hidden_state


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of its sequences."""

    states: Tensor  # (sequences, longest, hidden)
    mask: Tensor | None  # (sequences, longest) int64, 1 on tokens; None when nothing is padded

    def of(self, sequences: Tensor) -> "Encoded":
        """Those of the sequences with these numbers, one for each."""
        return Encoded(self.states[sequences], None if self.mask is None else self.mask[sequences])


class Seq2Seq(LanguageModel):
    """An encoder-decoder (T5)."""

    def called(self) -> list[Any]:
        return [self.backbone.get_encoder(), self.backbone.get_decoder()]

    def encode(self, sources: Grouped) -> Encoded:
        """In the order of the sequences."""
        encoder, _ = self.called()
        most = max(group.ids.shape[1] for group in sources.groups)
        states, masks = [], []
        for group in sources.groups:
            encoded = encoder(input_ids=group.ids, attention_mask=group.mask).last_hidden_state
            mask = torch.ones_like(group.ids) if group.mask is None else group.mask
            states.append(F.pad(encoded, (0, 0, 0, most - encoded.shape[1])))
            masks.append(F.pad(mask, (0, most - mask.shape[1])))
        padded = any(group.mask is not None or group.ids.shape[1] < most for group in sources.groups)
        return Encoded(torch.cat(states), torch.cat(masks) if padded else None).of(sources.order)

    def states(self, source: Encoded, starts: Tensor) -> Tensor:
        """(sequences, length) ids behind a start token -> (sequences, length, hidden), as the output layer
        takes them; `source` has one sequence for each"""
        _, decoder = self.called()
        decoded = decoder(
            input_ids=starts, encoder_hidden_states=source.states, encoder_attention_mask=source.mask
        ).last_hidden_state
        return self.scaled(decoded)

    def scaled(self, decoded: Tensor) -> Tensor:
        """t5 (not mt5) with one table for input and output scales the states in between."""
        config = self.backbone.config
        tied = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return decoded * config.d_model**-0.5 if config.model_type == "t5" and tied else decoded


def piece_size(output: Any, num_tokens: int) -> int:
    """Tokens whose logits are made at once; all of them where ranks gather the layer's weights together (the
    mark of ZeRO-3), for each must call it as often as the others."""
    if hasattr(output.weight, "ds_id"):
        return num_tokens
    return max(1, MOST_LOGITS // output.weight.shape[0])


def log_probabilities(output: Any, states: Tensor, targets: Tensor) -> Tensor:
    """(tokens,) float32 log-probability of each target under the output layer; a few logits at a time."""

    def piece(states: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(output(states).float(), targets, reduction="none")

    size = piece_size(output, len(targets))
    if len(targets) <= size:
        return piece(states, targets)
    parts = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(piece, *part, use_reentrant=False) for part in parts])
