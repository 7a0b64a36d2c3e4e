"""What metrics.jsonl says of a training -> the curves of report.html, as inline SVG."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.answers.metrics import LOG_LOSS
from lib.answers.text_metrics import LOSS
from lib.recipe import Recipe
from lib.reports.page import ACCENT, ALARM, FAINT, TEXT, WIDTHS, dress, inline_svg

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

MOST_POINTS = 1000  # of one curve: more cannot be told apart and make the page heavy
MARKERS = "os^Dv"  # of scores of what is written; more than these few in one picture cannot be told apart


@dataclass(frozen=True)
class Curves:
    """What was recorded, and its plots."""

    train: dict[str, list[float]]
    """step, loss, lr"""
    window: int
    """How many steps one point of the smoothed line is the mean of."""
    score: str | None
    validation: list[tuple[int, float]]
    """(step, first score)"""
    best: tuple[int, float] | None
    loss_score: str | None
    """The score that is the loss of the validation rows, if there is one."""
    losses: list[tuple[int, float]]
    """(step, that score)"""
    written: dict[str, list[tuple[int, float]]]
    """Score of the texts that were written at evaluations -> (step, that score), each from 0 to 1."""
    skipped: list[dict[str, Any]]
    plots: dict[str, Any] = field(default_factory=dict)
    """wide, narrow -> SVG"""

    @property
    def has_panel(self) -> bool:
        """Whether the first score has one of its own: as a loss it stands among the losses."""
        return self.best is not None and self.score != self.loss_score


def curves_of(lines: list[dict[str, Any]], recipe: Recipe) -> Curves | None:
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
    loss_score = next((metric.name for metric in recipe.metrics if metric in (LOG_LOSS, LOSS)), None)
    losses = _points(kinds["validation"], loss_score)
    shares = [each.name for each in recipe.metrics if each.reads and each.share and each.better == "higher"]
    written = {name: found for name in shares if (found := _points(kinds["validation"], name))}
    written = dict(list(written.items())[: len(MARKERS)])
    curves = Curves(train, window, score, points, best, loss_score, losses, written, kinds["skipped"])
    curves.plots.update({name: _plot(curves, width) for name, width in WIDTHS.items()})
    return curves


def _points(validation: list[dict[str, Any]], score: str | None) -> list[tuple[int, float]]:
    """(step, the score) of the lines that have it."""
    return [(line["step"], line["scores"][score]) for line in validation if score in line["scores"]]


def _plot(curves: Curves, width: float) -> Any:
    """Losses, the first validation score, those of texts and the learning rate above one axis of steps, as
    inline SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    heights = [4, *[2] * curves.has_panel, *[3] * bool(curves.written), 1]
    figure = Figure(figsize=(width, 0.9 * sum(heights) + 0.6), layout="constrained", facecolor="none")
    loss, *middle, rate = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    _plot_losses(loss, curves)
    if curves.has_panel:
        _plot_validation(middle[0], curves.validation, curves.score)
        middle[0].margins(y=0.2)  # room for the ring
        dress(middle[0], f"validation {curves.score}")
    if curves.best:
        axes = middle[0] if curves.has_panel else loss
        axes.plot(*curves.best, "o", markersize=11, markerfacecolor="none", color=ALARM)
    if curves.written:
        _plot_written(middle[-1], curves.written)
    rate.plot(curves.train["step"], curves.train["lr"], color=TEXT, linewidth=1)
    highest = max(curves.train["lr"])
    rate.set_yticks([0, highest], ["0", f"{highest:.3g}"])
    dress(rate, "learning rate")
    rate.set_xlabel("optimizer step", color=TEXT, fontsize=10)
    rate.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return inline_svg(figure, "training curves", f"width {width}")


def _plot_losses(axes: "Axes", curves: Curves) -> None:
    steps, losses = np.array(curves.train["step"]), np.array(curves.train["loss"])
    shown = _thinned(losses)
    kind = "." if len(shown) == len(steps) else "-"
    if curves.window > 1:
        each = "training, each step"
        axes.plot(steps[shown], losses[shown], kind, markersize=4, linewidth=0.7, color=FAINT, label=each)
        name, kind = f"training, mean of {curves.window} steps", "-"
    else:
        name, kind = "training, each step", ".-"  # dots: a single step has no line
    axes.plot(steps, _smoothed(losses, curves.window), kind, color=ACCENT, linewidth=1.6, label=name)
    if curves.losses:
        _plot_validation(axes, curves.losses, curves.loss_score)
    places = [line["step"] for line in curves.skipped]
    axes.plot(places, [0.05] * len(places), "x", color=ALARM, transform=axes.get_xaxis_transform())
    axes.legend(loc="best", fontsize=9, labelcolor=TEXT, frameon=False)
    dress(axes, "loss")


def _plot_validation(axes: "Axes", points: list[tuple[int, float]], score: str | None) -> None:
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, "o--", color=TEXT, markersize=4.5, linewidth=0.9, label=f"validation {score}")


def _plot_written(axes: "Axes", written: dict[str, list[tuple[int, float]]]) -> None:
    for place, (name, points) in enumerate(written.items()):
        colour = ACCENT if place % 2 else TEXT
        axes.plot(
            *zip(*points, strict=True),
            f"{MARKERS[place]}-",
            color=colour,
            markersize=5,
            linewidth=0.9,
            label=name,
        )
    axes.set_ylim(bottom=0)
    axes.margins(y=0.2)
    axes.legend(loc="best", ncols=2, fontsize=9, labelcolor=TEXT, frameon=False)
    dress(axes, "texts written at evaluations")


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
