"""Run by test_ranks.py under 1, 2 and 3 processes: python tests/rank_checks.py MODELS OUT [BAD_STEP ...]

For each task and kind of model writes the gradient of one step and what evaluation said to OUT; with
BAD_STEPs, trains arena and lets the last rank meet a NaN in each. MODELS holds a folder for each kind.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe, run
from lib.base import exits
from lib.config import Config
from lib.corpus.corpus import Corpus
from lib.data import rows as encoded_rows
from lib.data.amounts import Amounts
from lib.data.loader import Loader
from lib.data.rows import Rows
from lib.evaluation.predictor import Predictor
from lib.job import Job
from lib.models.placement import place
from lib.process import dist
from lib.process.world import World
from lib.task import Task
from lib.tasks import make as make_task
from lib.tasks.classify import Classify
from lib.training.ddp import Ddp
from lib.training.engine import Turn
from lib.training.loop import Parts, batches, compute
from lib.training.unused import freeze_unused
from tests.tools import SHORT, configured

ODD_ROWS = 17  # odd for 2 and 3 ranks
BATCH = 13  # one step; micro-batches do not divide evenly either


# every task with every kind of model that it takes: (recipe, folder of the model)
CASES = (("arena", "encoder"), ("boolq", "decoder"), ("science_exam", "encoder"))
CASES += (("science_exam", "decoder"), ("science_exam", "seq2seq"))
CASES += (("german_rag", "decoder"), ("german_rag", "seq2seq"))


def configuration(name: str, model: str, runs_dir: str, *more: str) -> Config:
    flags = [*SHORT, "--model", model, "--init", "random", "--runs-dir", runs_dir, "--resume", "never"]
    flags += ["--dropout", "0", "--lora-rank", "0", "--quantize", "none", "--max-length", "112"]
    if name == "german_rag":
        flags += ["--template", "{chunks}\n{question}\n", "--max-length", "400", "--max-new-tokens", "12"]
    flags += more
    return configured(name, flags)


def encoded(name: str, config: Config) -> tuple[Task, Rows]:
    loaded = recipe.load(name)
    task = make_task(loaded, config)
    examples = Corpus.read(config.data, loaded).complete().splits["train"][:ODD_ROWS]
    return task, encoded_rows.pack(task.encode(examples, lambda: None))


def gradient(config: Config, task: Task, rows: Rows, world: World, pieces: int) -> np.ndarray:
    """The whole gradient of step 1, flat, as the engine sees it before it clips."""
    optim = dataclasses.replace(config.optim, batch=BATCH, min_micro_batches=pieces)
    config = dataclasses.replace(config, optim=optim)
    model = place(task.build(None), world.device)
    freeze_unused(model, [p for name, p in model.named_parameters() if "pooler" not in name])
    engine = Ddp(model, config.optim, world)
    engine.start(task.collate(rows, (0,)), task.loss, None)
    parts = object.__new__(Parts)  # what compute() needs
    parts.job = Job(config, recipe.load(config.recipe), None, world, None)  # type: ignore[arg-type]
    parts.task, parts.engine, parts.rows = task, engine, rows
    exchanged = exchanges(engine)
    parts.loader = Loader(task.costs(rows), config.optim)
    parts.flops_of_each = Amounts(tokens=6.0)
    compute(parts, parts.loader.step(1), batches(parts, [1]))
    if world.size > 1:
        assert len(exchanged) == len(set(exchanged)), "a bucket of gradients was exchanged twice in a step"
        assert exchanged, "nothing was exchanged"
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found).numpy()


def exchanges(engine: Ddp) -> list[int]:
    """Grows by the number of each bucket of gradients that ranks exchange from now on."""
    seen: list[int] = []

    def hook(state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        seen.append(bucket.index())
        return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]

    if engine.world.size > 1:
        engine.wrapped.register_comm_hook(None, hook)  # type: ignore[operator]
    return seen


def nan_on_one_rank(config: Config, steps: list[int]) -> int:
    """Train with a loss that is NaN once, on the last rank alone, in each of `steps`."""
    honest, forward_before, now = Classify.loss, Ddp.forward, {"step": 0}

    def forward(self: Ddp, batch: object, turn: Turn) -> object:
        now["step"] = turn.draw // 4099 % 1_000_003  # the inverse of lib.training.loop.draw_of for seed 0
        return forward_before(self, batch, turn)

    def loss(self: Classify, output: torch.Tensor, batch: object) -> torch.Tensor:
        value = honest(self, output, batch)  # type: ignore[arg-type]
        bad = now["step"] in steps and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        return value * float("nan") if bad else value

    Classify.loss, Ddp.forward = loss, forward  # type: ignore[assignment, method-assign]
    return exits.run(lambda: run.train(config), quiet=not dist.env_is_main())


def check(name: str, model: str, out: Path, world: World) -> None:
    """Write the gradient of one step, in as few pieces as there are ranks and in four, and what evaluation
    says."""
    config = configuration(name, model, str(out / "runs"))
    task, rows = encoded(name, config)
    for pieces in (world.size, 4):
        found = gradient(config, task, rows, world, pieces)
        if world.is_main:
            np.save(out / f"gradient-{pieces}.npy", found)
    said = Predictor(task, place(task.build(None), world.device), world, 600).predict(rows)
    if world.is_main:
        (out / "said.json").write_text(json.dumps(said))


def main(models: str, out: Path, bad_steps: list[int]) -> int:
    if bad_steps:
        return nan_on_one_rank(configuration("arena", f"{models}/encoder", str(out / "runs")), bad_steps)
    world = dist.setup(1)
    for name, kind in CASES:
        folder = out / f"{name}-{kind}"
        folder.mkdir(exist_ok=True)
        check(name, f"{models}/{kind}", folder, world)
    dist.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), [int(word) for word in sys.argv[3:]]))
