"""Run by test_engine.py: python tests/engine_checks.py [RECIPE] WORDS

Trains as scripts/train.py does with these words, of which --devices is one, on a throw-away engine. It is all
that such an engine costs: this class, and its name in lib/training/strategies.py.
"""

import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse, split_recipe
from lib.config import Config
from lib.launching.workers import launch
from lib.process import dist
from lib.process.world import World
from lib.training import optim, strategies
from lib.training.checkpoint import Snapshot
from lib.training.engine import Fitted, Loss, MakeBatch, Turn
from lib.training.unused import freeze_unused


class Owners:
    """ZeRO-1 by hand: all ranks sum all gradients, but each one updates, and keeps the moments of, its own
    share of the parameters. No rank alone holds what a checkpoint needs."""

    whole_on_each_rank = False
    one_call = in_order = False

    def __init__(self, module: nn.Module, config: Config, world: World) -> None:
        self.module, self.config, self.world = module, config.optim, world

    def fit(self, costliest: MakeBatch, loss: Loss, token_budget: int) -> Fitted:
        batch = costliest(token_budget)[0].to(self.world.device)
        self.module.train()
        loss(self.module(batch.inputs), batch).backward()
        used = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        self.module.zero_grad(set_to_none=True)
        return Fitted(token_budget, freeze_unused(self.module, used))

    def start(self, batch: Any, loss: Loss, optimizer: Mapping[str, Tensor] | None) -> None:
        named = [(name, value) for name, value in self.module.named_parameters() if value.requires_grad]
        self.owned = {name: (number % self.world.size, value) for number, (name, value) in enumerate(named)}
        self.optimizer = optim.make(self.module, self.config)
        mine = {key: value for key, value in (optimizer or {}).items() if self.is_mine(key.split("/")[0])}
        optim.load_state_tensors(self.module, self.optimizer, mine)

    def is_mine(self, name: str) -> bool:
        return self.owned[name][0] == self.world.rank

    def forward(self, batch: Any, turn: Turn) -> Any:
        torch.manual_seed(turn.draw)
        self.module.train()
        return self.module(batch.inputs)

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        (loss_sum * scale).backward()

    def norm(self) -> Tensor:
        for _, parameter in self.owned.values():
            torch_dist.all_reduce(parameter.grad)
        self.last_norm = nn.utils.get_total_norm([parameter.grad for _, parameter in self.owned.values()])
        return self.last_norm

    def step(self, learning_rate: float) -> None:
        parameters = [parameter for _, parameter in self.owned.values()]
        nn.utils.clip_grads_with_norm_(parameters, self.config.clip or math.inf, self.last_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for owner, parameter in self.owned.values():
            parameter.grad = parameter.grad if owner == self.world.rank else None
        self.optimizer.step()
        for owner, parameter in self.owned.values():
            torch_dist.broadcast(parameter.data, owner)
        self.forget()

    def forget(self) -> None:
        self.module.zero_grad(set_to_none=True)

    def whole(self) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def end(self) -> None:
        pass

    def snapshot(self, kept: Mapping[str, Tensor], alone: bool = False) -> Snapshot:
        assert not alone, "the loop asks only engines whose ranks hold everything"
        moments = {}
        for name, (owner, parameter) in self.owned.items():
            for kind in ("exp_avg", "exp_avg_sq", "step"):
                value = torch.zeros(()) if kind == "step" else torch.empty_like(parameter)
                if self.is_mine(name):
                    value = self.optimizer.state[parameter][kind]
                torch_dist.broadcast(value, owner)
                moments[f"{name}/{kind}"] = value
        return Snapshot.of(kept.items(), moments.items()) if self.world.is_main else Snapshot()


def main(words: list[str]) -> int:
    name, argv = split_recipe(words)
    config = parse(recipe.load(name).config, argv, "test")
    if not dist.under_torchrun():
        return launch(Path(__file__), words, config.compute.devices or 1)
    strategies.make = Owners  # type: ignore[assignment]
    return exits.run(lambda: run.train(config), quiet=not dist.env_is_main())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
