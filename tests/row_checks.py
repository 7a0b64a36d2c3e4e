"""Run by test_resume.py: python tests/row_checks.py OUT [RECIPE] WORDS

Trains as scripts/train.py does with these words, of which --devices is one, and leaves in OUT a file a
process: a line {"step", "rank", "ids"} for each micro-batch whose gradient counts.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse, split_recipe
from lib.data.rows import Rows
from lib.launching.workers import launch
from lib.process import dist
from lib.tasks.classify import Classify
from lib.training.ddp import Ddp
from lib.training.engine import Turn


def write_down_rows(file: Path) -> None:
    """From now on, of each backward pass of weight above 0."""
    collate, forward, backward = Classify.collate, Ddp.forward, Ddp.backward
    now: dict[str, Any] = {"rank": int(os.environ["RANK"])}
    made: dict[int, tuple[Any, list[str]]] = {}  # batches are made before they are computed

    def with_ids(self: Classify, rows: Rows, numbers: tuple[int, ...], one_call: bool = False) -> Any:
        batch = collate(self, rows, numbers, one_call)
        made[id(batch.labels)] = batch.labels, [rows.ids[number] for number in numbers]
        return batch

    def with_step(self: Ddp, batch: Any, turn: Turn) -> Any:
        now["ids"] = made[id(batch.labels)][1]  # on a CPU `to` gives the same tensor
        now["step"] = turn.draw // 4099 % 1_000_003  # the inverse of lib.training.loop.draw_of for seed 0
        return forward(self, batch, turn)

    def written_down(self: Ddp, loss_sum: Any, scale: float) -> None:
        if scale > 0:
            with file.open("a") as lines:
                lines.write(json.dumps(now) + "\n")
        backward(self, loss_sum, scale)

    Classify.collate, Ddp.forward, Ddp.backward = with_ids, with_step, written_down  # type: ignore[method-assign]


def main(out: Path, words: list[str]) -> int:
    name, argv = split_recipe(words)
    config = parse(recipe.load(name).config, argv, "test")
    if not dist.under_torchrun():
        return launch(Path(__file__), [str(out), *words], config.compute.devices or 1)
    write_down_rows(out / f"{os.getpid()}.jsonl")
    return exits.run(lambda: run.train(config), quiet=not dist.env_is_main())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
