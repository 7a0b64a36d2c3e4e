"""A finished run -> report.html: one page that needs nothing beside it, on a screen, a phone or paper.

What a run does not have (targets, predictions, a log) is left out. Texts of a data set are hostile: the
template escapes everything but our own plots, and the page's policy forbids scripts and requests.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from lib import recipe as recipes
from lib.answers import Answers
from lib.answers import load as answers_of
from lib.base.contents import RunScores
from lib.base.files import read_json, read_lines
from lib.config import Config, to_dict
from lib.config_keys import flatten
from lib.recipe import Example, Prediction, Recipe
from lib.reports.page import ACCENT, ALARM, FAINT, TEXT, WIDTHS, dress, inline_svg, render, write_page
from lib.runs.folder import FORMAT, RunFolder

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

MOST_MISTAKES = 10
MOST_POINTS = 1000  # of one curve: more cannot be told apart and make the page heavy
# what an example holds beside the texts that a model reads
NO_TEXT = ("id", "group", "label", "letters", "target", "notes", "passage_id", "retrieved")

TEMPLATE = Path(__file__).with_suffix(".html.jinja")


def write_report(folder: RunFolder, examples: dict[str, list[Example]]) -> Path:
    """Write `report.html` into the run folder; `examples` are the rows of each split, with their texts."""
    config, record, scores = folder.config(), folder.record(), read_json(folder.path / "scores.json")
    recipe = recipes.load(config.recipe)
    answers = answers_of(recipe)
    rejected = folder.path / "rejected.jsonl"
    page = render(
        TEMPLATE,
        answers.template,
        answers=answers,
        config=config,
        record=record,
        run=folder.path.name,
        begun=_begun(folder.path.name),
        took=timedelta(seconds=round(record.get("training_seconds", 0))),
        scores=scores,
        better=recipe.better,
        warnings=_warnings(scores),
        curves=_curves(read_lines(folder.metrics) if folder.metrics.exists() else [], recipe),
        mistakes=_mistakes(answers, folder, examples),
        probes=_probes(folder, examples),
        lint=read_json(folder.lint) if folder.lint.exists() else None,
        rejected=read_lines(rejected)[:5] if rejected.exists() else [],
        settings=_settings(config, recipe),
    )
    return write_page(folder.path / "report.html", page)


def _begun(name: str) -> str | None:
    """20231215_120000-name -> 2023-12-15 12:00; None when the folder was given another name."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.strptime(name.partition("-")[0], FORMAT))
    except ValueError:
        return None


def _warnings(scores: RunScores) -> dict[str, list[str]]:
    """Each warning once, with the splits it holds for."""
    warnings: dict[str, list[str]] = {}
    for split, summary in scores["splits"].items():
        for warning in summary["warnings"]:
            warnings.setdefault(warning, []).append(split)
    return warnings


def _settings(config: Config, recipe: Recipe) -> list[list[tuple[str, Any, Any]]]:
    """(dotted key, value, what the recipe says), one list for each part of the configuration."""
    own = flatten(to_dict(recipe.config))
    parts: dict[str, list[tuple[str, Any, Any]]] = {"": []}  # what belongs to no part comes first
    for key, value in flatten(to_dict(config)).items():
        parts.setdefault(key.rpartition(".")[0], []).append((key, value, own.get(key)))
    return list(parts.values())


@dataclass(frozen=True)
class Mistakes:
    """The false predictions of one split, and what the model had read in the worst of them."""

    split: str
    num_rows: int
    num_false: int
    worst: list[tuple[Prediction, list[tuple[str, list[str]]]]]
    """(prediction, [(name of a text, its turns)])"""


def _mistakes(answers: Answers, folder: RunFolder, examples: dict[str, list[Example]]) -> Mistakes | None:
    """Of test, of validation when there is no test. None when predictions or targets are missing."""
    split = next((name for name in ("test", "validation") if folder.predictions(name).exists()), "")
    rows: list[Prediction] = read_lines(folder.predictions(split)) if split else []
    if not rows or any(answers.target(row) is None for row in rows):
        return None
    wrong = answers.wrong(rows)
    read = {example["id"]: example for example in examples.get(split, [])}
    worst = [(row, list(_passages(read.get(row["id"], {})))) for row in wrong[:MOST_MISTAKES]]
    return Mistakes(split, len(rows), len(wrong), worst)


def _probes(folder: RunFolder, examples: dict[str, list[Example]]) -> list[Any]:
    """(passages, prediction before training, prediction after) of each of the recipe's probes."""
    files = [folder.predictions(name) for name in ("probes before", "probes")]
    if not all(file.exists() for file in files):
        return []
    passages = [list(_passages(example)) for example in examples["probes"]]
    return list(zip(passages, *map(read_lines, files), strict=True))


