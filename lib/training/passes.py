"""Passes before step 1 of a model that each rank holds whole: what fits, and what no gradient reaches."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lib.process.world import World
from lib.training import memory
from lib.training.engine import Fitted, Loss, MakeBatch
from lib.training.unused import freeze_unused


@dataclass(frozen=True)
class Passes:
    """A forward and a backward pass of `module`, with room held on the device for what comes later."""

    module: nn.Module
    loss: Loss
    room: int
    """Bytes, of the optimizer's state."""
    world: World

    def __call__(self, batch: Any) -> None:
        with memory.held(self.room, self.world.device):
            batch = batch.to(self.world.device)
            with self.world.autocast():
                output = self.module(batch.inputs)
            self.loss(output, batch).backward()

    def fit(self, costliest: MakeBatch, token_budget: int) -> Fitted:
        """As lib.training.engine.Engine.fit."""
        self.module.train()
        token_budget = memory.probe(self, costliest, token_budget, self.world)
        used = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        self.module.zero_grad(set_to_none=True)
        return Fitted(token_budget, freeze_unused(self.module, used))
