"""Scores of plain predictions of a class or an option: what each says of a row; the score is the mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.recipe import Metric, Prediction


def confusion(predictions: Sequence[Prediction], num_classes: int) -> list[list[int]]:
    """Row: true class, column: predicted class."""
    import sklearn.metrics  # a second to import, and --help must answer in less

    labels, chosen = _column(predictions, "label"), _column(predictions, "prediction")
    return sklearn.metrics.confusion_matrix(labels, chosen, labels=list(range(num_classes))).tolist()


@dataclass(frozen=True)
class OfClass:
    """How well one class is told from the others; None where that would be 0 / 0."""

    precision: float | None
    """Of the rows said to be of the class, the share that is."""
    recall: float | None
    """Of the rows of the class, the share said to be."""
    f1: float | None
    """The harmonic mean of both, 2 TP / (2 TP + FP + FN): 0 where the class has rows and was never said."""


def by_class(counts: Sequence[Sequence[int]]) -> tuple[list[OfClass], OfClass]:
    """Of a confusion matrix: each class, and the macro average, which is the mean over the classes that have
    rows, None where one of them has none."""
    matrix = np.array(counts)
    right, rows, said = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    columns = [_shares(right, said), _shares(right, rows), _shares(2 * right, rows + said)]
    classes = [OfClass(*values) for values in zip(*columns, strict=True)]
    there = [[value for value, num in zip(column, rows, strict=True) if num] for column in columns]
    return classes, OfClass(*map(_mean, there))


def _shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    return [float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def order(row: Prediction) -> list[int]:
    """Places of the options, the likeliest first; of equally likely ones the earlier stands first."""
    if "order" in row:
        return row["order"]
    return sorted(range(len(row["probabilities"])), key=lambda place: -row["probabilities"][place])


def _losses(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([_loss(row) for row in predictions])


def _loss(row: Prediction) -> float:
    """-log of the probability of the true class. A probability that is too small for a float32 is 0 although
    its logarithm is an ordinary number, so that is what counts where it is there."""
    if "log_probabilities" in row:
        logs = np.array(row["log_probabilities"], np.float64)
        logs -= logs.max()
        return float(np.log(np.exp(logs).sum()) - logs[row["label"]])  # float32 sums to 1 within 1e-7 only
    true = row["probabilities"][row["label"]] / sum(row["probabilities"])
    return float(-np.log(np.clip(true, np.finfo(np.float64).eps, 1)))


def _right(predictions: Sequence[Prediction]) -> np.ndarray:
    return (_column(predictions, "label") == _column(predictions, "prediction")).astype(np.float64)


def _average_precision_at_3(predictions: Sequence[Prediction]) -> np.ndarray:
    """(rows,) 1 / place of the true option among the three likeliest, 0 when it is not there"""
    places = np.array([1 + order(row).index(row["label"]) for row in predictions])
    return np.where(places <= 3, 1 / places, 0.0)


def _same_when_swapped(predictions: Sequence[Prediction]) -> np.ndarray:
    same = _column(predictions, "swapped").argmax(axis=1) == _column(predictions, "prediction")
    return same.astype(np.float64)


def _column(predictions: Sequence[Prediction], key: str) -> np.ndarray:
    return np.array([row[key] for row in predictions])  # type: ignore[literal-required]


LOG_LOSS = Metric("log_loss", _losses, "lower")
"""Mean of -log(probability of the true class), natural logarithm."""
ACCURACY = Metric("accuracy", _right, "higher", share=True)
"""Share of rows whose most probable class is the true one."""
MAP_AT_3 = Metric("map_at_3", _average_precision_at_3, "higher", share=True)
"""Mean average precision at 3 with one right option a row, as Kaggle's LLM science exam defines it."""
SWAP_AGREEMENT = Metric("swap_agreement", _same_when_swapped, None, share=True)
"""Share of rows on which the model says the same when the two texts trade places."""
