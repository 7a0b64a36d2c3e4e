"""A model onto its device, with what makes that device fast. Training and scoring both come through here, so
that they compute the same bits."""

from typing import Any, TypeVar

import torch
from torch import nn

from lib.models import cpu_attention, cpu_dropout, frozen_weights, tree_attention

Model = TypeVar("Model", bound=nn.Module)


def place(model: Model, device: torch.device) -> Model:
    """The same model, on `device`, with the kernels of this project where they are faster than torch's."""
    make_ready(model, device)
    return settle(model, device)


def make_ready(model: nn.Module, device: torch.device) -> None:
    """The kernels of `device` alone, without a weight moved."""
    if device.type == "cpu":
        cpu_dropout.enable(model)
    attend(model)


def settle(model: Model, device: torch.device) -> Model:
    """Each weight at its place and in the type it is kept in, one after the other: a machine's memory has no
    more of a model that is going to a GPU than its files' pages."""
    types = frozen_weights.types(model)
    changing = sum(p.numel() * (1 if p.dtype != dtype else -1) for p, dtype in types) > 0
    for parameter, dtype in types:
        # a few that stayed views of their file would keep all of its pages
        parameter.data = parameter.data.to(device).to(dtype, copy=changing and device.type == "cpu")
    return model.to(device)


def attend(model: Any) -> None:
    """Let a model use the attention that is fastest for it, and masks that nobody waits for."""
    (tree_attention if model.causal else cpu_attention).enable(model.backbone)
