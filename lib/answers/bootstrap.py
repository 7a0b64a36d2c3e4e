"""How sure one can be of a score, whatever it is a score of.

Intervals are 95 % percentile bootstrap intervals over rows (Efron & Tibshirani 1993, chapter 13); differences
between two models are bootstrapped on the same resampled rows, so what makes a row hard cancels out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lib.base.contents import Value
from lib.recipe import Prediction, Scores

MIN_ROWS = 30  # a percentile bootstrap of fewer rows finds differences that are not there
PRACTICAL_ROWS = 1_000_000  # more rows than this nobody labels to settle a comparison
RESAMPLES = 1000  # intervals then move by about 2 % of their width from seed to seed
Score = Callable[[Sequence[Prediction]], Scores]
ByRow = Callable[[Sequence[Prediction]], np.ndarray]


def by_row(predictions: Sequence[Prediction], values: ByRow) -> np.ndarray:
    """(rows,) what `values` says of each row by itself; a Table works it out once and then picks"""
    return predictions.by_row(values) if isinstance(predictions, Table) else values(predictions)


class Table(list[Prediction]):
    """A plain list to any score, which must not change it. Scores that go through `by_row` keep here what
    they find for a row, so that resamples pick numbers instead of reading the rows a thousand times (some 20
    times faster)."""

    def __init__(self, rows: Iterable[Prediction]) -> None:
        super().__init__(rows)
        self._values: dict[ByRow, np.ndarray] = {}
        self._taken_from: tuple[Table, np.ndarray] | None = None

    def by_row(self, values: ByRow) -> np.ndarray:
        if self._taken_from is not None:
            table, indices = self._taken_from
            return table.by_row(values)[indices]
        if values not in self._values:
            self._values[values] = values(self)
        return self._values[values]

    def take(self, indices: np.ndarray) -> "Table":
        """The rows at `indices`, in their order."""
        taken = Table(map(self.__getitem__, indices.tolist()))
        taken._taken_from = (self, indices)
        return taken


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; `str` of it is how both stand in a line of text."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def _resamples(num_rows: int) -> Iterator[np.ndarray]:
    """RESAMPLES times (rows,): the same draws for every caller with this many rows"""
    generator = np.random.default_rng(0)
    return (generator.integers(0, num_rows, num_rows) for _ in range(RESAMPLES))


def intervals(predictions: Sequence[Prediction], score: Score) -> dict[str, Interval]:
    """Every score with its interval."""
    table = Table(predictions)
    values = score(table)
    drawn = [score(table.take(draw)) for draw in _resamples(len(table))]
    return {name: _interval(value, [scores[name] for scores in drawn]) for name, value in values.items()}


def paired_differences(
    first: Sequence[Prediction], second: Sequence[Prediction], score: Score
) -> dict[str, Interval]:
    """Scores of `second` minus those of `first`, on the same rows in the same order."""
    assert [row["id"] for row in first] == [row["id"] for row in second], "paired rows must be the same rows"
    one, other = Table(first), Table(second)
    before, after = score(one), score(other)
    drawn = [(score(one.take(draw)), score(other.take(draw))) for draw in _resamples(len(one))]
    return {
        name: _interval(after[name] - before[name], [new[name] - old[name] for old, new in drawn])
        for name in before
    }


def _interval(value: float, drawn: list[float]) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def signed(difference: Interval) -> str:
    """A difference with its interval; what four digits would round to 0 keeps its size."""
    numbers = (difference.value, difference.low, difference.high)
    value, low, high = (f"{x + 0.0:+.4f}" if x == 0 or abs(x) >= 5e-5 else f"{x:+.1e}" for x in numbers)
    return f"{value} [{low}, {high}]"


def verdict(difference: Interval, num_rows: int, better: str) -> tuple[str, str]:
    """better, worse or cannot tell, and what is to be added to it; `better` is which way a score is better.
    An interval's half-width shrinks with 1 / sqrt(rows), hence how many rows would tell."""
    value, low, high = difference.value, difference.low, difference.high
    if not np.isfinite([value, low, high]).all():
        return "cannot tell", ": the score is not a finite number"
    if num_rows < MIN_ROWS:
        return "cannot tell", f": on fewer than {MIN_ROWS} rows an interval is not to be trusted"
    if low > 0 or high < 0:
        word = "better" if (value < 0) == (better == "lower") else "worse"
        return word, " (sure of these weights on rows like these, not of other seeds)"
    half = value - low if value > 0 else high - value  # the half that reaches over 0
    more = num_rows * ((half / value) ** 2 - 1) if value else np.inf
    if more > PRACTICAL_ROWS:
        return "cannot tell", ", and no number of rows of practical size would tell"
    about = max(1.0, float(f"{more:.2g}"))
    return "cannot tell", f"; about {about:,.0f} more rows would tell, if the difference stays as it is"


def as_values(intervals: dict[str, Interval]) -> dict[str, Value]:
    """As scores.json keeps them; `Interval(**value)` is the way back."""
    return {name: Value(value=i.value, low=i.low, high=i.high) for name, i in intervals.items()}
