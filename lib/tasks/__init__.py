"""The shapes of problem. Each is a module of this package with one class that has the verbs of
`lib.task.Task`."""

import importlib
from pathlib import Path

from lib.config import Config
from lib.recipe import Recipe
from lib.task import Task


def make(recipe: Recipe, config: Config, folder: Path | None = None) -> Task:
    """The recipe's task with its tokenizer; `folder` is a checkpoint to take model and tokenizer from."""
    return importlib.import_module(f"lib.tasks.{recipe.task}").make(recipe, config, folder)
