"""What models answer. Each kind is a module of this package, found by its name: one class with the verbs of
`Answers`, and a template for its part of report.html. A class or an option is `choice`."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lib.base.contents import Details
from lib.recipe import Example, Prediction, Recipe

BASE = "base model"  # the baseline that the model itself is before it is trained
Values = dict[str, np.ndarray]  # score -> (rows,) what it says of each row


class Answers(Protocol):
    """The answers of one recipe. What is right for a row (its target) and what a model said of it (its
    answer) are JSON values of one type, which only this kind and its task look into."""

    @property
    def template(self) -> Path:
        """Jinja: the sections of report.html that are about answers. It is given `answers` (this object),
        `scores`, `probes` and `mistakes` (see lib.reports.report)."""

    @property
    def chance(self) -> tuple[str, ...]:
        """Those of the baselines that look at no row."""

    def target(self, row: Example | Prediction) -> Any:
        """None where it is not known."""

    def answer(self, prediction: Prediction) -> Any: ...

    def words(self, value: Any, row: Example | Prediction) -> str:
        """A row's target or answer, for people."""

    def kept(self, prediction: Prediction, example: Example) -> Prediction:
        """As files keep it: with what only the words of its row say."""

    def wrong(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Those that are not right, the worst first."""

    def shown(self, wrong: Sequence[Prediction], most: int) -> list[Prediction]:
        """At most so many of what `wrong` found, for people to look at."""

    def distance(self, new: Prediction, old: Prediction) -> float:
        """How far two predictions of a row are apart: 0 for the same, infinite where one is no number."""

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """How many rows have each target; empty where targets are no few that repeat."""

    def baselines(self, train: list[Example], rows: list[Example]) -> dict[str, Values]:
        """What one scores on `rows` without a language model, from the training rows alone."""

    def details(self, predictions: Sequence[Prediction]) -> Details:
        """What scores.json holds of a split beside its scores; JSON values."""

    def warnings(self, predictions: Sequence[Prediction]) -> list[str]:
        """Signs that a model has not learned, in capitals, which no baseline shows."""


def load(recipe: Recipe) -> Answers:
    """The kind that the recipe names."""
    answers: Answers = importlib.import_module(f"lib.answers.{recipe.answers}").make(recipe)
    return answers
