"""Which rows make optimizer step n, how they are cut into micro-batches, and which rank computes which.

The first two are pure functions of (rows, seed, batch, token budget) and never see the number of ranks; ranks
only share out whole micro-batches. So a step can be computed on any number of devices, and a resumed run
starts at any step at once, without replaying anything.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from lib.data.rows import Rows

QUADRATIC = (
    1024  # tokens at which attention costs about as much as the linear layers; used to balance, not to limit
)


@dataclass(frozen=True)
class MicroBatch:
    """Rows that are computed together. Weight 0: a filler that keeps ranks in step and adds nothing."""

    number: int
    rows: tuple[int, ...]
    cost: float
    weight: float = 1.0


def cost_by_row(rows: Rows) -> np.ndarray:
    """(rows,) about the time each row takes: linear layers go with the length, attention with its square."""
    lengths = rows.sequence_lengths.astype(np.float64)
    return rows.sum_by_row(lengths + lengths**2 / QUADRATIC)


def cut(indices: np.ndarray, rows: Rows, token_budget: int, min_pieces: int) -> list[MicroBatch]:
    """Cut one batch into at least `min_pieces` micro-batches of about equal cost, none above the token budget
    (a single row that is longer still makes a micro-batch of its own). Rows of like length stay together."""
    tokens = rows.sum_by_row(rows.sequence_lengths)[indices]
    order = np.lexsort((indices, -tokens, -rows.longest_by_row()[indices]))
    indices, tokens = indices[order], tokens[order]
    cost = cost_by_row(rows)[indices]
    pieces = min(len(indices), max(min_pieces, math.ceil(tokens.sum() / token_budget)))
    while True:
        bounds = _equal_bounds(cost, pieces)
        sums = np.add.reduceat(tokens, bounds[:-1])
        if ((sums <= token_budget) | (np.diff(bounds) == 1)).all():
            break
        pieces += 1
    return [
        MicroBatch(number, tuple(int(i) for i in indices[begin:end]), float(cost[begin:end].sum()))
        for number, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
    ]


def _equal_bounds(cost: np.ndarray, pieces: int) -> np.ndarray:
    """(pieces + 1,) where to cut so that the pieces cost about the same and none is empty."""
    middles = np.cumsum(cost) - cost / 2
    bounds = np.searchsorted(middles, cost.sum() * np.arange(1, pieces) / pieces)
    bounds = np.concatenate([[0], bounds, [len(cost)]])
    for i in range(1, pieces):  # push apart cuts that fell on one place
        bounds[i] = max(bounds[i], bounds[i - 1] + 1)
    for i in range(pieces - 1, 0, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    return bounds


def deal(micro_batches: list[MicroBatch], num_ranks: int) -> list[list[MicroBatch]]:
    """Share out whole micro-batches, the costliest first to the rank with least work. Every rank gets the
    same number; one that is short repeats the cheapest with weight 0."""
    most = math.ceil(len(micro_batches) / num_ranks)
    shares: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    for micro_batch in sorted(micro_batches, key=lambda piece: (-piece.cost, piece.number)):
        open_shares = [share for share in shares if len(share) < most]
        min(open_shares, key=lambda share: sum(piece.cost for piece in share)).append(micro_batch)
    filler = replace(min(micro_batches, key=lambda piece: (piece.cost, piece.number)), weight=0.0)
    return [share + [filler] * (most - len(share)) for share in shares]


@dataclass(frozen=True)
class Step:
    """One optimizer step: all its micro-batches, whoever computes them."""

    number: int
    epoch: float
    """Epochs done when this step is done."""
    micro_batches: list[MicroBatch]
    num_rows: int
    num_targets: int
    """The divisor of the loss sum: targets in the whole batch, over all ranks."""

    def row_numbers(self) -> list[int]:
        return [row for piece in self.micro_batches for row in piece.rows]


class Loader:
    """Steps 1 .. num_steps over the training rows."""

    def __init__(
        self,
        rows: Rows,
        *,
        batch: int,
        epochs: float,
        max_steps: int | None,
        token_budget: int,
        min_micro_batches: int,
        seed: int,
    ) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self.token_budget, self.min_micro_batches = token_budget, min_micro_batches
        self.steps_per_epoch = math.ceil(len(rows) / batch)
        self.num_steps = math.ceil(round(self.steps_per_epoch * epochs, 6))  # 25 * 2.2 is 55.00000000000001
        if max_steps is not None:
            self.num_steps = min(self.num_steps, max_steps)
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)

    def step(self, number: int) -> Step:
        """The rows of step `number` (from 1), cut into micro-batches."""
        epoch, place = divmod(number - 1, self.steps_per_epoch)
        indices = self._order(epoch)[place]
        return Step(
            number=number,
            epoch=number / self.steps_per_epoch,
            micro_batches=cut(indices, self.rows, self.token_budget, self.min_micro_batches),
            num_rows=len(indices),
            num_targets=int(self.rows.num_targets[indices].sum()),
        )

    def _order_of_epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch: rows of like length together, batches in random order, the odd rows that
        do not fill a batch drawn at random and last. Every row once."""
        draw = np.random.default_rng([self.seed, epoch])
        rows = draw.permutation(len(self.rows))
        full = len(rows) - len(rows) % self.batch
        lengths = self.rows.longest_by_row()[rows[:full]]
        bucketed = rows[:full][np.argsort(-lengths, kind="stable")]
        batches = list(bucketed.reshape(-1, self.batch)) if full else []
        batches = [batches[i] for i in draw.permutation(len(batches))]
        return batches + ([rows[full:]] if full < len(rows) else [])


def evaluation_batches(rows: Rows, token_budget: int) -> list[MicroBatch]:
    """All rows, longest first, in micro-batches within the token budget: a pure function of the rows, so that
    scores are the same bits on any number of ranks. The costliest comes first, so a shortage of memory shows
    at once."""
    order = np.lexsort((np.arange(len(rows)), -rows.longest_by_row()))
    tokens, cost = rows.sum_by_row(rows.sequence_lengths), cost_by_row(rows)
    batches: list[MicroBatch] = []
    current: list[int] = []
    filled = 0
    for row in map(int, order):
        if current and filled + tokens[row] > token_budget:
            batches.append(MicroBatch(len(batches), tuple(current), float(cost[current].sum())))
            current, filled = [], 0
        current.append(row)
        filled += int(tokens[row])
    if current:
        batches.append(MicroBatch(len(batches), tuple(current), float(cost[current].sum())))
    return batches
