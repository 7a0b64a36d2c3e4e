"""Run by test_loading.py under 2 processes: python tests/loading_checks.py MODEL OUT STRATEGY ...

For each strategy builds and places a decoder whose file has 16 bits, and writes to OUT/STRATEGY.json what
each rank's own memory (without pages of files) grew by at most, and in the end.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe
from lib.base import exits
from lib.base.heap import give_back_at_once
from lib.bench.shares import resident, trim
from lib.command_line import parse
from lib.process import dist
from lib.process.world import World
from lib.tasks import make as make_task
from lib.training import strategies, zero, zero_state


class Peak(threading.Thread):
    """The most memory of its own that this process has while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0, False

    def run(self) -> None:
        while not self.ended:
            self.most = max(self.most, resident("RssAnon"))
            time.sleep(0.0005)


def load(strategy: str, model: str, world: World) -> tuple[float, float, int]:
    """Bytes, at most and in the end, and the numbers of the model."""
    words = ["--model", model, "--strategy", strategy, "--precision", "fp32", "--quantize", "none"]
    config = parse(recipe.load("boolq").config, [*words, "--lora-rank", "0"], "test")
    task = make_task(recipe.load("boolq"), config)
    task.build(None)  # the code of transformers takes memory too
    trim()
    before, peak = resident("RssAnon"), Peak()
    peak.start()
    built: Any = strategies.place(task.build(None), config, world)
    size = sum(parameter.numel() for parameter in built.parameters())
    if strategies.shared_out(config):
        engine: Any = strategies.make(built, config, world)
        zero_state.share_out(built, engine._configuration(), world.device)
    peak.ended = True
    peak.join()
    trim()
    return peak.most - before, resident("RssAnon") - before, size


def main(model: str, out: Path, cases: list[str]) -> int:
    world = dist.setup(1, group_of_one=True)
    give_back_at_once()
    zero._deepspeed()
    for strategy in cases:
        told = dist.gather_floats(list(load(strategy, model, world)))
        if world.is_main:
            (out / f"{strategy}.json").write_text(json.dumps(told))
    dist.leave()
    return 0


if __name__ == "__main__":
    exits.leave(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
