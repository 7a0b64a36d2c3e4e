"""What a recipe is: one file in lib/recipes, found by its name; it holds words and lists, never a tensor.

A row is a dict of the data set's own columns; an example is what a task reads. A text is a list of turns,
joined by the tokenizer's separator.
"""

import importlib
import json
import math
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from lib.base.console import in_columns
from lib.config import Config, TaskConfig
from lib.config_keys import nearest

Row = dict[str, Any]
Scores = dict[str, float]


class Example(TypedDict, total=False):
    """One row, still words: `texts` to classify, or `options` to choose from, each after the same
    `context`."""

    id: str
    group: str  # rows of one group stay on one side of every split
    context: list[str]
    texts: list[list[str]]
    question: str
    options: list[str]
    letters: list[str]  # what the row calls its options, where that is not A, B, C ...
    passage_id: str  # the passage that holds the answer, where a row names it
    retrieved: list[str]  # the passages an index gave, the nearest first
    label: int  # of the class or the option; rows that are only to be predicted have none
    target: Any  # what is right where answers are no choice: a text, say; missing as a label may be
    fields: dict[str, list[str]]  # what a prompt's template may name: pieces of text
    gold: int  # which piece of the field that gives way holds the answer, where one does
    sources: list[str]  # what these pieces are called, where an answer is to name one
    short: list[str]  # what the target is about, in a few words; any of them is right
    notes: list[str]  # things worth counting, e.g. "empty response"


class Prediction(TypedDict, total=False):
    """What a model said about one row, as plain values."""

    id: str
    group: str  # a digest of the example's; rows of one group are right and wrong together
    label: int
    prediction: int
    probabilities: list[float]
    log_probabilities: list[float]
    swapped: list[float]  # the probabilities when the two texts trade places, mapped back
    order: list[int]  # places of the options, the likeliest first
    letters: list[str]  # as in the example
    ranking: list[str]  # the order in letters
    target: Any  # where answers are no choice
    answer: Any
    loss: float  # of all the target's tokens, its end included: -log of their probability
    num_tokens: int  # these tokens
    num_written: int  # tokens of the answer, its end included
    ended: bool  # by itself; False: it was stopped at the limit
    again: bool  # some of its tokens were computed again, alone: another had been nearly as likely
    source: str  # which of the sources is right; missing where the context has no answer
    sources: list[str]
    short: list[str]


