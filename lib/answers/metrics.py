"""Scores of plain predictions of a class or an option."""

from collections.abc import Sequence

import numpy as np

from lib.answers.bootstrap import by_row
from lib.recipe import Prediction


def log_loss(predictions: Sequence[Prediction]) -> float:
    """Mean of -log(probability of the true class), natural logarithm; what scikit-learn's log_loss gives.
    Written out because a bootstrap calls it a thousand times, and scikit-learn checks its input for a
    millisecond each time."""
    return float(by_row(predictions, _losses).mean())


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Share of rows whose most probable class is the true one."""
    return float(by_row(predictions, _right).mean())


def map_at_3(predictions: Sequence[Prediction]) -> float:
    """Mean average precision at 3 with one right option a row, as Kaggle's LLM science exam defines it."""
    return float(by_row(predictions, _average_precision_at_3).mean())


def swap_agreement(predictions: Sequence[Prediction]) -> float:
    """Share of rows on which the model says the same when the two texts trade places."""
    return float(by_row(predictions, _same_when_swapped).mean())


def confusion(predictions: Sequence[Prediction], num_classes: int) -> list[list[int]]:
    """Row: true class, column: predicted class."""
    import sklearn.metrics  # a second to import, and --help must answer in less

    labels, chosen = _column(predictions, "label"), _column(predictions, "prediction")
    return sklearn.metrics.confusion_matrix(labels, chosen, labels=list(range(num_classes))).tolist()


def num_false(predictions: Sequence[Prediction]) -> int:
    """How many predictions are false."""
    return int(np.sum(~by_row(predictions, _right)))


def _losses(predictions: Sequence[Prediction]) -> np.ndarray:
    # float32 sums to 1 within 1e-7 only; rows may have different numbers of options
    true = np.array([row["probabilities"][row["label"]] / sum(row["probabilities"]) for row in predictions])
    return -np.log(np.clip(true, np.finfo(np.float64).eps, 1))


def _average_precision_at_3(predictions: Sequence[Prediction]) -> np.ndarray:
    """(rows,) 1 / place of the true option among the three likeliest, 0 when it is not there; of equally
    likely options the earlier one stands first, as in a ranking"""
    places = np.array([_place(row["probabilities"], row["label"]) for row in predictions])
    return np.where(places <= 3, 1 / places, 0.0)


def _place(probabilities: list[float], label: int) -> int:
    true = probabilities[label]
    return 1 + sum(p > true or (p == true and i < label) for i, p in enumerate(probabilities))


def _right(predictions: Sequence[Prediction]) -> np.ndarray:
    return _column(predictions, "label") == _column(predictions, "prediction")


def _same_when_swapped(predictions: Sequence[Prediction]) -> np.ndarray:
    return _column(predictions, "swapped").argmax(axis=1) == _column(predictions, "prediction")


def _column(predictions: Sequence[Prediction], key: str) -> np.ndarray:
    return np.array([row[key] for row in predictions])  # type: ignore[literal-required]
