"""Which rows make optimizer step n, how they are cut into micro-batches, and which rank computes which.

The first two are pure functions of (rows, seed, batch, token budget) and never see the number of ranks; ranks
only share out whole micro-batches. So a step can be computed on any number of devices, and a resumed run
starts at any step at once, without replaying anything.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from lib.config import OptimConfig
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


class Costs:
    """What a SET of rows takes to compute together; here, as much as each of them by itself. A task whose
    rows share what they compute (a context, a packed sequence) has costs of its own."""

    def __init__(self, rows: Rows) -> None:
        lengths = rows.sequence_lengths.astype(np.float64)
        self.rows, self.longest_by_row = rows, rows.longest_by_row()
        self.tokens_by_row = rows.sum_by_row(rows.sequence_lengths)
        self.time_by_row = rows.sum_by_row(lengths + lengths**2 / QUADRATIC)
        """(rows,) about the time: linear layers go with the length, attention with its square."""

    def tokens(self, indices: np.ndarray) -> int:
        """Computed together; this is what a token budget limits."""
        return int(self.tokens_by_row[indices].sum())

    def time(self, indices: np.ndarray) -> float:
        """This is what ranks share out evenly."""
        return float(self.time_by_row[indices].sum())

    def in_order(self, indices: np.ndarray) -> np.ndarray:
        """The rows of a batch so that neighbours are cheap to compute together; the same for any order that
        they come in."""
        keys = (indices, -self.tokens_by_row[indices], -self.longest_by_row[indices])
        return indices[np.lexsort(keys)]

    def evaluation_order(self) -> np.ndarray:
        """All rows, the costliest first."""
        return np.lexsort((np.arange(len(self.rows)), -self.longest_by_row))

    def bounds(self, ordered: np.ndarray, pieces: int) -> np.ndarray:
        """(pieces + 1,) where to cut rows in order so that the pieces take about the same time."""
        return equal_bounds(self.time_by_row[ordered], pieces)

    def drawn_together(self) -> list[np.ndarray] | None:
        """Rows that an epoch's order keeps side by side, all rows once. None: each row is drawn by itself."""
        return None


def cut(indices: np.ndarray, costs: Costs, token_budget: int, min_pieces: int) -> list[MicroBatch]:
    """Cut one batch into at least `min_pieces` micro-batches of about equal time, none above the token budget
    (a single row that is longer still makes a micro-batch of its own). Rows of like length stay together."""
    indices = costs.in_order(indices)
    pieces = min(len(indices), max(min_pieces, math.ceil(costs.tokens(indices) / token_budget)))
    while True:
        parts = np.split(indices, costs.bounds(indices, pieces)[1:-1])
        if all(len(part) == 1 or costs.tokens(part) <= token_budget for part in parts):
            break
        pieces += 1
    return [_micro_batch(number, part, costs) for number, part in enumerate(parts)]


def _micro_batch(number: int, indices: np.ndarray, costs: Costs) -> MicroBatch:
    return MicroBatch(number, tuple(map(int, indices)), costs.time(indices))


def equal_bounds(cost: np.ndarray, pieces: int) -> np.ndarray:
    """(pieces + 1,) where to cut so that the pieces cost about the same and none is empty."""
    middles = np.cumsum(cost) - cost / 2
    bounds = np.searchsorted(middles, cost.sum() * np.arange(1, pieces) / pieces)
    bounds = np.concatenate([[0], bounds, [len(cost)]])
    for i in range(1, pieces):  # push apart cuts that fell on one place
        bounds[i] = max(bounds[i], bounds[i - 1] + 1)
    for i in range(pieces - 1, 0, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    return bounds


def blocks(num_pieces: int, num_ranks: int) -> list[range]:
    """Neighbouring numbers for each rank; the last ranks may have fewer, or none."""
    most = math.ceil(num_pieces / num_ranks)
    bounds = [min(rank * most, num_pieces) for rank in range(num_ranks + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


def deal(micro_batches: list[MicroBatch], num_ranks: int, in_order: bool = False) -> list[list[MicroBatch]]:
    """Share out whole micro-batches, the costliest first to the rank with least work, or `in_order`. Every
    rank gets the same number; one that is short repeats the cheapest with weight 0."""
    most = math.ceil(len(micro_batches) / num_ranks)
    shares: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    if in_order:
        shares = [micro_batches[part.start : part.stop] for part in blocks(len(micro_batches), num_ranks)]
    else:
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

    def __init__(self, costs: Costs, optim: OptimConfig) -> None:
        self.rows, self.costs, self.optim = costs.rows, costs, optim
        self.steps_per_epoch = math.ceil(len(self.rows) / optim.batch)
        # 25 * 2.2 is 55.00000000000001
        self.num_steps = math.ceil(round(self.steps_per_epoch * optim.epochs, 6))
        if optim.max_steps is not None:
            self.num_steps = min(self.num_steps, optim.max_steps)
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)
        # asked for where it is computed and, a little earlier, where its batches are made
        self.step = lru_cache(maxsize=4)(self._step)

    def _step(self, number: int) -> Step:
        """The rows of step `number` (from 1), cut into micro-batches."""
        epoch, place = divmod(number - 1, self.steps_per_epoch)
        indices = self._order(epoch)[place]
        return Step(
            number=number,
            epoch=number / self.steps_per_epoch,
            micro_batches=cut(indices, self.costs, self.optim.token_budget, self.optim.min_micro_batches),
            num_rows=len(indices),
            num_targets=int(self.rows.num_targets[indices].sum()),
        )

    def _order_of_epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch: rows of like length together, batches in random order, the odd rows that
        do not fill a batch drawn at random and last. Every row once."""
        draw = np.random.default_rng([self.optim.seed, epoch])
        batch = self.optim.batch
        together = self.costs.drawn_together()
        if together is not None:
            rows = np.concatenate([together[place] for place in draw.permutation(len(together))])
            batches = [rows[begin : begin + batch] for begin in range(0, len(rows), batch)]
            return [batches[place] for place in draw.permutation(len(batches))]
        rows = draw.permutation(len(self.rows))
        full = len(rows) - len(rows) % batch
        lengths = self.costs.longest_by_row[rows[:full]]
        bucketed = rows[:full][np.argsort(-lengths, kind="stable")]
        batches = list(bucketed.reshape(-1, batch)) if full else []
        batches = [batches[i] for i in draw.permutation(len(batches))]
        return batches + ([rows[full:]] if full < len(rows) else [])


def evaluation_batches(costs: Costs, token_budget: int) -> list[MicroBatch]:
    """All rows, longest first, in micro-batches within the token budget: a pure function of the rows, so that
    scores are the same bits on any number of ranks. The costliest comes first, so a shortage of memory shows
    at once."""
    order = costs.evaluation_order()
    batches: list[MicroBatch] = []
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or costs.tokens(order[begin : end + 1]) > token_budget:
            batches.append(_micro_batch(len(batches), order[begin:end], costs))
            begin = end
    return batches
