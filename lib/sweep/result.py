"""What came of a sweep: lines for the console, result.json, and result.html with a picture of the search."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.base.files import write_json
from lib.config import Config
from lib.launching.start import command
from lib.reports.page import ACCENT, ALARM, FAINT, TEXT, WIDTHS, dress, inline_svg, render, write_page
from lib.sweep.folder import SweepFolder, Trial
from lib.sweep.space import Parameter, Space
from lib.tracking.tracker import clock

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_suffix(".html.jinja")
MOST_SAID = 30  # values of one parameter that get a place and a name of their own in a plot
MOST_TICKS = 5
FINER = ((1, 3), (1, 2, 5), range(1, 10))  # digits of the ticks, where powers of ten are too few
WIDE_RANGE = 10.0  # scores that differ by more than this factor are drawn on a logarithmic scale


def best(trials: Sequence[Trial], space: Space) -> Trial | None:
    """The first of the best; None when all have failed."""
    return next((trial for trial in ranked(trials, space) if trial.score is not None), None)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def line(trial: Trial, space: Space, trials: Sequence[Trial], num_trials: int) -> str:
    """One finished trial, for the console."""
    values = ", ".join(f"{name} {shown(value)}" for name, value in trial.parameters.items())
    head = f"{trial.number} of {num_trials}: {values}:"
    if trial.score is None:
        return f"{head} failed, {trial.why}"
    first = best(trials, space)
    mark = "  (best so far)" if first and first.number == trial.number else ""
    return f"{head} {space.metric} {trial.score:.4f} at step {trial.step}{mark}"


def train_command(config: Config, space: Space, trial: Trial) -> str:
    """What to type to train a trial's setting by itself."""
    tracking = replace(config.tracking, name=None, resume="auto", stop_at=None)
    one = replace(space.apply(config, trial.parameters), tracking=tracking)
    return shlex.join(["python", f"scripts/{command(one)[0]}", *command(one)[1:]])


