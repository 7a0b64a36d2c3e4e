"""Run by test_zero.py under 1, 2 and 3 processes: python tests/zero_checks.py MODELS OUT STEPS CASE ...

For each case trains a small encoder or an adapter on a decoder in 4 bits for some steps, in float32 and
without dropout, with one engine, and writes losses, norms, weights and moments to OUT/CASE.*. A case is an
optimizer, a strategy and flags: adamw:zero2:--offload-optimizer=cpu; stopped-adamw: with a stop and a resume.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe
from lib.base import exits
from lib.command_line import parse
from lib.config import Config
from lib.data.loader import Loader, Step, deal
from lib.evaluation.predictor import Predictor
from lib.process import dist
from lib.process.world import World
from lib.task import Task
from lib.tasks import make as make_task
from lib.training import optim, strategies
from lib.training.engine import Engine, Turn
from lib.training.optim import learning_rate
from tests.rank_checks import configuration, encoded
from tests.tools import STORIES

ENCODED: dict[str, Any] = {}  # by recipe
RATE = 1e-4


def configured(case: str, models: str, runs_dir: str, steps: int) -> Config:
    """A case's words over a small experiment's."""
    kind, strategy, *flags = case.split(":")
    kind = kind.removeprefix("stopped-")
    name = "boolq" if kind.startswith("nf4") else "arena"
    words = ["--batch", "8", "--epochs", "9", "--max-steps", str(steps), "--lr", str(RATE), "--clip", "1"]
    words += ["--strategy", strategy, *(word for flag in flags for word in flag.split("="))]
    if name == "boolq":
        words += ["--model", str(STORIES), "--init", "pretrained", "--lora-rank", "4", "--quantize", "nf4"]
        words += ["--precision", "bf16"] if kind == "nf4bf16" else []
    return parse(configuration(name, f"{models}/encoder", runs_dir), words, "test")


def sgd(model: torch.nn.Module, config: Any) -> torch.optim.Optimizer:
    """Unlike Adam's, its steps are as small as the differences of two gradients."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=config.lr)


def compute(engine: Engine, task: Task, rows: Any, step: Step, world: World) -> float:
    """Passes of this rank's share; the loss sum over the ranks."""
    share = deal(step.micro_batches, world.size, engine.in_order)[world.rank]
    losses = 0.0
    for number, piece in enumerate(share):
        batch = task.collate(rows, piece.rows, engine.one_call).to(world.device)
        turn = Turn(step.number, number == len(share) - 1, piece.number, len(step.micro_batches))
        loss_sum = task.loss(engine.forward(batch, turn), batch)
        engine.backward(loss_sum, piece.weight / step.num_targets)
        losses += loss_sum.item() * piece.weight
    return sum(row[0] for row in dist.gather_floats([losses])) / step.num_targets


def rows_of(config: Config) -> tuple[Task, Any]:
    """The task, and the rows as they were encoded for the first case."""
    task = make_task(recipe.load(config.recipe), config)
    if config.recipe not in ENCODED:
        ENCODED[config.recipe] = encoded(config.recipe, config)[1]
    return task, ENCODED[config.recipe]


class Trial:
    """An engine, begun afresh or from what a snapshot kept, and what it trains on."""

    def __init__(self, config: Config, world: World, kept: Path | None = None) -> None:
        self.config, self.world = config, world.settled(config.optim.precision)
        self.task, self.rows = rows_of(config)
        self.model: Any = strategies.place(self.task.build(None), config, world)
        tensors = load_file(kept) if kept else {}
        moments = {name: tensor for name, tensor in tensors.items() if "/" in name}
        self.model.load_state_dict(
            {name: tensor for name, tensor in tensors.items() if name not in moments}, strict=False
        )
        self.engine = strategies.make(self.model, config, self.world)
        cheap = self.task.collate(self.rows, (0,), self.engine.one_call)
        self.engine.fit(lambda budget: (cheap, "one row"), self.task.loss, config.optim.token_budget)
        self.engine.start(cheap.to(world.device), self.task.loss, moments or None)
        self.loader = Loader(self.task.costs(self.rows), config.optim)

    def steps(self, numbers: range) -> list[tuple[float, float]]:
        """Losses and norms; one gradient is forgotten."""
        told, last = [], self.loader.num_steps
        for number in numbers:
            step = self.loader.step(number)
            loss = compute(self.engine, self.task, self.rows, step, self.world)
            told.append((loss, self.engine.norm().item()))
            if number == last // 3:
                self.engine.forget()
            else:
                self.engine.step(learning_rate(number, last, self.config.optim))
        return told

    def save(self, file: Path) -> None:
        taken = self.engine.snapshot(self.task.state(self.model))
        if self.world.is_main:
            save_file(taken.model | taken.optimizer, file)
        dist.barrier()


def train(case: str, config: Config, out: Path, world: World) -> None:
    """Train; after the last step, predict and take a snapshot. "stopped": in two parts."""
    file = out / f"{case.replace('/', '')}.safetensors"
    trial = Trial(config, world)
    steps = trial.loader.num_steps
    if case.startswith("stopped"):
        told = trial.steps(range(1, steps // 2 + 1))
        trial.save(file)
        trial = Trial(config, world, file)
        told += trial.steps(range(steps // 2 + 1, steps + 1))
    else:
        told = trial.steps(range(1, steps + 1))
    with trial.engine.whole():
        predictions = Predictor(trial.task, trial.model, trial.world, 600).predict(trial.rows)
    trial.save(file)
    if world.is_main:
        losses, norms = zip(*told, strict=True)
        file.with_suffix(".json").write_text(
            json.dumps({"losses": losses, "norms": norms, "predictions": predictions})
        )


def main(models: str, out: Path, steps: int, cases: list[str]) -> int:
    honest = optim.make
    world = dist.setup(1, group_of_one=True)
    for case in cases:
        optim.make = sgd if "sgd" in case else honest  # type: ignore[assignment]
        train(case, configured(case, models, str(out / "runs"), steps), out, world)
    dist.leave()
    return 0


if __name__ == "__main__":
    exits.leave(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
