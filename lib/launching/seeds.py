"""One configuration over several seeds: how much of a score is luck."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lib.base.console import speak
from lib.base.contents import Spread
from lib.base.exits import DONE, StoppedError
from lib.base.files import read_json, write_json
from lib.config import Config
from lib.launching.start import done_or_trained
from lib.process.signals import StopFlag
from lib.reports.seeds_page import Spreads, sizes, write_seeds_page
from lib.runs.folder import RunFolder
from lib.runs.resume import check_same_rows


def train(config: Config, once: Callable[..., int]) -> int:
    """Train with --seed, --seed + 1 ..., each an ordinary run, and say mean and spread of their scores. What
    an earlier call finished is not trained again; the first run that does not end well ends this."""
    stop = StopFlag()  # of all of them, so that a signal between two is not lost
    seeds = range(config.optim.seed, config.optim.seed + config.tracking.seeds)
    runs: dict[int, RunFolder] = {}
    for seed in seeds:
        tracking = replace(config.tracking, seeds=1)
        one = replace(config, optim=replace(config.optim, seed=seed), tracking=tracking)
        if stop.requested:
            raise StoppedError(f"{stop.reason} before seed {seed}; the same command goes on")
        code, run = done_or_trained(one, partial(once, stop=stop))
        if run is None:
            return code
        speak(f"seed {seed}: {run.path}")
        runs[seed] = run
        check_same_rows(list(runs.values()))
    summary = summarize(runs)
    path = runs[seeds[-1]].path / "seeds.json"
    write_json(path, {"runs": {seed: run.path.name for seed, run in runs.items()}, **summary})
    for line in table(summary, runs[seeds[0]]):
        speak(line)
    speak(f"means and spreads: {path}; as a page: {write_seeds_page(summary, runs)}")
    return DONE


def summarize(runs: dict[int, RunFolder]) -> Spreads:
    """split -> score that all have -> values by seed, mean, and standard deviation (of a sample: n - 1)."""
    scores = {seed: read_json(run.path / "scores.json")["splits"] for seed, run in runs.items()}
    spreads: Spreads = {}
    for split, summary in next(iter(scores.values())).items():
        for name in summary["scores"]:
            if any(name not in splits[split]["scores"] for splits in scores.values()):
                continue
            values = {seed: splits[split]["scores"][name]["value"] for seed, splits in scores.items()}
            mean, spread = statistics.mean(values.values()), statistics.stdev(values.values())
            spreads.setdefault(split, {})[name] = Spread(seeds=values, mean=mean, spread=spread)
    return spreads


def table(summary: Spreads, first: RunFolder) -> list[str]:
    """For people: mean, spread, and each seed's value; `first`: one of the runs, which scored the same
    rows."""
    lines = []
    for split, scores in summary.items():
        lines.append(f"{split} ({' in '.join(sizes(first)[split])})")
        for name, of_score in scores.items():
            values = "  ".join(f"{value:.4f}" for value in of_score["seeds"].values())
            lines.append(
                f"  {name:15} {of_score['mean']:.4f}, standard deviation {of_score['spread']:.4f}  ({values})"
            )
    return lines
