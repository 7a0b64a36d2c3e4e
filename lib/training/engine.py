"""One optimizer step on one or many processes, behind four verbs: forward, backward, step, and the state.

A gradient is the gradient of (sum of losses over all ranks) / (targets over all ranks): never a mean of
means.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lib.config import Config
from lib.training import optim, precision
from lib.training.dist import World

WARM_UP_CALLS = (
    2  # DDP puts its buckets into their final order at the start of the second synchronized forward
)


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step did."""

    gradient_norm: float
    moved: bool
    """False: the gradient was not finite and the weights stayed where they were."""


class Ddp:
    """torch's DistributedDataParallel, or the bare model when there is one process."""

    def __init__(self, model: nn.Module, config: Config, world: World, precision_name: str) -> None:
        self.module, self.config, self.world, self.precision = model, config, world, precision_name
        self.wrapped: nn.Module = model
        if world.size > 1:
            # Unused parameters were frozen beforehand, so DDP need not search for them at every step.
            with (
                warnings.catch_warnings()
            ):  # the argument that replaces this one in torch 2.13 is unknown to 2.11
                warnings.filterwarnings("ignore", message=".*broadcast_buffers")
                self.wrapped = DistributedDataParallel(
                    model, gradient_as_bucket_view=True, broadcast_buffers=False
                )
        self.optimizer = optim.make(model, config.optim)

    def warm_up(self, batch: Any, loss: Callable[[Any, Any], Tensor]) -> None:
        """Passes of zero weight. DDP sorts its buckets after the first one; without this, sums over three or
        more ranks would be taken in another order in the first step after a resume than without a stop."""
        for _ in range(WARM_UP_CALLS if self.world.size > 1 else 0):
            self.backward(loss(self.forward(batch, draw=0, last=True), batch), scale=0.0)
        self.optimizer.zero_grad(set_to_none=self.world.size == 1)

    def forward(self, batch: Any, draw: int, last: bool) -> Any:
        """Outputs of a training pass. `draw` seeds dropout: keyed by what is computed, not by who computes
        it. `last` of a step: ranks exchange gradients in the backward pass of this one only."""
        torch.manual_seed(draw)
        self.wrapped.train()
        if self.world.size > 1:  # as DDP.no_sync does; the forward pass decides, not the backward pass
            self.wrapped.require_backward_grad_sync = last  # type: ignore[assignment]
        with precision.autocast(self.precision, self.world.device):
            return self.wrapped(batch.inputs)

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        """Add the gradient of `loss_sum * scale`."""
        (loss_sum * (scale * self.world.size)).backward()  # DDP averages over ranks; the promise is a sum

    def step(self, learning_rate: float) -> StepResult:
        """Clip, update, forget the gradient. Nothing moves when the gradient is not finite; all ranks see the
        same gradient, so all decide alike."""
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])  # type: ignore[misc]
        finite = math.isfinite(norm.item())
        if finite:
            if self.config.optim.clip is not None:
                nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.forget()
        return StepResult(norm.item(), finite)

    def forget(self) -> None:
        """Drop the gradient."""
        self.optimizer.zero_grad(set_to_none=self.world.size == 1)  # DDP's gradients are views of its buckets

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors by name, as they are (not copies)."""
        return optim.state_tensors(self.module, self.optimizer)

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        optim.load_state_tensors(self.module, self.optimizer, tensors)


def freeze_unused(model: nn.Module, used: Iterable[nn.Parameter]) -> list[str]:
    """Freeze the parameters that no gradient reaches (a pooler that nobody reads); returns their names."""
    reached = {id(parameter) for parameter in used}
    names = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in reached:
            parameter.requires_grad_(False)
            names.append(name)
    return names
