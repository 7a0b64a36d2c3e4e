"""How far people who grade the same things agree, where not everybody graded all of them.

Krippendorff's alpha is 1 - observed / expected disagreement of the values that stand at the same unit
(Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, whose example tests/test_sheet.py computes):
1 is agreement, 0 what chance would give, below it they contradict each other. Grades have an order, so a pair
of them differs by the square of how many values lie from one to the other (his ordinal metric).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    num_units: int
    """Graded by two people or more."""
    same: float | None
    """Share of the pairs of grades of one unit that are equal. None: there is no pair."""
    alpha: float | None
    """None: there is no pair, or all grades are one value, of which nothing can be said."""

    @staticmethod
    def of(grades: np.ndarray) -> "Agreement":
        """(people, units), NaN where somebody gave none."""
        counts = _counts(grades)
        in_unit = counts.sum(axis=1)
        num_pairs = float((in_unit * (in_unit - 1)).sum())
        if not num_pairs:
            return Agreement(0, None, None)
        same = float((counts * (counts - 1)).sum()) / num_pairs
        return Agreement(len(counts), same, _alpha(counts))


def _counts(grades: np.ndarray) -> np.ndarray:
    """(units that two or more graded, values in their order): how many gave this value"""
    values = np.unique(grades[~np.isnan(grades)])
    counts = (grades[:, :, None] == values).sum(axis=0)
    return np.asarray(counts[counts.sum(axis=1) >= 2])


def _alpha(counts: np.ndarray) -> float | None:
    """His o, n and delta: coincidences of two values within a unit, their sums, how far two are apart."""
    weights = 1 / (counts.sum(axis=1) - 1)  # a unit counts as often as it has grades, not as it has pairs
    together = np.einsum("u,uc,uk->ck", weights, counts, counts) - np.diag(weights @ counts)
    sums = together.sum(axis=1)
    middles = sums.cumsum() - sums / 2  # between two: all values from one to the other, half of either
    apart = (middles[:, None] - middles) ** 2
    expected = float((np.outer(sums, sums) * apart).sum() / (sums.sum() - 1))
    return 1 - float((together * apart).sum()) / expected if expected else None
