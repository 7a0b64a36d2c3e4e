"""How sure one can be of a score, and of the difference between two models.

Rows of one group (a prompt, a passage, a question) are right and wrong together, so groups are the sample,
not rows. Every score is a mean over rows (one of all rows together is made so by lib.answers.text_metrics);
its standard error is the jackknife's over groups (CR3: each group's residual divided by the share of rows the
others have; Bell & McCaffrey 2002, Survey Methodology 28), its degrees of freedom those of as many equal
groups as the sizes are worth (Kish 1965). From there on:

- a share (every row's value lies from 0 to 1): Wilson's interval (1927), for as many independent rows as
  have that standard error; a perfect score has a lower limit below 1;
- another score (a log loss is skewed: few rows cost most of it): Student's interval with the skewness taken
  out by Hall's transformation (1992, Journal of the Royal Statistical Society B 54);
- a score of all rows together: both of these. Few rows say too little of its skewness for Hall's alone, and
  Wilson's leans the right way: from a limit of the score (0, or 100 of BLEU) towards the middle;
- a difference of two models on the same rows: Student's interval, which is right where there is none, for
  then its sign is a coin's; where there is one it may be skewed, so Hall's is taken in as well.

tests/test_intervals.py draws samples and counts how often each holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib.base.contents import Value
from lib.recipe import Metric, Prediction

MIN_GROUPS = 10  # fewer say too little of how much groups differ for any verdict
PRACTICAL_ROWS = 1_000_000  # more rows than this nobody labels to settle a comparison


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; `str` of it is how both stand in a line of text."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Groups:
    """Which rows of a list belong together."""

    def __init__(self, names: Iterable[str]) -> None:
        """One name a row."""
        names = list(names)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.of_row = np.array([numbers[name] for name in names])  # (rows,)
        self.sizes = np.bincount(self.of_row)  # (groups,)

    @staticmethod
    def of(predictions: Sequence[Prediction]) -> "Groups":
        """A row that names no group (of a run before they did) is one by itself."""
        return Groups(row.get("group", f"row {row['id']}") for row in predictions)

    def __len__(self) -> int:
        return len(self.sizes)

    def of_rows(self, chosen: np.ndarray) -> "Groups":
        """Of the rows that (rows,) bool chooses."""
        return self if chosen.all() else Groups(str(group) for group in self.of_row[chosen])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(rows,) -> (groups,)"""
        return np.bincount(self.of_row, values, len(self))


@dataclass(frozen=True)
class _Mean:
    """A mean over rows, and what its groups say of its error."""

    value: float
    error: float
    """Its standard error."""
    skewness: float
    """Of the groups' residuals, over the square root of their number."""
    equal_groups: float
    """As many groups of one size would say as much."""

    @property
    def t(self) -> float:
        """The 97.5 % quantile of Student's distribution."""
        from scipy.special import stdtrit

        # one group among specks of others is worth less than two; at 1 degree of freedom it is 12.7 already
        return float(stdtrit(max(1.0, self.equal_groups - 1), 0.975)) if np.isfinite(self.error) else np.inf

    @staticmethod
    def of(values: np.ndarray, groups: Groups) -> "_Mean":
        """Of (rows,) values. The error is never below that of rows which have nothing in common."""
        num_rows, sizes = len(values), groups.sizes
        value = float(values.mean())
        equal_groups = num_rows**2 / float(sizes @ sizes)
        if len(groups) < 2:
            return _Mean(value, np.inf, 0.0, equal_groups)
        residuals = groups.sums(values) - value * sizes
        by_groups = float((residuals**2 / (1 - sizes / num_rows)).sum()) / num_rows**2
        by_rows = float(((values - value) ** 2).sum()) / (num_rows * (num_rows - 1))
        spread = float((residuals**2).sum()) / (len(groups) - 1)
        third = float((residuals**3).mean()) / spread**1.5 if spread > 0 else 0.0
        return _Mean(value, max(by_groups, by_rows) ** 0.5, third / len(groups) ** 0.5, equal_groups)

    def student(self) -> tuple[float, float]:
        return self.value - self.t * self.error, self.value + self.t * self.error

    def hall(self) -> tuple[float, float]:
        low, high = (self.value - self.error * self._unskewed(t) for t in (self.t, -self.t))
        return low, high

    def _unskewed(self, t: float) -> float:
        """Hall's cubic, the other way round: which studentized mean has `t` as its transformed value?"""
        if abs(self.skewness) < 1e-9:
            return t
        return float(np.cbrt(1 + self.skewness * (t - self.skewness / 6)) - 1) * 3 / self.skewness

    def wilson(self, most: float = 1.0) -> tuple[float, float]:
        """Of a value from 0 to `most`, which may be infinite."""
        # as many independent rows would have this error, for p (1 - p) / n is its square; where all rows are
        # right, or all are wrong, nothing says how alike those of a group are
        spread = self.value * (1 - self.value / most)
        k = self.t**2 * (self.error**2 / spread if spread > 0 else most / self.equal_groups)
        if not np.isfinite(k):
            return 0.0, most
        whole = 1 + k / most
        middle = (self.value + k / 2) / whole
        half = float(np.sqrt(spread * k + k * k / 4)) / whole
        return max(0.0, middle - half), min(most, middle + half)

    def both(self, most: float) -> tuple[float, float]:
        """What Hall's interval or Wilson's holds, of a value from 0 to `most`."""
        one, two = self.hall(), self.wilson(most)
        return max(0.0, min(one[0], two[0])), min(most, max(one[1], two[1]))


