"""A checkpoint and some encoded rows -> scores beside their baselines: after training, and again in
evaluate.py."""

from pathlib import Path
from typing import Any

from torch import nn

from lib.config import Config
from lib.data import rows as encoded_rows
from lib.evaluation import evaluate, hits, summary
from lib.models.placement import place
from lib.recipe import Example, Recipe
from lib.runs.folder import RunFolder
from lib.runs.resume import check_base
from lib.task import Task
from lib.training import precision
from lib.training.dist import World
from lib.training.signals import StopFlag


def score(
    config: Config,
    recipe: Recipe,
    task: Task,
    run: RunFolder,
    folder: RunFolder,
    best: Path,
    examples: dict[str, list[Example]],
    splits: tuple[str, ...],
    unscored: tuple[str, ...],
    world: World,
    stop: StopFlag | None,
) -> dict[str, Any]:
    """What scores.json holds, and predictions/<split>.jsonl written by rank 0. Every rank computes its share
    of the encoded rows in `folder` (that of `run`, or one for other rows); other ranks than 0 get no splits
    back. `unscored` splits are predicted only. Raises CheckError when the run's base is another by now."""
    precision_name = precision.resolve(config.optim.precision, world.device, task.model_type)
    model = place(built(task, run, best), world.device, precision_name)
    found: dict[str, Any] = {"checkpoint": best.name, "precision": precision_name}
    found |= {"token_budget": config.optim.token_budget, "splits": {}}
    for split in (*splits, *unscored):
        rows = encoded_rows.load(folder.encoded / split)
        said = evaluate.predict(model, task, rows, config.optim.token_budget, world, precision_name, stop)
        if world.is_main:
            folder.write_predictions(split, said)
            if recipe.submission is not None:
                folder.write_submission(split, [recipe.submission(row) for row in said])
        if world.is_main and split in splits:
            beside = summary.baselines(recipe, examples["train"], examples[split])
            summed = summary.summarize(recipe, said, beside)
            found["splits"][split] = summed
            if (retrieval := hits.summarize(examples[split], said)) is not None:
                summed["retrieval"] = retrieval
                summed["warnings"] += hits.warnings(retrieval, examples[split])
    return found


def built(task: Task, run: RunFolder, best: Path) -> nn.Module:
    """The model of a run's checkpoint. Raises CheckError when the base it stands on is another by now."""
    model = task.build(best)
    check_base(run, model, task)
    return model
