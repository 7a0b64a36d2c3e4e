"""What never trains is kept in bfloat16 where its products are taken in bfloat16 anyway: 2 bytes a number,
not 4, and no copy for the backward pass (autocast makes one of each float32 weight, 2 bytes more).

Under autocast the products are the same to the bit, for it rounds weights in the same way. Where products are
taken in float32 (texts, checks) the rounded weights take part in them.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lib.config import Config


class FrozenLinear(nn.Linear):
    """A linear layer whose weight has fewer bits than what it is multiplied with."""

    def forward(self, vectors: Tensor) -> Tensor:
        if torch.is_autocast_enabled(vectors.device.type):
            return super().forward(vectors)
        return F.linear(vectors, self.weight.to(vectors.dtype), self.bias)


class FrozenConv1D(Conv1D):
    """The same for gpt2's linear layer, whose weight lies the other way."""

    def forward(self, vectors: Tensor) -> Tensor:
        if torch.is_autocast_enabled(vectors.device.type):
            return super().forward(vectors)
        return F.linear(vectors, self.weight.to(vectors.dtype).t(), self.bias)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FrozenLinear, Conv1D: FrozenConv1D}


def settled(config: Config, recorded: str | None = None) -> Config:
    """With what the base is kept in instead of auto; `recorded`: as the run began."""
    asked = config.adapter.base_precision
    chosen = recorded or ("bf16" if asked == "auto" else asked)
    adapter = replace(config.adapter, base_precision=chosen)  # type: ignore[arg-type]
    return replace(config, adapter=adapter)


def wanted(config: Config) -> bool:
    """Is this experiment's frozen base in bfloat16? That of LoRA; one in few bits stays as it is."""
    adapter = config.adapter
    in_full = bool(adapter.lora_rank) and adapter.quantize == "none"
    return in_full and config.optim.precision == "bf16" and adapter.base_precision == "bf16"


def _layers(backbone: Any) -> Iterator[tuple[str, Any]]:
    """The layers whose weights may be rounded: frozen, not in few bits, of no other module besides (tied
    tables), and not among those that the family asks to be kept in float32."""
    plain = backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone
    keep = set(getattr(plain, "_keep_in_fp32_modules", None) or ())
    owners: dict[int, int] = {}
    for module in backbone.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in backbone.named_modules():
        if type(module) not in KINDS or keep.intersection(name.split(".")):
            continue
        weight: Any = module.weight
        if not weight.requires_grad and weight.is_floating_point() and owners[id(weight)] == 1:
            yield name, module


def names(backbone: Any) -> set[str]:
    """Of the weights that `narrow` would round, by the names of backbone.state_dict()."""
    return {f"{name}.weight" for name, _ in _layers(backbone)}


def rounded(weight: Tensor) -> Tensor:
    """What is left of a weight, in the type that it had."""
    return weight.to(torch.bfloat16).to(weight.dtype)


def narrow(model: Any, config: Config) -> None:
    """Let the frozen base be kept in bfloat16 from when it is placed on, if it is `wanted`."""
    for _, module in list(_layers(model.backbone)) if wanted(config) else ():
        module.__class__ = KINDS[type(module)]


def types(model: nn.Module) -> list[tuple[nn.Parameter, torch.dtype]]:
    """What each weight is kept in. Weights of few bits, and what stands beside them, stay as they are."""
    few_bits = any(not parameter.is_floating_point() for parameter in model.parameters())
    narrow = {id(module.weight) for module in model.modules() if isinstance(module, tuple(KINDS.values()))}
    return [
        (parameter, torch.bfloat16 if id(parameter) in narrow else torch.float32)
        for parameter in (() if few_bits else model.parameters())
    ]


def round_off(model: Any, config: Config) -> None:
    """The numbers of `narrow`, in float32: what a merged model is made of."""
    for _, module in list(_layers(model.backbone)) if wanted(config) else ():
        module.weight.data = rounded(module.weight.data)
