"""What each rank holds of a model in training, under one strategy: resident memory for each number that
trains."""

import ctypes
import gc
import time
from pathlib import Path
from typing import Any

from lib.bench.setting import Setting, prepare
from lib.models import frozen_weights
from lib.process import dist
from lib.process.world import World
from lib.training import strategies
from lib.training.engine import Engine, Turn

STEPS = 3  # moments are there after the first
STATUS = Path("/proc/self/status")


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """`rest`: bytes a number between two steps, `peak` within a step, of the rank that has most; `seconds` of
    a step. Of a CPU's resident memory, beyond what was there before the model."""
    setting = prepare(order)
    world = dist.setup(order["threads"], group_of_one=True).settled(setting.config.optim.precision)
    if setting.config.compute.strategy != "ddp":
        import deepspeed  # noqa: F401  its code is no part of the model
    trim()
    before = resident("VmRSS")
    model: Any = setting.task.build(None)
    frozen_weights.narrow(model, frozen_weights.settled(setting.config))
    model = strategies.place(model, setting.config, world)
    engine = strategies.make(model, setting.config, world)
    size = sum(parameter.numel() for parameter in model.parameters())
    answer = steps(engine, setting, world)
    engine.end()
    mine = [(kind - before) / size for kind in (answer["rest"], answer["peak"])]
    everybody = dist.gather_floats(mine)
    dist.leave()
    rest, peak = (max(column) for column in zip(*everybody, strict=True))
    return {"rest": rest, "peak": peak, "seconds": answer["seconds"], "numbers": size}


def steps(engine: Engine, setting: Setting, world: World) -> dict[str, float]:
    """Some steps of a single short row, whose activations are nothing beside the model."""
    task, rows = setting.task, setting.train
    batch = task.collate(rows, (int(rows.longest_by_row().argmin()),), engine.one_call).to(world.device)
    engine.fit(lambda budget: (batch, "one row"), task.loss, setting.config.optim.token_budget)
    engine.start(batch, task.loss, None)
    for number in range(STEPS):
        if number == STEPS - 1:
            trim()
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        began_s = time.perf_counter()
        engine.backward(task.loss(engine.forward(batch, Turn(0, last=True)), batch), 1.0)
        engine.norm()
        engine.step(1e-4)
        seconds = time.perf_counter() - began_s
    peak = resident("VmHWM")
    trim()
    return {"rest": resident("VmRSS"), "peak": peak, "seconds": seconds}


def resident(kind: str) -> int:
    """Bytes: VmRSS (now) or VmHWM (at most)."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[kind].split()[0]) * 1024


def trim() -> None:
    """Give back what nobody holds."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
