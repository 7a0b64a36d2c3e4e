"""Predictions -> what is said of them: scores with intervals, baselines beside them, and warnings in
capitals."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.evaluation import hits, metrics
from lib.recipe import Example, Prediction, Recipe

# better than the majority class in one of these is better than chance
CHANCE_SCORES = ("log_loss", "accuracy", "map_at_3")


def baselines(recipe: Recipe, train: list[Example], rows: list[Example]) -> dict[str, list[Prediction]]:
    """What one gets without a language model: the share of each class in the training rows, and a logistic
    regression on the recipe's features (lengths)."""
    counts = Counter(example["label"] for example in train)
    classes = max(map(_width, (*train, *rows))) if "options" in rows[0] else len(recipe.labels)
    prior = [(counts[label] + 1) / (len(train) + classes) for label in range(classes)]
    found = {"majority class": [_plain(recipe, row, prior, prior) for row in rows]}
    if recipe.features is not None and len(counts) > 1:
        fit = _from_option_features if "options" in rows[0] else _from_features
        found[recipe.features_name] = fit(recipe, train, rows)
    return found


def _width(example: Example) -> int:
    return len(example["options"])


def _plain(recipe: Recipe, row: Example, said: list[float], swapped: list[float]) -> Prediction:
    if "options" in row:  # a row may have fewer options than others
        said = [share / sum(said[: _width(row)]) for share in said[: _width(row)]]
    prediction = Prediction(
        id=row["id"],
        label=row["label"],
        prediction=max(range(len(said)), key=said.__getitem__),
        probabilities=said,
    )
    if recipe.swapped_labels is not None:
        prediction["swapped"] = [swapped[label] for label in recipe.swapped_labels]
    return prediction


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _from_option_features(recipe: Recipe, train: list[Example], rows: list[Example]) -> list[Prediction]:
    """Each option by itself: is it the right one? Its odds among the row's are its probability."""
    assert recipe.features is not None
    model = _classifier()
    model.fit(
        [values for row in train for values in recipe.features(row)],
        [place == row["label"] for row in train for place in range(_width(row))],
    )
    found = []
    for row in rows:
        odds = np.exp(model.decision_function(recipe.features(row)))
        said = (odds / odds.sum()).tolist()
        found.append(_plain(recipe, row, said, said))
    return found


def _from_features(recipe: Recipe, train: list[Example], rows: list[Example]) -> list[Prediction]:
    assert recipe.features is not None
    model = _classifier()
    model.fit([recipe.features(row) for row in train], [row["label"] for row in train])
    classes = list(model.classes_)

    def ask(asked: list[Example]) -> list[list[float]]:
        said = model.predict_proba([recipe.features(row) for row in asked])  # type: ignore[misc]
        # a class that no training row has gets the least probability a log loss can bear
        return [
            [
                float(p[classes.index(label)]) if label in classes else 1e-9
                for label in range(len(recipe.labels))
            ]
            for p in said
        ]

    straight = ask(rows)
    turned = straight
    if recipe.swapped_labels is not None:
        turned = ask([Example(**{**row, "texts": row["texts"][::-1]}) for row in rows])  # type: ignore[typeddict-item]
    return [_plain(recipe, *parts) for parts in zip(rows, straight, turned, strict=True)]


def summarize(
    recipe: Recipe, predictions: Sequence[Prediction], beside: dict[str, list[Prediction]]
) -> dict[str, Any]:
    """What scores.json holds for one split."""
    found: dict[str, Any] = {"num_rows": len(predictions), "warnings": warnings(recipe, predictions, beside)}
    found["scores"] = metrics.as_values(metrics.intervals(predictions, recipe.score))
    found["baselines"] = {
        name: metrics.as_values(metrics.intervals(rows, recipe.score)) for name, rows in beside.items()
    }
    if all("label" in row for row in predictions):
        classes = max(len(row["probabilities"]) for row in predictions)
        found["labels"] = list(recipe.labels[:classes])
        found["confusion"] = metrics.confusion(predictions, classes)
        found["num_false"] = metrics.num_false(predictions)
    return found


def warnings(
    recipe: Recipe, predictions: Sequence[Prediction], beside: dict[str, list[Prediction]]
) -> list[str]:
    """Signs that a model has not learned, in capitals."""
    found = []
    chosen = {row["prediction"] for row in predictions}
    if len(chosen) == 1:
        found.append(f"THE MODEL PREDICTS A SINGLE CLASS: {recipe.labels[chosen.pop()]!r} FOR EVERY ROW")
    differences = metrics.paired_differences(beside["majority class"], predictions, recipe.score)
    better = [
        interval.high < 0 if name == "log_loss" else interval.low > 0
        for name, interval in differences.items()
        if name in CHANCE_SCORES
    ]
    if better and not any(better):
        found.append(
            "THE MODEL CANNOT BE TOLD FROM CHANCE: NO SCORE IS BETTER THAN THE MAJORITY CLASS'S BEYOND ITS "
            "95 % INTERVAL"
        )
    return found


def table(summary: dict[str, Any]) -> list[str]:
    """Scores beside the baselines, for the console."""
    names = ["model", *summary["baselines"]]
    columns = [summary["scores"], *summary["baselines"].values()]
    lines = ["".ljust(16) + "".join(name.ljust(28) for name in names)]
    for score in summary["scores"]:
        cells = [f"{c[score]['value']:.4f} [{c[score]['low']:.4f}, {c[score]['high']:.4f}]" for c in columns]
        lines.append(score.ljust(16) + "".join(cell.ljust(28) for cell in cells))
    if "retrieval" in summary:
        lines += hits.lines(summary["retrieval"])
    if "num_false" in summary:
        lines.append(f"{summary['num_false']} false predictions of {summary['num_rows']}")
    return lines + [f"WARNING: {warning}" for warning in summary["warnings"]]
