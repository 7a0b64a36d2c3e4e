"""What ranks tell each other after a step, in the one exchange that all of them make anyway. There, and
nowhere else in a step, a process waits for its device."""

import math
import time
from dataclasses import dataclass, field

from torch import Tensor

from lib.base.exits import RepeatsError
from lib.data.amounts import Amounts
from lib.data.loader import MicroBatch, Step
from lib.job import Job
from lib.process import dist
from lib.task import Batch
from lib.training.checkpoint import Writer


@dataclass
class Done:
    """What one rank did in one step; what its device may still be computing is a tensor."""

    losses: list[Tensor] = field(default_factory=list)
    """() of each micro-batch, the sum of its targets' losses; fillers too, so that all ranks have as many."""
    hits: list[Tensor] = field(default_factory=list)
    norm: Tensor | None = None
    """() of the whole gradient."""
    amounts: Amounts = Amounts()
    """Fillers left out, as in what follows."""
    computed: int = 0
    flops: float = 0.0
    """Of the model, for those amounts."""
    seconds: float = 0.0
    """Forward and backward passes, the exchange of gradients included."""

    def add(self, piece: MicroBatch, batch: Batch, loss_sum: Tensor, hits: Tensor) -> None:
        self.losses.append(loss_sum.detach())
        self.hits.append(hits)
        if piece.weight:
            self.amounts += batch.amounts
            self.computed += batch.computed_tokens


@dataclass
class Votes:
    """What all ranks agreed on. Sums are over the ranks, without fillers."""

    losses: list[float] = field(default_factory=list)
    """Of each micro-batch, by rank."""
    loss_sum: float = 0.0
    """Rounded once, and so the same in whatever order ranks have them."""
    hits: float = 0.0
    tokens: float = 0.0
    computed: float = 0.0
    flops: float = 0.0
    norm: float = math.nan
    """Of the whole gradient."""
    bad: list[tuple[int, int]] = field(default_factory=list)
    """(rank, its first micro-batch) whose loss is not finite."""
    stop: str | None = None
    save: bool = False
    limit: bool = False
    """Of money or time: does no other step fit?"""
    busy: float = 0.0
    """Seconds that this rank spent in passes and exchanges."""

    @property
    def finite(self) -> bool:
        return not self.bad and math.isfinite(self.norm)


Shares = list[list[MicroBatch]]  # by rank


def agree(job: Job, writer: Writer, step: Step, shares: Shares, done: Done) -> Votes:
    """The exchange: losses, who has a bad one, the gradient's norm, whether to stop, whether it is time to
    save, whether a limit has room for another step. Raises RepeatsError on all ranks when rank 0 could not
    save."""
    began_s = time.perf_counter()
    tracking, stop = job.config.tracking, job.world.stop
    job.limits.stepped(step.number)
    every_s = math.inf if tracking.save_every else job.limits.save_every_s(tracking.save_minutes * 60)
    asked_to = stop.requested and not stop.timed  # a limit's own moment: it has a vote of its own
    flags = asked_to, time.monotonic() - writer.last_s > every_s, writer.failed, job.limits.reached()
    assert done.norm is not None
    measured = [done.norm, *done.losses, *done.hits]
    counted = done.amounts.real_tokens, done.computed, done.flops
    told = dist.gather_floats([*map(float, flags), *map(float, counted)], measured)
    if any(failed for _, _, failed, *_ in told):
        writer.wait()  # raises on rank 0, with the reason
        raise RepeatsError("rank 0 could not save a checkpoint")
    asked = [rank for rank, numbers in enumerate(told) if numbers[0]]
    why = f"rank {asked[0]} was asked to stop ({stop.reason or 'by a signal'})" if asked else None
    at_step = f"--stop-at {step.number}" if step.number == tracking.stop_at else None
    votes = Votes(stop=at_step or why, save=bool(told[0][1]), limit=bool(told[0][3]))
    for rank, share in enumerate(shares):
        _add(votes, rank, share, told[rank][4:])
    votes.loss_sum = math.nan if votes.bad else math.fsum(votes.losses)
    votes.busy = done.seconds + time.perf_counter() - began_s
    return votes


def _add(votes: Votes, rank: int, share: list[MicroBatch], numbers: list[float]) -> None:
    """One rank's tokens, FLOPs, norm (the same on all), losses and hits."""
    tokens, computed, flops, votes.norm, *by_piece = numbers
    losses, hits = by_piece[: len(share)], by_piece[len(share) :]
    votes.tokens += tokens
    votes.computed += computed
    votes.flops += flops
    votes.losses += [loss for piece, loss in zip(share, losses, strict=True) if piece.weight]
    votes.hits += sum(hit for piece, hit in zip(share, hits, strict=True) if piece.weight)
    bad = [piece.number for piece, loss in zip(share, losses, strict=True) if not math.isfinite(loss)]
    votes.bad += [(rank, number) for number in bad[:1]]
