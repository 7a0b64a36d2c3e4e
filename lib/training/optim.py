"""AdamW and its learning rate, which is a pure function of the step: no scheduler state exists."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from lib.config import OptimConfig

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Loshchilov & Hutter 2019, and every library's default


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """The rate of step 1 .. num_steps: up linearly over the warm-up, then down to 0 after the last step."""
    warmup = math.ceil(config.warmup * num_steps)
    if step <= warmup:
        return config.lr * step / warmup
    done = (step - 1 - warmup) / max(1, num_steps - warmup)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "linear":
        return config.lr * (1 - done)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def check(config: OptimConfig, device: torch.device) -> None:
    """Raises ValueError for an optimizer that this device does not have."""
    if config.optimizer.startswith("paged") and device.type != "cuda":
        raise ValueError(f"--optimizer {config.optimizer} needs a CUDA GPU; use adamw8bit or adamw")


def make(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; weight decay on matrices only."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=BETAS, eps=EPSILON, fused=True)
    import bitsandbytes

    made = {"adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}[config.optimizer]
    return getattr(bitsandbytes.optim, made)(groups, lr=config.lr, betas=BETAS, eps=EPSILON)


def state_bytes(model: nn.Module, config: OptimConfig) -> int:
    """What the moments will take on the device, two for each number that trains; paged ones can leave it."""
    each = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 0}[config.optimizer]
    return each * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name, empty before the first step."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value)  # bitsandbytes counts steps in a plain int
    return tensors


def load_state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """The inverse of `state_tensors`. Raises KeyError when the tensors belong to other parameters."""
    parameters = dict(model.named_parameters())
    fused = isinstance(optimizer, torch.optim.AdamW)  # its step count lives on the parameter's device
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        plain = kind == "step" and not fused
        moved = int(value) if plain else value.to(parameters[name].device, copy=True)
        optimizer.state[parameters[name]][kind] = moved
