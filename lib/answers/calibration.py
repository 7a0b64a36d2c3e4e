"""Is a model that is 80 % sure right 8 times in 10? Confidences and what was right, in bins of equal width,
as Guo et al. 2017 ("On Calibration of Modern Neural Networks", ICML) draw them and sum them up."""

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from lib.reports.page import ALARM, FAINT, TEXT, dress, inline_svg

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

NUM_BINS = 10
MIN_ROWS = 30  # of fewer a bin has so few that its share of right answers says nothing


class Bin(TypedDict):
    """Rows whose answers are about as sure."""

    up_to: float  # the highest confidence that falls into it
    num_rows: int
    confidence: float  # the mean
    right: float  # the share


class Calibration(TypedDict):
    num_rows: int  # whose confidence is a finite number
    error: float | None  # the expected calibration error; None without rows
    bins: list[Bin]  # from unsure to sure; none for a bin without rows


def summarize(confidences: np.ndarray, right: np.ndarray) -> Calibration:
    """Of (rows,) probabilities of the answers and whether they are right. Bin m of M holds the confidences in
    ((m - 1) / M, m / M]; the expected calibration error is Guo's equation 3, the mean over rows of their
    bin's |share right - mean confidence|."""
    known = np.isfinite(confidences)
    confidences, right = confidences[known], right[known]
    edges = np.arange(1, NUM_BINS + 1) / NUM_BINS
    bin_of = np.digitize(confidences, edges[:-1], right=True)  # what rounding puts above 1 is in the last one
    bins = []
    for number, edge in enumerate(edges):
        inside = bin_of == number
        if inside.any():
            confidence, share = (float(values[inside].mean()) for values in (confidences, right))
            num_rows = int(inside.sum())
            bins.append(Bin(up_to=float(edge), num_rows=num_rows, confidence=confidence, right=share))
    gaps = [one["num_rows"] * abs(one["right"] - one["confidence"]) for one in bins]
    return Calibration(num_rows=len(right), error=sum(gaps) / len(right) if bins else None, bins=bins)


def picture(found: Calibration, split: str) -> Any:
    """A reliability diagram as inline SVG, and above it how many rows each of its bars stands for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, 4.6), layout="constrained", facecolor="none")
    rows, shares = figure.subplots(2, sharex=True, height_ratios=[1, 3])
    _plot_rows(rows, found["bins"])
    _plot_shares(shares, found["bins"])
    return inline_svg(figure, f"calibration of {split}", f"calibration {split}")


def _middles(bins: list[Bin]) -> list[float]:
    return [one["up_to"] - 0.5 / NUM_BINS for one in bins]


def _plot_rows(axes: "Axes", bins: list[Bin]) -> None:
    bars = axes.bar(_middles(bins), [one["num_rows"] for one in bins], 0.9 / NUM_BINS, color=FAINT)
    axes.bar_label(bars, [f"{one['num_rows']:,}" for one in bins], fontsize=8, color=TEXT)
    axes.margins(y=0.25)  # room for the numbers
    dress(axes, "rows")
    axes.set_yticks([])


def _plot_shares(axes: "Axes", bins: list[Bin]) -> None:
    middles = _middles(bins)
    axes.bar(middles, [one["right"] for one in bins], 0.9 / NUM_BINS, color=FAINT)
    axes.plot([0, 1], [0, 1], "--", color=TEXT, linewidth=0.9)
    for middle, one in zip(middles, bins, strict=True):
        axes.plot([middle] * 2, [one["right"], one["confidence"]], color=ALARM, linewidth=2)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    dress(axes, "share right")
    axes.set_xlabel("confidence of the answer", color=TEXT, fontsize=10)