def _passages(example: Example) -> Iterator[tuple[str, list[str]]]:
    """(name, turns) of every text in an example: the context, text A, text B ..."""
    values: dict[str, Any] = {key: value for key, value in example.items() if key not in NO_TEXT}
    for name, value in values.items():
        if isinstance(value, str):
            yield name, [value]
        elif name == "options":
            letters = example.get("letters", ascii_uppercase)
            yield from ((f"option {letter}", [text]) for letter, text in zip(letters, value, strict=False))
        elif all(isinstance(turn, str) for turn in value):
            yield name, value
        else:
            for place, turns in enumerate(value):
                yield f"{name.removesuffix('s')} {chr(ord('A') + place)}", turns


@dataclass(frozen=True)
class Curves:
    """What metrics.jsonl says of the training, and its plots."""

    train: dict[str, list[float]]
    """step, loss, lr"""
    window: int
    """How many steps one point of the smoothed line is the mean of."""
    score: str | None
    validation: list[tuple[int, float]]
    """(step, first score)"""
    best: tuple[int, float] | None
    skipped: list[dict[str, Any]]
    plots: dict[str, Any] = field(default_factory=dict)
    """wide, narrow -> SVG"""


def _curves(lines: list[dict[str, Any]], recipe: Recipe) -> Curves | None:
    """None when no step was recorded."""
    kinds: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "skipped": []}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line)
    if not kinds["train"]:
        return None
    train = {key: [float(line[key]) for line in kinds["train"]] for key in ("step", "loss", "lr")}
    score = next((name for line in kinds["validation"] for name in line["scores"]), None)
    points = [(line["step"], line["scores"][score]) for line in kinds["validation"]]
    choose = min if recipe.better == "lower" else max
    finite = [point for point in points if math.isfinite(point[1])]  # the rest is never the best
    best = choose(finite, key=lambda point: point[1], default=None)
    window = max(1, len(kinds["train"]) // 20) | 1  # odd, so that it has a middle
    curves = Curves(train, window, score, points, best, kinds["skipped"])
    curves.plots.update({name: _plot(curves, width) for name, width in WIDTHS.items()})
    return curves


def _plot(curves: Curves, width: float) -> Any:
    """Training loss, validation score and learning rate above one axis of steps, as inline SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    heights = [3, 2, 1] if curves.best else [3, 1]
    figure = Figure(figsize=(width, 0.9 * sum(heights) + 0.6), layout="constrained", facecolor="none")
    loss, *middle, rate = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    _plot_loss(loss, curves)
    if curves.best:
        steps, values = zip(*curves.validation, strict=True)
        middle[0].plot(steps, values, "o-", color=ACCENT, markersize=4, linewidth=1.2)
        middle[0].plot(*curves.best, "o", markersize=11, markerfacecolor="none", color=ALARM)
        middle[0].margins(y=0.2)  # room for the ring
        dress(middle[0], f"validation {curves.score}")
    rate.plot(curves.train["step"], curves.train["lr"], color=TEXT, linewidth=1)
    highest = max(curves.train["lr"])
    rate.set_yticks([0, highest], ["0", f"{highest:.3g}"])
    dress(rate, "learning rate")
    rate.set_xlabel("optimizer step", color=TEXT, fontsize=10)
    rate.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return inline_svg(figure, "training curves", f"width {width}")


def _plot_loss(axes: "Axes", curves: Curves) -> None:
    steps, losses = np.array(curves.train["step"]), np.array(curves.train["loss"])
    shown = _thinned(losses)
    kind = "." if len(shown) == len(steps) else "-"
    axes.plot(steps[shown], losses[shown], kind, markersize=4, linewidth=0.7, color=FAINT)
    axes.plot(steps, _smoothed(losses, curves.window), color=ACCENT, linewidth=1.6)
    places = [line["step"] for line in curves.skipped]
    axes.plot(places, [0.05] * len(places), "x", color=ALARM, transform=axes.get_xaxis_transform())
    dress(axes, "training loss")


def _thinned(values: np.ndarray) -> np.ndarray:
    """Places of the lowest and highest value of each stretch (no spike is lost); all, when they are few."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), MOST_POINTS // 2)  # two points of each are kept
    ends = [part[find(values[part])] for part in stretches for find in (np.argmin, np.argmax)]
    return np.unique(ends)


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over `window` values around each one; over fewer at the ends."""
    sums, places = np.concatenate([[0], values.cumsum()]), np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
