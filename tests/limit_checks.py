"""Run by test_limits.py: python tests/limit_checks.py WORDS

Trains as scripts/train.py does with these words, of which --devices is one, where rank 0 finds that 600 s
have gone by in each step, and no other rank does.
"""

import os
import sys
import time
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe, run
from lib.base import exits, moments
from lib.command_line import parse, split_recipe
from lib.launching.workers import launch
from lib.process import dist
from lib.training.ddp import Ddp

STEP_S = 600


def slow_down() -> None:
    honest, late = Ddp.norm, {"s": 0}

    def norm(self: Ddp) -> Tensor:
        late["s"] += STEP_S
        return honest(self)

    Ddp.norm = norm  # type: ignore[method-assign]
    moments.now_s = lambda: time.time() + late["s"]


def main(words: list[str]) -> int:
    name, argv = split_recipe(words)
    config = parse(recipe.load(name).config, argv, "test")
    if not dist.under_torchrun():
        return launch(Path(__file__), words, config.compute.devices or 1)
    if os.environ["RANK"] == "0":
        slow_down()
    return exits.run(lambda: run.train(config), quiet=not dist.env_is_main())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
