"""A model onto its device, with what makes that device fast. Training and scoring both come through here, so
that they compute the same bits."""

from typing import TypeVar

import torch
from torch import nn

from lib.models import cpu_attention, cpu_dropout

Model = TypeVar("Model", bound=nn.Module)


def place(model: Model, device: torch.device, precision: str) -> Model:
    """The same model, on `device`; on CPUs with the kernels of this project where they are faster than
    torch's."""
    if device.type == "cpu":
        cpu_dropout.enable(model)
        if precision == "bf16":
            cpu_attention.enable(model.backbone)
    return model.to(device)
