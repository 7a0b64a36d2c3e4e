"""What this project does in a step, without files and reports: the loader, the engine and the task."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.bench.clock import WARM_UP_STEPS, Clock
from lib.bench.setting import Setting
from lib.data.ahead import Ahead, pinned
from lib.data.loader import Loader, evaluation_batches
from lib.models import frozen_weights
from lib.models.language import log_probabilities
from lib.models.placement import place
from lib.process import dist
from lib.process.world import World
from lib.task import Batch
from lib.training.ddp import Ddp
from lib.training.engine import Turn
from lib.training.loop import draw_of
from lib.training.memory import peak_gib
from lib.training.optim import learning_rate


def train(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The loop's own parts: loader, engine, task."""
    config, task = setting.config, setting.task
    world = dist.setup(order["threads"]).settled(config.optim.precision)
    model, costs = setting.model(), task.costs(setting.train)
    frozen_weights.narrow(model, frozen_weights.settled(config))
    model = place(model, world.device)
    engine = Ddp(model, config.optim, world)

    def costliest(budget: int) -> tuple[Batch, str]:
        piece = max(evaluation_batches(costs, budget), key=lambda piece: piece.cost)
        return task.collate(setting.train, piece.rows), f"{len(piece.rows)} rows"

    fitted = engine.fit(costliest, task.loss, config.optim.token_budget)
    optim = replace(config.optim, token_budget=fitted.token_budget)
    engine.start(task.collate(setting.train, (0,)).to(world.device), task.loss, None)
    loader, clock = Loader(costs, optim), Clock(order.get("warm_up", WARM_UP_STEPS))
    losses: list[Tensor] = []
    with Ahead(_batches(setting, loader, world)) as ready:
        for number in range(1, loader.num_steps + 1):
            step = loader.step(number)
            for piece in step.micro_batches:
                batch, draw = next(ready), draw_of(optim.seed, number, piece.number)
                loss = task.loss(engine.forward(batch, Turn(draw, last=True)), batch)
                engine.backward(loss, 1 / step.num_targets)
                losses.append(loss.detach() / step.num_targets)
            engine.norm()
            engine.step(learning_rate(number, loader.num_steps, optim))
            clock.tick(step.num_rows)
    trained = float(torch.stack(losses).sum()) / loader.num_steps
    result = clock.result() | {"trained": trained, "token_budget": fitted.token_budget}
    return result | {"loss": setting.validation_loss(model)}


def _batches(setting: Setting, loader: Loader, world: World) -> Iterator[Batch]:
    """As the loop makes them, in a thread of its own."""
    for number in range(1, loader.num_steps + 1):
        for piece in loader.step(number).micro_batches:
            batch = setting.task.collate(setting.train, piece.rows)
            yield (pinned(batch) if world.device.type == "cuda" else batch).to(world.device)


def padding(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """Real / computed tokens of a whole epoch: what is computed is a function of the rows alone."""
    loader = Loader(setting.task.costs(setting.train), setting.config.optim)
    batches = [
        setting.task.collate(setting.train, piece.rows)
        for number in range(1, loader.num_steps + 1)
        for piece in loader.step(number).micro_batches
    ]
    real = sum(batch.amounts.real_tokens for batch in batches)
    computed = sum(batch.computed_tokens for batch in batches)
    return {"real_share": real / computed, "real_tokens": real, "rows": len(setting.train)}


def gradient(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The norm of our gradient of the first step, rows as the Trainer draws them: all of them."""
    config, task = setting.config, setting.task
    model = setting.model()
    model.train()
    batch = task.collate(setting.train, tuple(range(len(setting.train))))
    (task.loss(model(batch.inputs), batch) / config.optim.batch).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return {"gradient_norm": nn.utils.get_total_norm(gradients).item()}


def all_reduce(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """Seconds that the exchange of one whole gradient takes between two otherwise idle ranks."""
    import torch.distributed as torch_dist

    dist.setup(1)
    size = sum(parameter.numel() for parameter in setting.model().parameters() if parameter.requires_grad)
    flat = torch.zeros(size)
    seconds = []
    for _ in range(8):
        dist.barrier()
        began_s = time.perf_counter()
        torch_dist.all_reduce(flat)
        seconds.append(time.perf_counter() - began_s)
    dist.leave()
    return {"seconds": sorted(seconds)[4]}


def output_layer(order: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of an output layer and the loss, at a share of the positions of a micro-batch."""
    torch.manual_seed(0)
    states = torch.randn(order["tokens"], order["hidden"], requires_grad=True)
    layer = nn.Linear(order["hidden"], order["vocabulary"], bias=False)
    scored = torch.arange(0, order["tokens"], round(1 / order["share"]))
    targets = torch.randint(order["vocabulary"], (len(scored),))
    idle, seconds = peak_gib(torch.device("cpu")), []
    for _ in range(4):
        began_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            scores = log_probabilities(layer, states[scored], targets)
        scores.sum().backward()
        seconds.append(time.perf_counter() - began_s)
    return {"seconds": sorted(seconds)[1], "extra_gib": peak_gib(torch.device("cpu")) - idle}
