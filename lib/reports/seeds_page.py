"""Runs that differ in their seed alone -> seeds.html: each one's scores, with a way to its report, and how
far they lie apart."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lib.base.contents import Spread
from lib.base.files import read_json
from lib.recipe import load
from lib.reports.page import ACCENT, TEXT, WIDTHS, dress, inline_svg, render, write_page
from lib.runs.folder import RunFolder

TEMPLATE = Path(__file__).with_name("seeds.html.jinja")
Spreads = dict[str, dict[str, Spread]]  # split -> score


def write_seeds_page(spreads: Spreads, runs: Mapping[int, RunFolder]) -> Path:
    """Write `seeds.html` into the folder of the last seed's run; `runs` are by their seeds."""
    last = list(runs.values())[-1]
    config = last.config()
    recipe = load(config.recipe)
    first = recipe.metrics[0].name
    page = render(
        TEMPLATE,
        config=config,
        better={metric.name: metric.better for metric in recipe.metrics},
        first=first,
        spreads=spreads,
        sizes=sizes(last),
        runs={seed: (run.path.name, _link(run.path, last.path)) for seed, run in runs.items()},
        plots={name: _plot(spreads, first, width) for name, width in WIDTHS.items()},
    )
    return write_page(last.path / "seeds.html", page)


def sizes(run: RunFolder) -> dict[str, list[str]]:
    """Of each split, how many rows were scored, and in how many groups (runs of before do not say)."""
    splits = read_json(run.path / "scores.json")["splits"]
    of = {"num_rows": "rows", "num_groups": "groups"}
    return {
        split: [f"{scored[key]:,} {word}" for key, word in of.items() if key in scored]
        for split, scored in splits.items()
    }


def _link(run: Path, beside: Path) -> str:
    """The way to a run's report, as a browser follows it: it holds wherever the runs are copied together."""
    return quote(Path(os.path.relpath(run / "report.html", beside)).as_posix())


def _plot(spreads: Spreads, score: str, width: float) -> Any:
    """The score of each seed as a dot, a line a split, and a bar at their mean."""
    from matplotlib.figure import Figure

    lines = {split: scores[score] for split, scores in spreads.items() if score in scores}
    figure = Figure(figsize=(width, 0.8 + 0.5 * len(lines)), layout="constrained", facecolor="none")
    axes = figure.subplots()
    for place, spread in enumerate(lines.values()):
        values = list(spread["seeds"].values())
        axes.plot([spread["mean"]] * 2, [place - 0.3, place + 0.3], color=TEXT, linewidth=1.4)
        axes.plot(values, [place] * len(values), "o", markersize=7, color=ACCENT, alpha=0.6)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(len(lines) - 0.5, -0.5)  # the first split on top
    axes.margins(x=0.1)
    dress(axes, score)
    axes.grid(visible=False, axis="y")
    return inline_svg(figure, f"{score} of each seed", f"seeds {width}")
