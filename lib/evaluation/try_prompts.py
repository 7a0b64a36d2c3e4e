"""Several prompts on a model that has not been trained -> which one to pay for."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib import recipe as recipes
from lib.answers import intervals
from lib.answers.intervals import Groups, signed
from lib.base.console import speak
from lib.base.exits import RepeatsError
from lib.command_line import prompt_in, settled
from lib.config import AdapterConfig, CompleteConfig, Config
from lib.contradictions import refuse_threads
from lib.corpus.corpus import Corpus
from lib.data.rows import pack
from lib.evaluation.options import Options
from lib.evaluation.predictor import Predictor
from lib.evaluation.scoring import kept, some_of
from lib.models.placement import place
from lib.process import dist, precision
from lib.process.signals import StopFlag
from lib.recipe import Example, Prediction, Recipe
from lib.tasks import make as make_task


@dataclass(frozen=True)
class Tried:
    """Each prompt's scores on the same rows, and each against the first."""

    model: str
    num_rows: int
    num_groups: int
    scores: dict[str, dict[str, intervals.Interval]]
    """prompt -> score -> value"""
    verdicts: dict[str, str]
    """prompt -> how its first score is beside that of the first prompt"""

    def in_words(self) -> str:
        width = max(map(len, self.scores))
        lines = [f"{self.model}, untrained, on {self.num_rows} rows in {self.num_groups} groups"]
        for score in dict.fromkeys(name for scores in self.scores.values() for name in scores):
            lines.append(score)
            lines += [
                f"  {name:{width}}  {scores[score]}"
                for name, scores in self.scores.items()
                if score in scores
            ]
        return "\n".join([*lines, *self.verdicts.values()])


def try_prompts(model: str, asked: Options) -> Tried:
    """Raises ValueError: no such recipe, model, rows or file; a recipe without a prompt; a placeholder that
    the rows do not have."""
    refuse_threads(asked.threads)
    recipe = recipes.load(asked.run)
    if not isinstance(recipe.config.task, CompleteConfig):
        raise ValueError(f"{asked.run} has no prompt to try; recipes whose task is complete have one")
    if asked.rows < 1:
        raise ValueError(f"--rows is {asked.rows}; it must be above 0")
    prompts = {Path(file).name: prompt_in(Path(file)) for file in asked.prompt_file}
    if len(prompts) < len(asked.prompt_file):
        raise ValueError("two prompt files have one name; give each its own")
    prompts = prompts or {"the recipe's own": recipe.config.task.template}
    configs = {name: _config(recipe, model, asked, words) for name, words in prompts.items()}
    for config in configs.values():  # every fault before any weight loads
        make_task(recipe, config).check()
    world = dist.setup(asked.threads, StopFlag())
    rows = _rows(next(iter(configs.values())), recipe, asked)
    task = make_task(recipe, next(iter(configs.values())))
    world = world.settled(precision.resolve("auto", world.device, task.model_type))
    built = place(task.build(None), world.device)
    said: dict[str, list[Prediction]] = {}
    for name, config in configs.items():
        speak(f"prompt {name}")
        task = make_task(recipe, config)
        encoded = pack(task.encode(rows, world.stop.raise_if_requested, refuse=False))
        predictor = Predictor(task, built, world, config.optim.token_budget)
        said[name] = kept(predictor.predict(encoded), rows, recipe)
    return _compared(recipe, model, said)


def _config(recipe: Recipe, model: str, asked: Options, prompt: str) -> Config:
    config, task = recipe.config, recipe.config.task
    assert isinstance(task, CompleteConfig)
    data = replace(config.data, max_length=asked.max_length or config.data.max_length)
    if asked.data is not None:
        data = replace(data, data=asked.data, columns=asked.columns)
    config = replace(
        config,
        data=data,
        model=replace(config.model, model=model),
        adapter=AdapterConfig(),
        optim=replace(config.optim, precision="auto"),
        task=replace(task, template=prompt),
    )
    return settled(config, recipe.config)


def _rows(config: Config, recipe: Recipe, asked: Options) -> list[Example]:
    corpus = Corpus.read(config.data, recipe).complete().finished(config.task)
    return some_of(corpus.splits[asked.split or "validation"], asked.rows)


def _compared(recipe: Recipe, model: str, said: dict[str, list[Prediction]]) -> Tried:
    values = {name: recipe.by_row(rows) for name, rows in said.items()}
    (first, before), *others = values.items()
    groups, metric = Groups.of(said[first]), recipe.metrics[0]
    if not all(np.isfinite(each[metric.name]).all() for each in values.values()):
        raise RepeatsError(f"{model} has no finite {metric.name} on these rows; name another --model")
    verdicts = {}
    for name, after in others:
        difference = intervals.difference(before[metric.name], after[metric.name], groups)
        word, why = intervals.verdict(difference, groups, recipe.better)
        verdicts[name] = f"{name} against {first}: {metric.name} {signed(difference)}, {word}{why}"
    scores = {name: intervals.score(each, groups, recipe.metrics) for name, each in values.items()}
    return Tried(model, len(said[first]), len(groups), scores, verdicts)
