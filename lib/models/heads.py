"""A backbone with a small head: token vectors -> one vector a sequence -> classes."""

from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.base.tensor_file import write_tensors
from lib.data.collate import Grouped, TokenGroup
from lib.models import adapters, language

BACKBONE = "backbone."  # what stands before its weights' names in a model's state


def pool(states: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """(sequences, length, hidden) -> (sequences, hidden), padding left out."""
    if how == "first":
        return states[:, 0]
    if how == "last":
        if mask is None:
            return states[:, -1]
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    if mask is None:
        return states.mean(1)
    weights = mask.unsqueeze(-1).to(states.dtype)  # (sequences, length, 1)
    return (states * weights).sum(1) / weights.sum(1)


class Encoder(nn.Module):
    """A backbone whose token vectors become one vector a sequence. Heads are built on it."""

    def __init__(self, backbone: Any, pooling: str, frozen: list[nn.Module]) -> None:
        super().__init__()
        self.backbone, self.pooling = backbone, pooling
        # No token of a decoder looks to its right. Its layers say so: transformers lists XLNet among causal
        # models, and its tokens look both ways.
        self.causal = any(getattr(module, "is_causal", False) for module in backbone.modules())
        self.frozen = tuple(frozen)  # a tuple: not registered a second time

    @property
    def hidden_size(self) -> int:
        config = self.backbone.config
        return config.hidden_size if hasattr(config, "hidden_size") else config.dim

    def called(self) -> list[Any]:
        """The modules of the backbone whose forward runs."""
        return [self.backbone]

    def train(self, mode: bool = True) -> "Encoder":
        """Frozen parts stay in evaluation mode: dropout there would be noise that nothing can learn from."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def encode(self, grouped: Grouped) -> Tensor:
        """(sequences, hidden) one vector a sequence, in float32"""
        # One look-up for all groups: each look-up's backward pass makes a gradient as large as the vocabulary
        # (47 MB for MiniLM), which for short texts took a sixth of a step.
        embedded = self.backbone.get_input_embeddings()(
            torch.cat([group.ids.flatten() for group in grouped.groups])
        )
        pieces = embedded.split([group.ids.numel() for group in grouped.groups])
        parts = [self._encode(group, piece) for group, piece in zip(grouped.groups, pieces, strict=True)]
        return torch.cat(parts)[grouped.order]

    def read(self, group: TokenGroup) -> Tensor:
        """(sequences, hidden) of one tensor of ids"""
        device = next(self.backbone.parameters()).device
        group = group.to(device)
        return self._encode(group, self.backbone.get_input_embeddings()(group.ids))

    def _encode(self, group: TokenGroup, embedded: Tensor) -> Tensor:
        inputs = embedded.view(*group.ids.shape, -1)  # (sequences, length, embedding size)
        mask = language.no_mask(group.ids) if self.causal else group.mask
        states = self.backbone(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        return pool(states.float(), group.mask, self.pooling)  # (sequences, hidden)


def new_head(num_inputs: int, hidden: int, num_outputs: int, seed: int) -> nn.Sequential:
    """A hidden layer and the outputs, with weights drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(num_inputs, hidden), nn.GELU(), nn.Linear(hidden, num_outputs))


def in_float32(head: nn.Module, vectors: Tensor) -> Tensor:
    """A small head on float32 vectors. Under autocast its outputs would have 8 bits, and unlike rows the same
    score."""
    with torch.autocast(vectors.device.type, enabled=False):
        outputs: Tensor = head(vectors)
    return outputs


class HeadShape(NamedTuple):
    """What a classifier's head takes and gives."""

    num_texts: int
    num_outputs: int
    both_orders: bool = False
    """Answers for the texts turned round as well."""


class Classifier(Encoder):
    """The vectors of a row's texts side by side, a hidden layer, the classes."""

    def __init__(
        self, backbone: Any, pooling: str, frozen: list[nn.Module], shape: HeadShape, seed: int
    ) -> None:
        super().__init__(backbone, pooling, frozen)
        self.num_texts, self.both_orders = shape.num_texts, shape.both_orders
        self.head = new_head(shape.num_texts * self.hidden_size, self.hidden_size, shape.num_outputs, seed)

    def vectors(self, grouped: Grouped) -> Tensor:
        """(rows, texts, hidden) one vector a text, in float32"""
        vectors = self.encode(grouped)
        return vectors.view(-1, self.num_texts, vectors.shape[-1])

    def logits(self, vectors: Tensor) -> Tensor:
        """(rows, texts, hidden) -> (rows, classes) in float32. With two classes there is one output, the
        logit of the second against 0, and cross-entropy is binary cross-entropy."""
        outputs = in_float32(self.head, vectors.flatten(1))
        return F.pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs

    def forward(self, grouped: Grouped) -> Tensor:
        """(rows, 1 or 2 orders, classes): the texts as they stand and, if asked for, with the order turned"""
        vectors = self.vectors(grouped)
        orders = [vectors, vectors.flip(1)] if self.both_orders else [vectors]
        return torch.stack([self.logits(each) for each in orders], dim=1)


def of_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of a model's state, by the backbone's own names."""
    return {name.removeprefix(BACKBONE): t for name, t in state.items() if name.startswith(BACKBONE)}


def save(model: Any, state: dict[str, Tensor], folder: Path) -> None:
    """Write `state`, a copy of all of model.state_dict() or of what of it trains: the backbone as Hugging
    Face keeps it, or its adapter as peft does, and the head, if there is one, beside it."""
    base = model.backbone
    backbone = of_backbone(state)
    head = {name: tensor for name, tensor in state.items() if not name.startswith(BACKBONE)}
    if adapters.is_adapted(base):
        adapters.save(base, backbone, folder / "adapter")
    elif backbone:  # empty: all of it is frozen and can be had again
        base.config.architectures = [type(base).__name__]
        base.config.save_pretrained(folder / "backbone")
        # weights that are tied have two names in a state and are written once
        once = {name for name, _ in (*base.named_parameters(), *base.named_buffers())}
        write_tensors(
            folder / "backbone" / "model.safetensors",
            {name: tensor for name, tensor in backbone.items() if name in once},
        )
    if head:
        write_tensors(folder / "head.safetensors", head)


def load_head(model: Any, folder: Path) -> None:
    """Read the head that `save` wrote, if the model has one."""
    if hasattr(model, "head"):
        weights = safetensors.torch.load_file(folder / "head.safetensors")
        model.head.load_state_dict({key.removeprefix("head."): value for key, value in weights.items()})
