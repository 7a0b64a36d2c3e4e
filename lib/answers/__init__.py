"""What models answer. Each kind is a module of this package, found by its name: one class with the verbs of
`Answers`, and a template for its part of report.html. A class or an option is `choice`."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lib.base.contents import Details
from lib.recipe import Example, Prediction, Recipe


class Answers(Protocol):
    """The answers of one recipe. What is right for a row (its target) and what a model said of it (its
    answer) are JSON values of one type, which only this kind and its task look into."""

    @property
    def template(self) -> Path:
        """Jinja: the sections of report.html that are about answers. It is given `answers` (this object),
        `scores`, `probes` and `mistakes` (see lib.reports.report)."""

    def target(self, row: Example | Prediction) -> Any:
        """None where it is not known."""

    def answer(self, prediction: Prediction) -> Any: ...

    def words(self, value: Any) -> str:
        """A target or an answer, for people."""

    def wrong(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Those that are not right, the worst first."""

    def distance(self, new: Prediction, old: Prediction) -> float:
        """How far two predictions of a row are apart: 0 for the same, infinite where one is no number."""

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """How many rows have each target; empty where targets are no few that repeat."""

    def baselines(self, train: list[Example], rows: list[Example]) -> dict[str, list[Prediction]]:
        """What one gets for `rows` without a language model, from the training rows alone."""

    def details(self, predictions: Sequence[Prediction]) -> Details:
        """What scores.json holds of a split beside its scores; JSON values."""

    def warnings(
        self, predictions: Sequence[Prediction], baselines: dict[str, list[Prediction]]
    ) -> list[str]:
        """Signs that a model has not learned, in capitals."""

    def sample(self) -> Prediction:
        """Any prediction, to ask a recipe what its scores are called."""


def load(recipe: Recipe) -> Answers:
    """The kind that the recipe names."""
    answers: Answers = importlib.import_module(f"lib.answers.{recipe.answers}").make(recipe)
    return answers


def first_score(recipe: Recipe) -> str:
    """The name of the score that selects the best checkpoint."""
    return next(iter(recipe.score([load(recipe).sample()])))
