"""The predictions of a split -> what is said of them: scores with intervals, baselines beside them, and
warnings."""

from collections.abc import Sequence
from typing import cast

from lib.answers import bootstrap, hits
from lib.answers import load as answers_of
from lib.answers.bootstrap import Interval
from lib.base.contents import Summary
from lib.recipe import Prediction, Recipe


def summarize(
    recipe: Recipe, predictions: Sequence[Prediction], baselines: dict[str, list[Prediction]]
) -> Summary:
    """What scores.json holds for one split."""
    answers = answers_of(recipe)
    scores, *beside = (
        bootstrap.as_values(bootstrap.intervals(rows, recipe.score))
        for rows in (predictions, *baselines.values())
    )
    summary = Summary(
        num_rows=len(predictions),
        warnings=answers.warnings(predictions, baselines),
        scores=scores,
        baselines=dict(zip(baselines, beside, strict=True)),
    )
    return cast(Summary, summary | answers.details(predictions))


def table(summary: Summary) -> list[str]:
    """Scores beside the baselines, for the console."""
    columns = {"model": summary["scores"], **summary["baselines"]}
    width = max(16, *(len(score) + 2 for score in summary["scores"]))
    lines = [" " * width + "".join(name.ljust(28) for name in columns)]
    for score in summary["scores"]:
        cells = [str(Interval(**scores[score])) for scores in columns.values()]
        lines.append(score.ljust(width) + "".join(cell.ljust(28) for cell in cells))
    if "retrieval" in summary:
        lines += hits.lines(summary["retrieval"])
    if "num_false" in summary:
        lines.append(f"{summary['num_false']} false predictions of {summary['num_rows']}")
    return lines + [f"WARNING: {warning}" for warning in summary["warnings"]]
