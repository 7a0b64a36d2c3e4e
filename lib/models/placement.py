"""A model onto its device, with what makes that device fast. Training and scoring both come through here, so
that they compute the same bits."""

from typing import Any, TypeVar

import torch
from torch import nn

from lib.models import cpu_attention, cpu_dropout, tree_attention

Model = TypeVar("Model", bound=nn.Module)


def place(model: Model, device: torch.device) -> Model:
    """The same model, on `device`, with the kernels of this project where they are faster than torch's."""
    if device.type == "cpu":
        cpu_dropout.enable(model)
    attend(model)
    return model.to(device)


def attend(model: Any) -> None:
    """Let a model use the attention that is fastest for it, and masks that nobody waits for."""
    (tree_attention if model.causal else cpu_attention).enable(model.backbone)
