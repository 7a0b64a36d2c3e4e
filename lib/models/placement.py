"""A model onto its device, with what makes that device fast. Training and scoring both come through here, so
that they compute the same bits."""

from typing import TypeVar

import torch
from torch import nn

from lib.models import cpu_attention, cpu_dropout, tree_attention
from lib.models.language import Decoder

Model = TypeVar("Model", bound=nn.Module)


def place(model: Model, device: torch.device, precision: str) -> Model:
    """The same model, on `device`, with the kernels of this project where they are faster than torch's."""
    if device.type == "cpu":
        cpu_dropout.enable(model)
    attend(model, device, precision)
    return model.to(device)


def attend(model: nn.Module, device: torch.device, precision: str) -> None:
    """Let a model use the attention that is fastest for it there."""
    if isinstance(model, Decoder):
        tree_attention.enable(model.backbone)
    elif device.type == "cpu" and precision == "bf16":
        cpu_attention.enable(model.backbone)