@dataclass(frozen=True)
class Metric:
    """A score: the mean over rows of what it says of each of them, among the others."""

    name: str
    by_row: Callable[[Sequence[Prediction]], np.ndarray]
    """Plain predictions in, (rows,) float64 out."""
    better: Literal["lower", "higher"] | None
    """Which way it is better. None: it does not say how good a model is."""
    share: bool = False
    """Every row's value lies from 0 to 1."""
    most: float | None = None
    """It is a score of all rows together, from 0 to so much; what it says of each row need not lie there."""
    log: bool = False
    """Its interval is that of its logarithm, which is such a score."""
    partial: bool = False
    """Some rows are not counted: they are NaN in what it says of each."""
    reads: str | None = None
    """What a prediction must have to be scored, where not every one has it. None: all have."""

    def rows(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Those that can be scored."""
        return predictions if self.reads is None else [row for row in predictions if self.reads in row]

    def __call__(self, predictions: Sequence[Prediction]) -> float:
        values = self.by_row(predictions)
        return float(values[~np.isnan(values)].mean()) if self.partial else float(values.mean())

    def can_score(self, predictions: Sequence[Prediction]) -> bool:
        """Has every row what it reads, and is any of them counted?"""
        if not predictions or len(self.rows(predictions)) < len(predictions):
            return False
        return not self.partial or not np.isnan(self.by_row(predictions)).all()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    task: str
    """The shape of problem: a module of lib/tasks."""
    config: Config
    columns: tuple[tuple[str, ...], ...]
    """Columns that every row must have; several sets where rows come in several forms."""
    label_columns: tuple[str, ...] = ()
    """Those of them that hold the answer; rows that are only to be predicted may lack them."""
    answers: str = "choice"
    """What a model answers: a module of lib/answers."""
    labels: tuple[str, ...] = ()
    """The classes, or the letters of the options, where that is a choice."""
    family: Literal["encoder", "decoder"] = "encoder"
    """What kind of toy `--model tiny` is."""
    fields: tuple[str, ...] = ()
    """What the template of a prompt may name, where the task writes texts."""
    gives_way: tuple[str, ...] = ()
    """Those of them whose pieces are shortened, the longest first, when a prompt is too long."""
    writers: Mapping[str, Callable[[Example], str]] = field(default_factory=dict)
    """Baselines that write a text without a language model."""
    finish: Callable[[list[Example], TaskConfig], list[Example]] | None = None
    """What the rows of one split take of each other, when it is settled which rows these are."""
    optional: tuple[str, ...] = ()
    """Columns that a row may have beside those."""
    list_columns: tuple[str, ...] = ()
    """Columns of texts that may be columns of JSON lists of turns; all rows together tell which."""
    sample: Callable[[int, int], list[Row]]
    """(number of rows, seed) -> realistic, learnable rows."""
    probes: tuple[Row, ...] = ()
    """A few diverse rows that are answered before and after training; the report shows both."""
    to_example: Callable[[Row], Example]
    """Raises ValueError with the reason when a row is malformed."""
    to_row: Callable[[Example], Row] | None = None
    """The way back, for a data set of rows as they are read (scripts/dataset.py). None: not to be had."""
    metrics: tuple[Metric, ...]
    """The first selects the best checkpoint, so it has a better way."""
    features: Callable[[Example], list[Any]] | None = None
    """What a baseline without a language model may look at (lengths, say): numbers, or numbers for each
    option."""
    features_name: str = "length alone"
    swapped_labels: tuple[int, ...] | None = None
    """For pairs: the label when the two texts trade places. None: order means something."""
    submission: Callable[[Prediction], Row] | None = None
    """What one row of a competition's submission file says."""
    revisions: Mapping[str, str] | None = None
    """Hub data set -> revision, where it is known for certain."""
    licence: str = "see the data set's page"

    @property
    def better(self) -> Literal["lower", "higher"]:
        """Which way the first score is better."""
        assert self.metrics[0].better is not None
        return self.metrics[0].better

    def by_row(self, predictions: Sequence[Prediction]) -> dict[str, np.ndarray]:
        """(rows,) for every score that all of them have"""
        whole = [metric for metric in self.metrics if metric.can_score(predictions)]
        return {metric.name: metric.by_row(predictions) for metric in whole}

    def score(self, predictions: Sequence[Prediction]) -> Scores:
        """Plain predictions in, {"log_loss": 0.9, ...} out."""
        rows = {metric: metric.rows(predictions) for metric in self.metrics}
        return {metric.name: metric(some) for metric, some in rows.items() if metric.can_score(some)}

    def improves(self, new: float, old: float | None) -> bool:
        """Is a first score better than the best so far? One that is not finite never is."""
        sign = 1 if self.better == "higher" else -1
        return math.isfinite(new) and (old is None or sign * new > sign * old)


def as_word(value: object) -> str | None:
    """An id, a letter, a number as text; None where there is none. pandas makes 2.0 of the 2 of a column with
    gaps, and NaN of the gaps."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def sample_words(name: str) -> dict[str, Any]:
    """What the rows of a recipe's sample are made of: the .json beside it."""
    words: dict[str, Any] = json.loads((Path(__file__).parent / f"recipes/{name}.json").read_text("utf-8"))
    return words


def names() -> list[str]:
    """Every recipe there is."""
    import lib.recipes

    return sorted(module.name for module in pkgutil.iter_modules(lib.recipes.__path__))


def described(script: str | None, argv: Sequence[str]) -> str | None:
    """The words of a script that takes a recipe; when --help is asked for, with every recipe and its
    columns."""
    if script is None or not {"-h", "--help"} & set(argv):
        return script
    lines = ["Recipes, and the columns of their rows (the flags below are of the one that is typed first):"]
    for name in names():
        recipe = load(name)
        says = (sys.modules[f"lib.recipes.{name}"].__doc__ or "").partition("\n")[0]
        lines += [f"    {name:13} {says}"]
        lines += [f"    {'':13}   {', '.join(form)}" for form in recipe.columns]
    return "\n".join([script.rstrip(), "", in_columns("\n".join(lines), 79)])


def load(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError with the nearest known name."""
    word = name.replace("-", "_")
    if word not in names():
        raise ValueError(f"unknown recipe {name!r}; {nearest(word, names())}")
    return importlib.import_module(f"lib.recipes.{word}").RECIPE