def table(folder: SweepFolder, config: Config, space: Space) -> list[str]:
    """All trials, the best first, and the best one's command; for the console."""
    trials, names = folder.trials(), [item.name for item in space.parameters]
    rows = [["trial", space.metric, *names]]
    for trial in ranked(trials, space):
        score = "failed" if trial.score is None else f"{trial.score:.4f}"
        rows.append([str(trial.number), score, *(shown(trial.parameters[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    winner = best(trials, space)
    if winner is None:
        lines.append(f"all {len(trials)} trials failed: {trials[-1].why}")
    else:
        lines.append(f"best: trial {winner.number}, run folder {winner.run}")
        lines.append(f"to train it again: {train_command(config, space, winner)}")
    return [*lines, f"result: {folder.path / 'result.html'}"]


def ranked(trials: Sequence[Trial], space: Space) -> list[Trial]:
    """The best first, the failed ones last."""
    sign = 1 if space.goal == "minimize" else -1
    return sorted(trials, key=lambda t: (t.score is None, sign * (t.score or 0), t.number))


def write(folder: SweepFolder, config: Config, space: Space, num_trials: int) -> None:
    """result.json and result.html, over the trials so far."""
    trials = folder.trials()
    winner = best(trials, space)
    typed = train_command(config, space, winner) if winner else None
    values = {
        "metric": space.metric,
        "goal": space.goal,
        "num_trials": num_trials,
        "finished": len(trials),
        "failed": sum(trial.score is None for trial in trials),
        "best": asdict(winner) if winner else None,
        "command": typed,
    }
    write_json(folder.path / "result.json", values)
    page = render(
        TEMPLATE,
        **values | {"best": winner},
        recipe=config.recipe,
        sweep=folder.path.name,
        backend=folder.description()["backend"],
        smoke=config.smoke,
        model=config.model.model,
        data=config.data.data,
        parameters=space.parameters,
        trials=ranked(trials, space),
        shown=shown,
        took=clock(sum(trial.seconds for trial in trials)),
        plots={name: _plot(trials, space, width) for name, width in WIDTHS.items()},
    )
    write_page(folder.path / "result.html", page)


def _plot(trials: list[Trial], space: Space, width: float) -> Any:
    """Score over trials, then over each parameter, on one scale of scores."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = 2 if width > 5 else 1
    rows = 1 + math.ceil(len(space.parameters) / columns)
    figure = Figure(figsize=(width, 2.3 * rows), layout="constrained", facecolor="none")
    grid = figure.add_gridspec(rows, columns)
    first = figure.add_subplot(grid[0, :])
    _plot_search(first, trials, space)
    first.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    for place, item in enumerate(space.parameters):
        axes = figure.add_subplot(grid[1 + place // columns, place % columns], sharey=first)
        _plot_parameter(axes, trials, space, item)
    scores = [trial.score for trial in trials if trial.score is not None]
    if scores and min(scores) > 0 and max(scores) > WIDE_RANGE * min(scores):
        first.set_yscale("log")
    return inline_svg(figure, "scores of the trials", f"sweep {width}")


def _plot_search(axes: "Axes", trials: list[Trial], space: Space) -> None:
    """Every score, and the best so far as a line of steps."""
    _points(axes, trials, space, [trial.number for trial in trials])
    choose = min if space.goal == "minimize" else max
    scores = [trial.score for trial in trials if trial.score is not None]
    steps = [trial.number for trial in trials if trial.score is not None]
    so_far = [choose(scores[: place + 1]) for place in range(len(scores))]
    axes.step(steps, so_far, where="post", color=ACCENT, linewidth=1.4)
    dress(axes, f"validation {space.metric} over trials, and the best so far")


def _plot_parameter(axes: "Axes", trials: list[Trial], space: Space, item: Parameter) -> None:
    values = [trial.parameters[item.name] for trial in trials]
    if item.values:
        values = [item.values.index(value) for value in values]
        places = range(len(item.values))
        if len(places) <= MOST_SAID:
            axes.set_xticks(places, [shown(value) for value in item.values])
        axes.set_xlim(-0.5, len(places) - 0.5)
    if item.kind == "log":
        axes.set_xscale("log")
        axes.set_xlim(*_widened(item.low, item.high))  # all that is searched, wherever the trials are
        axes.set_xticks([], minor=True)
        ticks = log_ticks(item.low, item.high)
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    _points(axes, trials, space, values)
    dress(axes, item.name)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values from `low` to `high` for a logarithmic scale: a few, also where no power of ten lies
    between."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / MOST_TICKS)
    rows = [[10.0**power for power in range(first, last + 1, every)]]
    if every == 1:
        rows += [[digit * power for power in rows[0] for digit in digits] for digits in FINER]
    inside = [[float(f"{tick:.3g}") for tick in row if _between(tick, low, high)] for row in rows]
    for enough in (3, 2):
        for ticks in inside:
            if len(ticks) >= enough:
                return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    return [low, float(f"{math.sqrt(low * high):.3g}"), high]


def _between(tick: float, low: float, high: float) -> bool:
    return low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)  # 3 * 1e-5 is more than 3e-5 by a rounding


def _widened(low: float, high: float) -> tuple[float, float]:
    """By a twentieth on both sides of a logarithmic scale, so that no dot lies on the frame."""
    room = (high / low) ** 0.05
    return low / room, high * room


def _points(axes: "Axes", trials: list[Trial], space: Space, places: Sequence[Any]) -> None:
    """Dots; a ring around the best; crosses at the bottom for those that failed."""
    winner = best(trials, space)
    for trial, place in zip(trials, places, strict=True):
        if trial.score is None:
            axes.plot(place, 0.05, "x", color=ALARM, transform=axes.get_xaxis_transform())
            continue
        axes.plot(place, trial.score, "o", markersize=4, color=TEXT, markeredgecolor=FAINT)
        if winner and trial.number == winner.number:
            axes.plot(place, trial.score, "o", markersize=11, markerfacecolor="none", color=ALARM)
    axes.margins(y=0.15)
