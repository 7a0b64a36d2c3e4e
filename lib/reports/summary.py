"""The predictions of a split -> what is said of them: scores with intervals, baselines beside them, and
warnings."""

from collections.abc import Sequence
from typing import cast

from lib.answers import Values, hits, intervals
from lib.answers import load as answers_of
from lib.answers.intervals import Groups, Interval, beyond
from lib.base.contents import Summary
from lib.recipe import Prediction, Recipe


def summarize(recipe: Recipe, predictions: Sequence[Prediction], baselines: dict[str, Values]) -> Summary:
    """What scores.json holds for one split."""
    answers, groups = answers_of(recipe), Groups.of(predictions)
    values = recipe.by_row(predictions)
    scores, *beside = (
        intervals.as_values(intervals.score(each, groups, recipe.metrics))
        for each in (values, *baselines.values())
    )
    gains = {name: _gains(each, values, groups, recipe) for name, each in baselines.items()}
    summary = Summary(
        num_rows=len(predictions),
        num_groups=len(groups),
        warnings=answers.warnings(predictions) + _chance(answers.chance, gains) + _beaten(gains),
        scores=scores,
        baselines=dict(zip(baselines, beside, strict=True)),
    )
    return cast(Summary, summary | answers.details(predictions))


def values_of(summary: Summary) -> dict[str, float]:
    return {name: value["value"] for name, value in summary["scores"].items()}


def table(summary: Summary) -> list[str]:
    """Each score, the model's and below it the baselines', for the console."""
    columns = {"model": summary["scores"], **summary["baselines"]}
    first, second = (max(map(len, names)) + 2 for names in (summary["scores"], columns))
    lines = [
        f"{score if scores is summary['scores'] else '':{first}}{name:{second}}{Interval(**scores[score])}"
        for score in summary["scores"]
        for name, scores in columns.items()
    ]
    if "retrieval" in summary:
        lines += hits.lines(summary["retrieval"])
    if "num_false" in summary:
        lines.append(f"{summary['num_false']} false predictions of {summary['num_rows']}")
    return lines + [f"WARNING: {warning}" for warning in summary["warnings"]]


def _gains(baseline: Values, model: Values, groups: Groups, recipe: Recipe) -> dict[str, int]:
    """Of each score that can be better: 1 where the model is sure to be better than the baseline, -1 where
    the baseline is, 0 where one cannot tell."""
    gains = {}
    for metric in recipe.metrics:
        if metric.better is not None:
            difference = intervals.difference(baseline[metric.name], model[metric.name], groups)
            surely = difference.low > 0 or difference.high < 0
            gains[metric.name] = (1 if beyond(difference, metric.better) else -1) if surely else 0
    return gains


def _chance(chance: Sequence[str], gains: dict[str, dict[str, int]]) -> list[str]:
    """Better than chance is: in one score better than all that looks at no row."""
    blind = [gains[name] for name in chance if name in gains]
    if not blind or any(all(gain[score] > 0 for gain in blind) for score in blind[0]):
        return []
    names = " AND ".join(chance).upper()
    return [f"THE MODEL CANNOT BE TOLD FROM CHANCE: NO SCORE IS BETTER THAN {names} BEYOND ITS 95 % INTERVAL"]


def _beaten(gains: dict[str, dict[str, int]]) -> list[str]:
    lost = {name: [score for score, gain in by_score.items() if gain < 0] for name, by_score in gains.items()}
    return [
        f"{name.upper()} IS BETTER THAN THE MODEL BEYOND THE 95 % INTERVAL: {', '.join(scores)}"
        for name, scores in lost.items()
        if scores
    ]