def interval(values: np.ndarray, groups: Groups, share: bool = False, most: float | None = None) -> Interval:
    """The mean of (rows,) values. `share`: they lie from 0 to 1; `most`: a score of all rows together lies
    from 0 to this."""
    mean = _Mean.of(values, groups)
    if share:
        return Interval(mean.value, *mean.wilson())
    return Interval(mean.value, *(mean.hall() if most is None else mean.both(most)))


def score(values: Mapping[str, np.ndarray], groups: Groups, metrics: Sequence[Metric]) -> dict[str, Interval]:
    """Every score that one model has; `values` holds (rows,) for each."""
    there = [metric for metric in metrics if metric.name in values]
    return {metric.name: _score(values[metric.name], groups, metric) for metric in there}


def _score(values: np.ndarray, groups: Groups, metric: Metric) -> Interval:
    counted = ~np.isnan(values)
    if metric.partial:
        return interval(values[counted], groups.of_rows(counted), metric.share)
    if metric.log:
        mean = float(values.mean())
        logs = interval(np.log(mean) + values / mean - 1, groups, most=metric.most)  # linear at the mean
        return Interval(mean, float(np.exp(logs.low)), float(np.exp(logs.high)))
    return interval(values, groups, metric.share, metric.most)


def difference(before: np.ndarray, after: np.ndarray, groups: Groups, partial: bool = False) -> Interval:
    """The mean of (rows,) `after` minus that of `before`, on the same rows in the same order. `partial`: rows
    that are NaN are not counted."""
    if partial:
        counted = [~np.isnan(values) for values in (before, after)]
        if (counted[0] == counted[1]).all():
            rows = counted[0]
            return difference(before[rows], after[rows], groups.of_rows(rows))
        before, after = over_all_rows(before), over_all_rows(after)
    mean = _Mean.of(after - before, groups)
    both = mean.student(), mean.hall()
    value = float(after.mean()) - float(before.mean())  # to the last digit that of the two scores
    return Interval(value, min(low for low, _ in both), max(high for _, high in both))


def over_all_rows(values: np.ndarray) -> np.ndarray:
    """(rows,) values with NaN for rows that are not counted -> (rows,) of the same mean, which vary as that
    mean does: its jackknife pseudo-values (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter
    11)."""
    counted = ~np.isnan(values)
    mean, others = values[counted].mean(), max(1, counted.sum() - 1)
    return mean + np.where(counted, values - mean, 0.0) * (len(values) - 1) / others


def of_all_seeds(values: Sequence[np.ndarray]) -> np.ndarray:
    """(rows,) of each seed -> (rows,) their mean. Where the seeds do not count the same rows, all are."""
    counted = ~np.isnan(values[0])
    if all((np.isnan(one) == ~counted).all() for one in values):
        return np.mean(values, axis=0)
    return np.mean([over_all_rows(one) for one in values], axis=0)


def of_seeds(before: Sequence[float], after: Sequence[float]) -> Interval:
    """The difference of the means of two groups of seeds, at least two in each, with Welch's interval (1947,
    Biometrika 34): Student's, for two spreads that need not be the same."""
    from scipy.special import stdtrit

    of_mean = [np.var(values, ddof=1) / len(values) for values in (before, after)]
    error2, value = float(sum(of_mean)), float(np.mean(after) - np.mean(before))
    if error2 == 0:
        return Interval(value, value, value)
    parts = zip(of_mean, (before, after), strict=True)
    freedom = error2**2 / sum(part**2 / (len(values) - 1) for part, values in parts)
    half = float(stdtrit(freedom, 0.975)) * error2**0.5
    return Interval(value, value - half, value + half)


def beyond(difference: Interval, better: str) -> bool:
    """Is a difference an improvement of which one can be sure? `better`: which way a score is better."""
    return difference.high < 0 if better == "lower" else difference.low > 0


def signed(difference: Interval) -> str:
    """A difference with its interval; what four digits would round to 0 keeps its size."""
    numbers = (difference.value, difference.low, difference.high)
    value, low, high = (f"{x + 0.0:+.4f}" if x == 0 or abs(x) >= 5e-5 else f"{x:+.1e}" for x in numbers)
    return f"{value} [{low}, {high}]"


def verdict(difference: Interval, groups: Groups, better: str) -> tuple[str, str]:
    """better, worse or cannot tell, and what is to be added to it; `better` is which way a score is better.
    An interval's half-width shrinks with 1 / sqrt(rows), hence how many rows would tell."""
    value, low, high = difference.value, difference.low, difference.high
    if len(groups) < MIN_GROUPS:
        return "cannot tell", f": fewer than {MIN_GROUPS} groups of rows say nothing certain"
    if not np.isfinite([value, low, high]).all():
        return "cannot tell", ": the score is not a finite number"
    if low > 0 or high < 0:
        word = "better" if beyond(difference, better) else "worse"
        return word, " (sure of these weights on rows like these, not of other seeds)"
    half = value - low if value > 0 else high - value  # the half that reaches over 0
    more = len(groups.of_row) * ((half / value) ** 2 - 1) if value else np.inf
    if more > PRACTICAL_ROWS:
        return "cannot tell", ", and no number of rows of practical size would tell"
    about = max(1.0, float(f"{more:.2g}"))
    return "cannot tell", f"; about {about:,.0f} more rows would tell, if the difference stays as it is"


def as_values(intervals: dict[str, Interval]) -> dict[str, Value]:
    """As scores.json keeps them (infinity is no JSON); `of_value` is the way back."""
    return {
        name: Value(
            value=i.value,
            low=i.low if np.isfinite(i.low) else None,
            high=i.high if np.isfinite(i.high) else None,
        )
        for name, i in intervals.items()
    }


def of_value(value: Value) -> Interval:
    low, high = value["low"], value["high"]
    return Interval(value["value"], -np.inf if low is None else low, np.inf if high is None else high)
