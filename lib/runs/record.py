"""What a run was made with: fingerprints of everything that decides its numbers, and its environment."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib import recipe as recipes
from lib.base import tensor_file
from lib.base.source_code import ROOT, fingerprint
from lib.process.world import World
from lib.task import Task

PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "peft", "bitsandbytes", "deepspeed"),
    *("datasets", "numpy", "scikit-learn"),
)


def code_fingerprint(recipe_name: str, root: Path = ROOT) -> str:
    """sha256 over every source file that can change a number of this recipe."""
    recipe = recipes.load(recipe_name)
    # found by their names when a run begins: no import leads there
    named = [f"lib.recipes.{recipe_name}", f"lib.tasks.{recipe.task}", f"lib.answers.{recipe.answers}"]
    return fingerprint(["lib.run", *named], root)


def environment(world: World) -> dict[str, Any]:
    """Versions and hardware; nothing of the process's environment variables, which may hold tokens."""
    environment: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            environment[package] = version(package)
        except PackageNotFoundError:
            environment[package] = None
    environment |= {
        "ranks": world.size,
        "threads": world.threads,
        "device": str(world.device.type),
        "precision": world.precision,
    }
    return environment | {"backend": world.backend, "hardware": str(world), "cores": os.cpu_count()}


def base_fingerprint(
    model: nn.Module, task: Task, weights: Mapping[str, Tensor] | None = None
) -> dict[str, str]:
    """sha256 of the weights that no checkpoint keeps (a frozen base); empty where there are none. `weights`
    holds those of a model whose own are empty. Poolers are left out: nobody reads them, and many a file lacks
    them."""
    state, kept = model.state_dict(), task.state(model)
    base = [name for name in state if name not in kept and "pooler" not in name]
    return {"base": tensor_file.fingerprint(weights or state, base)} if base else {}


def typed() -> list[str]:
    """The command that started this process."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
