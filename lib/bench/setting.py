"""What all arms of a benchmark share: the configuration, the task, encoded rows, a fresh model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lib import recipe as recipes
from lib.answers import metrics, text_metrics
from lib.command_line import parse
from lib.config import Config
from lib.corpus.corpus import Corpus
from lib.data.rows import Rows
from lib.evaluation.predictor import Predictor
from lib.process import dist
from lib.task import Task
from lib.tasks import make as make_task
from lib.training.unused import freeze_unused


@dataclass
class Setting:
    """The same for every arm of one order."""

    config: Config
    task: Task
    train: Rows
    validation: Rows
    pad: int

    def model(self) -> Any:
        """The same fresh model for every arm with this seed; its unused pooler frozen."""
        model: Any = self.task.build(None)
        if not self.config.adapter.lora_rank:
            freeze_unused(model, [p for name, p in model.named_parameters() if "pooler" not in name])
        return model

    def predictor(self, model: nn.Module) -> Predictor:
        world = dist.setup(torch.get_num_threads()).settled(self.config.optim.precision)
        return Predictor(self.task, model, world, 8192)

    def validation_loss(self, model: nn.Module) -> float:
        """Log loss on the validation rows (of texts: for each token), computed the same way for every arm."""
        predictions = self.predictor(model).predict(self.validation, texts=())
        return (text_metrics.LOSS if self.task.writes else metrics.LOG_LOSS)(predictions)


def prepare(order: dict[str, Any]) -> Setting:
    """`order` names the recipe, the command line's flags, and how many rows to take."""
    recipe = recipes.load(order["recipe"])
    precision = order.get("precision", "bf16")
    flags = [*order["flags"], "--seed", str(order["seed"]), "--precision", precision, "--epochs", "1"]
    config = parse(recipe.config, flags, "bench")
    task = make_task(recipe, config)
    corpus = Corpus.read(config.data, recipe).usable(
        lambda rows: task.unusable(rows, lambda: None), config.task
    )
    corpus = corpus.complete().finished(config.task)
    sizes = {"train": order["rows"], "validation": order["validation_rows"]}
    corpus = corpus.with_splits({split: corpus.splits[split][:size] for split, size in sizes.items()})
    encoded = [corpus.encode(split, task) for split in sizes]
    tokenizer = task.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Setting(config, task, encoded[0], encoded[1], pad)
