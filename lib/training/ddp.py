"""The engine for models that fit on every device: torch's DistributedDataParallel, or the bare model when
there is one process."""

import gc
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lib.config import OptimConfig
from lib.process.world import World
from lib.training import optim
from lib.training.checkpoint import Snapshot
from lib.training.engine import Fitted, Loss, MakeBatch, Turn
from lib.training.passes import Passes

WARM_UP_CALLS = (
    2  # DDP puts its buckets into their final order at the start of the second synchronized forward
)


class Ddp:
    """The verbs of lib.training.engine.Engine. Every rank holds all of the model and of the optimizer's
    state."""

    whole_on_each_rank = True
    one_call = False
    in_order = False

    def __init__(self, module: nn.Module, config: OptimConfig, world: World) -> None:
        self.module, self.config, self.world = module, config, world
        self.wrapped: nn.Module = module
        self.optimizer: torch.optim.Optimizer
        self.last_norm: Tensor

    def fit(self, costliest: MakeBatch, loss: Loss, token_budget: int) -> Fitted:
        passes = Passes(self.module, loss, optim.state_bytes(self.module, self.config), self.world)
        return passes.fit(costliest, token_budget)

    def start(self, batch: Any, loss: Loss, optimizer: Mapping[str, Tensor] | None) -> None:
        """DDP sorts its buckets after the first pass; without the ones of zero weight here, sums over three
        or more ranks would be taken in another order in the first step after a resume than without a stop."""
        if self.world.size > 1:
            # Unused parameters were frozen beforehand, so DDP need not search for them at every step.
            with warnings.catch_warnings():
                # the argument that replaces this one in torch 2.13 is unknown to 2.11
                warnings.filterwarnings("ignore", message=".*broadcast_buffers")
                self.wrapped = DistributedDataParallel(
                    self.module, gradient_as_bucket_view=True, broadcast_buffers=False
                )
        self.optimizer = optim.make(self.module, self.config)
        if optimizer is not None:
            optim.load_state_tensors(self.module, self.optimizer, optimizer)
        for _ in range(WARM_UP_CALLS if self.world.size > 1 else 0):
            self.backward(loss(self.forward(batch, Turn(0, last=True)), batch), scale=0.0)
        self.forget()

    def forward(self, batch: Any, turn: Turn) -> Any:
        torch.manual_seed(turn.draw)
        self.wrapped.train()
        # as DDP.no_sync does; the forward pass decides, not the backward pass
        if self.wrapped is not self.module:
            self.wrapped.require_backward_grad_sync = turn.last  # type: ignore[assignment]
        with self.world.autocast():
            return self.wrapped(batch.inputs)

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        (loss_sum * (scale * self.world.size)).backward()  # DDP averages over ranks; the promise is a sum

    def norm(self) -> Tensor:
        # added up in float64, as DeepSpeed does: in float32 millions of squares are 1e-5 off
        norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in self._with_gradient()]
        self.last_norm = torch.linalg.vector_norm(torch.stack(norms)).float()
        return self.last_norm

    def step(self, learning_rate: float) -> None:
        if self.config.clip is not None:
            nn.utils.clip_grads_with_norm_(self._with_gradient(), self.config.clip, self.last_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.forget()

    def _with_gradient(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.module.parameters() if parameter.grad is not None]

    def forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=self.world.size == 1)  # DDP's gradients are views of its buckets

    def whole(self) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def end(self) -> None:
        # a process group must not go with DDP as its last owner: the thread that takes it down would wait for
        # the group's own threads while they wait for this one to let go of Python's lock
        self.wrapped = self.module
        gc.collect()
        self.optimizer.state.clear()
        self.module.zero_grad(set_to_none=True)

    def snapshot(self, kept: Mapping[str, Tensor], alone: bool = False) -> Snapshot:
        if not (alone or self.world.is_main):  # all ranks have the same: one copy is enough
            return Snapshot()
        return Snapshot.of(kept.items(), optim.state_tensors(self.module, self.optimizer).items())
