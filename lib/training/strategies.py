"""--strategy: which engine trains."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from torch import nn

from lib import deepspeed_config
from lib.config import Config
from lib.models import placement
from lib.models.placement import Model
from lib.process.world import World
from lib.training.ddp import Ddp
from lib.training.engine import Engine
from lib.training.ordered import Ordered


def make(module: nn.Module, config: Config, world: World) -> Engine:
    """The engine of `config.compute.strategy`."""
    if config.compute.strategy == "ddp":
        engine = Ordered if config.compute.reduce == "ordered" else Ddp
        return engine(module, config.optim, world)
    from lib.training.zero import Zero

    return Zero(module, config, world)


def in_words(config: Config) -> str:
    """For the first lines of a run."""
    compute = config.compute
    words = [compute.strategy] + ["sums in order"] * (compute.reduce == "ordered")
    words += [f"optimizer on {compute.offload_optimizer}"] * (compute.offload_optimizer != "none")
    words += [f"weights on {compute.offload_params}"] * (compute.offload_params != "none")
    return ", ".join(words)


def check(config: Config) -> None:
    """Raises ValueError when what the strategy needs is not there."""
    compute = config.compute
    if compute.strategy == "ddp":
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError(
            f"--strategy {compute.strategy} needs DeepSpeed: pip install deepspeed==0.19.8, or --strategy ddp"
        )
    if compute.deepspeed_config is not None:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

        try:
            DeepSpeedZeroConfig(**deepspeed_config.merged(config, 1)["zero_optimization"])
        except ValueError as error:
            raise ValueError(f"--deepspeed-config {compute.deepspeed_config}: {error}") from error
    if "disk" in (compute.offload_optimizer, compute.offload_params):
        from deepspeed.ops.op_builder import AsyncIOBuilder

        if not AsyncIOBuilder().is_compatible():
            raise ValueError(
                "what is kept on a disk goes there through libaio, with a kernel that DeepSpeed compiles: "
                "apt-get install libaio-dev g++ ninja-build, or offload to cpu"
            )


def with_own_folder(config: Config, run: str) -> Config:
    """The same configuration, whose folder on a disk is this run's alone: two runs in one would read each
    other's weights."""
    if config.compute.offload_dir is None:
        return config
    own = str(Path(config.compute.offload_dir) / f"offloaded-{config.recipe}-{run}")
    return replace(config, compute=replace(config.compute, offload_dir=own))


def shared_out(config: Config) -> bool:
    """Does no rank have all weights? Those in 4 bits are small enough that each reads them all."""
    return config.compute.strategy == "zero3" and config.adapter.quantize == "none"


def place(model: Model, config: Config, world: World) -> Model:
    """A model as its engine takes it: on the device, or with weights that stay in their files until the
    engine shares them out, one after the other."""
    if not shared_out(config):
        return placement.place(model, world.device)
    placement.make_ready(model, world.device)
    return model
