"""Score stored rows again from exported files alone, in a process of its own; what it prints is JSON.

python -m lib.export.check RUN FOLDER < the examples of the test split, as JSON
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import recipe as recipes
from lib.answers import load as answers_of
from lib.base import exits
from lib.base.files import read_lines
from lib.config import AdapterConfig, Config
from lib.data import rows as encoded_rows
from lib.data.loader import evaluation_batches
from lib.data.text import prepare_tokenizer
from lib.evaluation.predictor import Predictor
from lib.evaluation.trained import TrainedRun
from lib.models import adapters, heads
from lib.models.backbone import AUTO_CLASSES
from lib.models.placement import place
from lib.recipe import Prediction
from lib.task import Task
from lib.tasks import make as make_task

ENOUGH = 64  # rows; batches are scored whole, because their padding belongs to the numbers


def is_adapter(folder: Path) -> bool:
    """Is the export an adapter without its base?"""
    return (folder / adapters.WEIGHTS).exists()


def open_task(config: Config, folder: Path) -> Task:
    """The run's task with tokenizer (and, where it is there, configuration) of the export."""
    recipe = recipes.load(config.recipe)
    if not is_adapter(folder):
        model = replace(config.model, model=str(folder), init="pretrained")
        return make_task(recipe, replace(config, model=model, adapter=AdapterConfig()))
    import transformers

    task = make_task(recipe, config)
    task.tokenizer = prepare_tokenizer(transformers.AutoTokenizer.from_pretrained(folder))
    return task


def open_model(config: Config, task: Task, folder: Path) -> nn.Module:
    """The model from the exported files: read by transformers and peft alone, under the project's head."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind: Any = getattr(transformers, AUTO_CLASSES[task.kind])
    words = {"config": task.described.config, "dtype": "float32", "use_safetensors": True}
    if is_adapter(folder):
        import peft

        words["quantization_config"] = adapters.quantization(config.adapter, config.optim.precision)
        base = kind.from_pretrained(task.described.source, **words, **task.described.where)
        adapters.keep_as_loaded(base)
        backbone = peft.PeftModel.from_pretrained(base, str(folder))
    else:
        backbone = kind.from_pretrained(folder, **words)
    model = task.assemble(backbone, [])
    heads.load_head(model, folder)
    return model


def score(run: TrainedRun, folder: Path, examples: list[Any]) -> dict[str, Any]:
    """How far the export's probabilities are from the stored ones: in the batches of the run's own
    evaluation, longest rows first, until enough rows were compared."""
    config = run.config
    world = run.world().settled(config.optim.precision)
    task = open_task(config, folder)
    model = place(open_model(config, task, folder), world.device).eval()
    rows = encoded_rows.pack(task.encode(examples, lambda: None))
    predictor = Predictor(task, model, world, config.optim.token_budget)
    predictions: list[Prediction] = []
    for batch in evaluation_batches(task.costs(rows), config.optim.token_budget):
        if len(predictions) < ENOUGH:
            predictions += predictor.answer(rows, batch.rows)
    stored = {row["id"]: row for row in read_lines(run.folder.predictions("test"))}
    answers = answers_of(run.recipe)
    largest = max(answers.distance(row, stored[row["id"]]) for row in predictions)
    where = str(world).partition(" on ")[2].partition(",")[0]  # "cpu (the machine's name)"
    return {"rows": len(predictions), "largest": largest, "where": where, "torch": torch.__version__}


def main() -> int:
    run, folder = TrainedRun.open(Path(sys.argv[1])), Path(sys.argv[2])
    print(json.dumps(score(run, folder, json.load(sys.stdin))))
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(main))
