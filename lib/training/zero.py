"""The engine that shares a model's state out over the ranks: DeepSpeed's ZeRO, stages 1 to 3 (Rajbhandari et
al. 2020, https://arxiv.org/abs/1910.02054).

Weights that train, gradients and sums are in float32 as under ddp, and the optimizer is the same: what
differs is where they are. Bytes of a number that trains, on n ranks: 8 + 8/n, 4 + 12/n, 16/n for the stages
1, 2, 3, beside 16 under ddp; within a step DeepSpeed has some more (scripts/bench.py strategies).
"""

import atexit
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lib import deepspeed_config
from lib.config import Config
from lib.models import adapters
from lib.process.world import World
from lib.training import memory, optim, zero_state
from lib.training.checkpoint import Snapshot
from lib.training.engine import Fitted, Loss, MakeBatch, Turn
from lib.training.passes import Passes
from lib.training.unused import freeze_unused, reached_on_paper


def _deepspeed() -> Any:
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)  # it warns of torch's AdamW
    # an exchange between CPUs of its own, which a compiler would have to be there for
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


class Computing(nn.Module):
    """The model as DeepSpeed calls it: DeepSpeed itself would switch autocast off."""

    def __init__(self, module: nn.Module, world: World) -> None:
        super().__init__()
        self.module, self.world = module, world

    def forward(self, inputs: Any) -> Any:
        with self.world.autocast():
            return self.module(inputs)


class Zero:
    """The verbs of lib.training.engine.Engine."""

    whole_on_each_rank = False
    in_order = False

    def __init__(self, module: nn.Module, config: Config, world: World) -> None:
        self.module, self.config, self.world = module, config, world
        self.stage = int(config.compute.strategy.removeprefix("zero"))
        self.one_call = self.stage == 3  # weights are gathered for each call, by all ranks at once
        self.engine: Any = None

    def fit(self, costliest: MakeBatch, loss: Loss, token_budget: int) -> Fitted:
        room = self._room()
        if not self.one_call or self.config.adapter.quantize != "none":  # each rank holds it
            fitted = Passes(self.module, loss, room, self.world).fit(costliest, token_budget)
            self._wrap(optim.make(self.module, self.config.optim))
            return fitted
        unused = freeze_unused(self.module, reached_on_paper(self.module, costliest(1)[0], loss))
        optimizer = optim.make(self.module, self.config.optim)  # while weights have their shapes
        _deepspeed()
        zero_state.share_out(self.module, self._configuration(), self.world.device)
        self._wrap(optimizer)

        def passes_of_shares(batch: Any) -> None:
            with memory.held(room, self.world.device):
                batch = batch.to(self.world.device)
                self.backward(loss(self.forward(batch, Turn(0, last=True)), batch), scale=0.0)
                self.forget()

        return Fitted(memory.probe(passes_of_shares, costliest, token_budget, self.world), unused)

    def _room(self) -> int:
        """Bytes of this rank's moments, which come with the first step."""
        on_device = self.config.compute.offload_optimizer == "none"
        return on_device * optim.state_bytes(self.module, self.config.optim) // self.world.size

    def _wrap(self, optimizer: torch.optim.Optimizer) -> None:
        deepspeed = _deepspeed()
        own = self.config.compute.offload_dir
        if own is not None and self.world.is_main:
            atexit.register(shutil.rmtree, own, ignore_errors=True)
        self.engine, *_ = deepspeed.initialize(
            model=Computing(self.module, self.world), optimizer=optimizer, config=self._configuration()
        )
        if self.config.compute.offload_optimizer == "none":
            zero_state.keep_weights_once(self.engine.optimizer, self.world.rank)

    def _configuration(self) -> dict[str, Any]:
        return deepspeed_config.merged(self.config, self.world.size)

    def start(self, batch: Any, loss: Loss, optimizer: Mapping[str, Tensor] | None) -> None:
        if optimizer is not None:
            zero_state.load(self.engine.optimizer, self.module, optimizer, self.world.rank)

    def forward(self, batch: Any, turn: Turn) -> Any:
        torch.manual_seed(turn.draw)
        self.engine.train()
        self.engine.set_gradient_accumulation_boundary(turn.last)
        return self.engine(batch.inputs)

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        # DeepSpeed averages over ranks; the promise is a sum
        self.engine.backward(loss_sum * (scale * self.world.size), scale_wrt_gas=False)

    def norm(self) -> Tensor:
        return zero_state.norm(self.engine.optimizer)

    def step(self, learning_rate: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        assert self.engine.was_step_applied(), "DeepSpeed skipped a step whose gradient is finite"

    def forget(self) -> None:
        zero_state.forget(self.engine.optimizer)

    @contextmanager
    def whole(self) -> Iterator[bool]:
        import deepspeed

        if self.stage < 3:
            yield True
        elif memory.has_room(adapters.count(self.module)["bytes"], self.world.device):
            with deepspeed.zero.unwrap_model_for_generation(self.engine):
                yield True
        else:
            yield False

    def end(self) -> None:
        with suppress(RuntimeError):  # of a device that failed, which is why it ends
            self.engine.destroy()
        zero_state.let_go(self.engine.optimizer, self.module)

    def snapshot(self, kept: Mapping[str, Tensor], alone: bool = False) -> Snapshot:
        assert not alone, "no rank has all of it"
        weights = zero_state.weights(self.module, kept)
        moments = zero_state.moments(self.engine.optimizer, self.module)
        if self.world.is_main:
            return Snapshot.of(weights, moments)
        for _ in (*weights, *moments):  # gathered by all ranks, kept by one
            pass
        return Snapshot()
