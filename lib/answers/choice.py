"""An answer that is one of the recipe's labels: a class of texts, or an option among those of its row."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.answers import Answers, Values, calibration, metrics
from lib.base.contents import Details
from lib.recipe import Example, Prediction, Recipe
from lib.reports.page import LINE, TEXT, inline_svg

UNIFORM, MAJORITY = "uniform guess", "majority class"


class Confused(Details, total=False):
    confusion: list[list[int]]  # row: true class, column: predicted class
    calibration: calibration.Calibration  # not in runs of before


class Choice:
    """Targets and answers are places in `recipe.labels`."""

    template = Path(__file__).with_suffix(".html.jinja")
    chance = (UNIFORM, MAJORITY)

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def target(self, row: Example | Prediction) -> Any:
        return row.get("label")

    def answer(self, prediction: Prediction) -> Any:
        return prediction["prediction"]

    def words(self, value: Any, row: Example | Prediction) -> str:
        return row.get("letters", self.recipe.labels)[value]

    def kept(self, prediction: Prediction, example: Example) -> Prediction:
        """With the order of the options in the row's own letters."""
        if "letters" in example:
            prediction = Prediction(**{**prediction, "letters": example["letters"]})
        if "order" in prediction:
            ranking = [self.words(place, prediction) for place in prediction["order"]]
            prediction = Prediction(**{**prediction, "ranking": ranking})
        return prediction

    def wrong(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The lowest probability on the true class first."""
        wrong = [row for row in predictions if row["prediction"] != row["label"]]
        return sorted(wrong, key=lambda row: row["probabilities"][row["label"]])

    def shown(self, wrong: Sequence[Prediction], most: int) -> list[Prediction]:
        """The worst."""
        return list(wrong[:most])

    def distance(self, new: Prediction, old: Prediction) -> float:
        """The largest difference of two probabilities."""
        pairs = zip(_probabilities(new), _probabilities(old), strict=True)
        differences = [abs(first - second) for first, second in pairs]
        return max(differences) if all(map(math.isfinite, differences)) else math.inf

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        counts = Counter(self.recipe.labels[example["label"]] for example in examples)
        return {label: counts[label] for label in self.recipe.labels if counts[label]}

    def details(self, predictions: Sequence[Prediction]) -> Details:
        num_classes = max(len(row["probabilities"]) for row in predictions)
        return Confused(
            labels=list(self.recipe.labels[:num_classes]),
            confusion=metrics.confusion(predictions, num_classes),
            num_false=len(self.wrong(predictions)),
            calibration=calibration.summarize(
                np.array([row["probabilities"][row["prediction"]] for row in predictions]),
                np.array([row["prediction"] == row["label"] for row in predictions]),
            ),
        )

    def warnings(self, predictions: Sequence[Prediction]) -> list[str]:
        chosen = {row["prediction"] for row in predictions}
        if len(chosen) > 1:
            return []
        label = self.recipe.labels[chosen.pop()]
        return [f"THE MODEL PREDICTS A SINGLE CLASS: {label!r} FOR EVERY ROW"]

    def baselines(self, train: list[Example], rows: list[Example]) -> dict[str, Values]:
        """A guess with equal chances, the share of each class in the training rows, and a logistic regression
        on the recipe's features (lengths)."""
        counts = Counter(example["label"] for example in train)
        options = "options" in rows[0]
        num_classes = max(map(_width, (*train, *rows))) if options else len(self.recipe.labels)
        prior = [(counts[label] + 1) / (len(train) + num_classes) for label in range(num_classes)]
        majority = [self._prediction(row, prior, prior) for row in rows]
        baselines = {UNIFORM: self._guess(rows), MAJORITY: self.recipe.by_row(majority)}
        if self.recipe.features is not None and len(counts) > 1:
            fit = self._from_option_features if options else self._from_features
            baselines[self.recipe.features_name] = self.recipe.by_row(fit(train, rows))
        return baselines

    def _guess(self, rows: list[Example]) -> Values:
        """What a guess with equal chances scores on average: each class stands first once."""
        widths = [_width(row) if "options" in row else len(self.recipe.labels) for row in rows]
        guesses = [
            Prediction(
                label=row["label"],
                prediction=first,
                probabilities=[1 / width] * width,
                swapped=[1.0] + [0.0] * (width - 1),  # whatever it is, one guess in `width` says the same
                order=[*range(first, width), *range(first)],
            )
            for row, width in zip(rows, widths, strict=True)
            for first in range(width)
        ]
        starts = np.cumsum([0, *widths[:-1]])
        by_guess = self.recipe.by_row(guesses)
        return {name: np.add.reduceat(values, starts) / widths for name, values in by_guess.items()}

    def _prediction(self, row: Example, shares: list[float], swapped: list[float]) -> Prediction:
        if "options" in row:  # a row may have fewer options than others
            shares = [share / sum(shares[: _width(row)]) for share in shares[: _width(row)]]
        prediction = Prediction(
            id=row["id"],
            label=row["label"],
            prediction=max(range(len(shares)), key=shares.__getitem__),
            probabilities=shares,
        )
        if self.recipe.swapped_labels is not None:
            prediction["swapped"] = [swapped[label] for label in self.recipe.swapped_labels]
        return prediction

    def _from_option_features(self, train: list[Example], rows: list[Example]) -> list[Prediction]:
        """Each option by itself: is it the right one? Its odds among the row's are its probability."""
        features = self.recipe.features
        assert features is not None
        model = _classifier()
        model.fit(
            [values for row in train for values in features(row)],
            [place == row["label"] for row in train for place in range(_width(row))],
        )
        predictions = []
        for row in rows:
            odds = np.exp(model.decision_function(features(row)))
            shares = (odds / odds.sum()).tolist()
            predictions.append(self._prediction(row, shares, shares))
        return predictions

    def _from_features(self, train: list[Example], rows: list[Example]) -> list[Prediction]:
        features, labels = self.recipe.features, range(len(self.recipe.labels))
        assert features is not None
        model = _classifier()
        model.fit([features(row) for row in train], [row["label"] for row in train])
        columns = {label: column for column, label in enumerate(model.classes_)}

        def ask(asked: list[Example]) -> list[list[float]]:
            shares = model.predict_proba([features(row) for row in asked])
            # a class that no training row has gets the least probability a log loss can bear
            return [[float(p[columns[k]]) if k in columns else 1e-9 for k in labels] for p in shares]

        straight = turned = ask(rows)
        if self.recipe.swapped_labels is not None:
            turned = ask([Example(**{**row, "texts": row["texts"][::-1]}) for row in rows])  # type: ignore[typeddict-item]
        return [self._prediction(*parts) for parts in zip(rows, straight, turned, strict=True)]

    def by_class(self, summary: Confused) -> dict[str, metrics.OfClass]:
        """Each class, and the average of all; for the template."""
        classes, average = metrics.by_class(summary["confusion"])
        return dict(zip(summary["labels"], classes, strict=True)) | {"macro average": average}

    def calibrated(self, splits: dict[str, Confused]) -> tuple[str, calibration.Calibration, Any] | None:
        """The split whose calibration is shown, what it is, and its picture (None: too few rows); for the
        template. None for a run that did not record it."""
        for split in ("test", "validation"):
            if "calibration" in splits.get(split, {}):
                found = splits[split]["calibration"]
                enough = found["num_rows"] >= calibration.MIN_ROWS
                return split, found, calibration.picture(found, split) if enough else None
        return None

    def picture(self, split: str, summary: Confused) -> Any:
        """scikit-learn's picture of the confusion matrix, as inline SVG; for the template."""
        from matplotlib.figure import Figure
        from sklearn.metrics import ConfusionMatrixDisplay

        side = 1.6 + 0.55 * len(summary["labels"])
        figure = Figure(figsize=(side, side), layout="constrained", facecolor="none")
        axes = figure.subplots()
        shown = ConfusionMatrixDisplay(np.array(summary["confusion"]), display_labels=summary["labels"])
        shown.plot(ax=axes, cmap="Blues", colorbar=False, values_format="d")
        shown.im_.remove()  # a bitmap, which the page's policy forbids; the same cells as lines
        edges = np.arange(len(summary["labels"]) + 1) - 0.5
        axes.pcolormesh(edges, edges, shown.confusion_matrix, cmap="Blues", zorder=0)
        axes.tick_params(labelcolor=TEXT, color=LINE)
        axes.spines[:].set_color(LINE)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(TEXT)
        return inline_svg(figure, f"confusion matrix of {split}", f"confusion {split}")


def make(recipe: Recipe) -> Answers:
    return Choice(recipe)


def _width(example: Example) -> int:
    return len(example["options"])


def _probabilities(prediction: Prediction) -> list[float]:
    return [*prediction["probabilities"], *prediction.get("swapped", [])]


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
