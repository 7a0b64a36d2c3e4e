"""The predictions of a split -> what is said of them: scores with intervals, baselines beside them, and
warnings."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from lib.answers import BASE, Values, hits, intervals
from lib.answers import load as answers_of
from lib.answers.intervals import MIN_GROUPS, Groups, beyond, of_value
from lib.base.contents import Summary
from lib.recipe import Metric, Prediction, Recipe


def summarize(recipe: Recipe, predictions: Sequence[Prediction], baselines: dict[str, Values]) -> Summary:
    """What scores.json holds for one split."""
    answers, groups = answers_of(recipe), Groups.of(predictions)
    values = recipe.by_row(predictions)
    scores, *beside = (
        intervals.as_values(intervals.score(each, groups, recipe.metrics))
        for each in (values, *baselines.values())
    )
    gains = {}
    for name, each in baselines.items():
        # a score of some rows alone can be had for nothing, at the cost of the others: by refusing all, say
        metrics = [metric for metric in recipe.metrics if name == BASE or not metric.partial]
        gains[name] = _gains(each, values, groups, metrics)
    summary = Summary(
        num_rows=len(predictions),
        num_groups=len(groups),
        warnings=[
            *_no_numbers(values, recipe.metrics),
            *answers.warnings(predictions),
            *_chance(answers.chance, gains),
            *(_beaten(gains) if len(groups) >= MIN_GROUPS else []),
        ],
        scores=scores,
        baselines=dict(zip(baselines, beside, strict=True)),
        gains=gains,
    )
    return cast(Summary, summary | answers.details(predictions))


def values_of(summary: Summary) -> dict[str, float]:
    return {name: value["value"] for name, value in summary["scores"].items()}


def table(summary: Summary) -> list[str]:
    """Each score, the model's and below it the baselines', for the console."""
    columns = {"model": summary["scores"], **summary["baselines"]}
    first, second = (max(map(len, names)) + 2 for names in (summary["scores"], columns))
    lines = [
        f"{score if scores is summary['scores'] else '':{first}}{name:{second}}{of_value(scores[score])}"
        for score in summary["scores"]
        for name, scores in columns.items()
        if score in scores
    ]
    if "retrieval" in summary:
        lines += hits.lines(summary["retrieval"])
    if "num_false" in summary:
        lines.append(f"{summary['num_false']} false predictions of {summary['num_rows']}")
    return lines + [f"WARNING: {warning}" for warning in summary["warnings"]]


def who_beats_whom(summary: Summary) -> str | None:
    """The model against each baseline on the same rows, in one sentence; baselines that it says the same of
    stand together. None where nothing was compared."""
    gains = {name: by_score for name, by_score in summary.get("gains", {}).items() if by_score}
    if not gains:
        return None
    if summary["num_groups"] < MIN_GROUPS:
        return f"Fewer than {MIN_GROUPS} groups of rows say nothing certain of who is better."
    names: dict[tuple[str, str], list[str]] = {}  # (scores won, scores lost) -> baselines
    for name, by_score in gains.items():
        won, lost = (_listed([score for score in by_score if by_score[score] == sign]) for sign in (1, -1))
        names.setdefault((won, lost), []).append(name)
    said = [_against(_listed(those), len(those) > 1, *scores) for scores, those in names.items()]
    sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _against(names: str, several: bool, won: str, lost: str) -> str:
    """One part of the sentence."""
    sure = "beyond the 95 % interval"
    if won and lost:
        return f"the model is better than {names} {sure} in {won} and worse in {lost}"
    if won:
        return f"the model is better than {names} {sure} in {won}"
    if lost:
        return f"{names} {'are' if several else 'is'} better than the model {sure} in {lost}"
    return f"{names} cannot be told from the model"


def _listed(names: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _gains(baseline: Values, model: Values, groups: Groups, metrics: Sequence[Metric]) -> dict[str, int]:
    """Of each score that can be better: 1 where the model is sure to be better than the baseline, -1 where
    the baseline is, 0 where one cannot tell."""
    gains = {}
    for metric in metrics:
        if metric.better is not None and metric.name in baseline.keys() & model.keys():
            difference = intervals.difference(
                baseline[metric.name], model[metric.name], groups, metric.partial
            )
            surely = difference.low > 0 or difference.high < 0
            gains[metric.name] = (1 if beyond(difference, metric.better) else -1) if surely else 0
    return gains


def _no_numbers(values: Values, metrics: Sequence[Metric]) -> list[str]:
    """A partial score says NaN of a row that does not count; elsewhere NaN says that the model overflows."""
    every = [metric.name for metric in metrics if metric.name in values and not metric.partial]
    bad = [name for name in every if not np.isfinite(values[name]).all()]
    return [f"NO FINITE NUMBER: {', '.join(bad)}; a smaller --lr or --precision fp32 may help"] if bad else []


def _chance(chance: Sequence[str], gains: dict[str, dict[str, int]]) -> list[str]:
    """Better than chance is: in one score better than all that looks at no row."""
    blind = [gains[name] for name in chance if name in gains]
    if not blind or any(all(gain.get(score, 0) > 0 for gain in blind) for score in blind[0]):
        return []
    names = " AND ".join(chance).upper()
    nothing = f"NO SCORE IS BETTER THAN {names} BEYOND ITS 95 % INTERVAL"
    return [f"THE MODEL'S ANSWERS CANNOT BE TOLD FROM CHANCE: {nothing}"]


def _beaten(gains: dict[str, dict[str, int]]) -> list[str]:
    lost = {name: [score for score, gain in by_score.items() if gain < 0] for name, by_score in gains.items()}
    return [
        f"{name.upper()} IS BETTER THAN THE MODEL BEYOND THE 95 % INTERVAL: {', '.join(scores)}"
        for name, scores in lost.items()
        if scores
    ]
