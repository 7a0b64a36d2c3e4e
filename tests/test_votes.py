"""What ranks tell each other after a step, and what follows from it."""

import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib.base.exits import RepeatsError
from lib.data.amounts import Amounts
from lib.data.loader import MicroBatch, Step, deal
from lib.process import dist
from lib.runs.limits import Limits
from lib.training.votes import Done, Votes, agree

Vote = Callable[..., Votes]
# Two micro-batches on two ranks: the one of cost 2 goes to rank 0, and neither rank has a filler
PIECES = [MicroBatch(0, (0, 1), 2.0), MicroBatch(4, (2,), 1.0)]
BATCH: Any = SimpleNamespace(amounts=Amounts(tokens=10), computed_tokens=20)


def other(
    loss: float = 2.5,
    hits: float = 1,
    norm: float = 0.5,
    stop: bool = False,
    save: bool = False,
    failed: bool = False,
    limit: bool = False,
) -> list[float]:
    """What a second rank says."""
    return [float(stop), float(save), float(failed), float(limit), 30.0, 40.0, 7e12, norm, loss, hits]


def vote_of(
    monkeypatch: pytest.MonkeyPatch, second: list[float], number: int, pieces: list[MicroBatch], **own: Any
) -> Votes:
    def gather(values: list[float], measured: list[torch.Tensor]) -> list[list[float]]:
        return [[*values, *(float(one) for one in measured)], second]

    monkeypatch.setattr(dist, "gather_floats", gather)
    done = Done(flops=5e12, norm=torch.tensor(0.5))
    done.add(pieces[0], BATCH, torch.tensor(1.25), torch.tensor(3))
    step = Step(number, 1.0, pieces, 3, 3)
    reason, last_s, save_every = own.get("reason"), own.get("last_s", math.inf), own.get("save_every")
    tracking = SimpleNamespace(save_every=save_every, save_minutes=10, stop_at=7)
    stop = SimpleNamespace(requested=reason is not None, reason=reason, timed=own.get("timed", False))
    limits = Limits()
    monkeypatch.setattr(limits, "reached", lambda: own.get("limit", False))
    job: Any = SimpleNamespace(
        config=SimpleNamespace(tracking=tracking), world=SimpleNamespace(stop=stop, size=2), limits=limits
    )
    writer: Any = SimpleNamespace(last_s=last_s, failed=False, wait=lambda: None)
    return agree(job, writer, step, deal(pieces, 2), done)


@pytest.fixture
def vote(monkeypatch: pytest.MonkeyPatch) -> Vote:
    def of_two(
        second: list[float] | None = None, step: int = 6, pieces: list[MicroBatch] = PIECES, **own: Any
    ) -> Votes:
        return vote_of(monkeypatch, second or other(), step, pieces, **own)

    return of_two


def test_sums_are_over_ranks(vote: Vote) -> None:
    votes = vote()
    assert (votes.loss_sum, votes.hits, votes.norm) == (3.75, 4, 0.5)
    assert (votes.tokens, votes.computed, votes.flops) == (40, 60, 12e12)
    assert votes.finite and votes.bad == [] and votes.stop is None and not votes.save


def test_a_filler_adds_nothing(vote: Vote) -> None:
    """One micro-batch: rank 1 computes it too, with weight 0."""
    votes = vote(pieces=PIECES[:1])
    assert (votes.loss_sum, votes.hits) == (1.25, 3)


def test_what_a_filler_takes_counts_nowhere() -> None:
    done = Done()
    for weight in (1.0, 0.0):
        done.add(MicroBatch(0, (0,), 1.0, weight), BATCH, torch.tensor(1.0), torch.tensor(1))
    assert (done.amounts, done.computed, len(done.losses)) == (Amounts(tokens=10), 20, 2)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_bad_loss_names_its_rank_and_micro_batch(vote: Vote, loss: float) -> None:
    votes = vote(other(loss=loss, norm=math.nan))
    assert votes.bad == [(1, 4)] and not votes.finite


def test_a_bad_gradient_under_good_losses_is_seen(vote: Vote) -> None:
    votes = vote(other(norm=math.inf))
    assert votes.bad == [] and not votes.finite


def test_any_rank_may_stop_all_and_rank_0_knows_when_to_save(vote: Vote) -> None:
    assert vote(reason="SIGTERM").stop == "rank 0 was asked to stop (SIGTERM)"
    assert vote(other(stop=True)).stop == "rank 1 was asked to stop (by a signal)"
    assert not vote(other(save=True)).save
    assert vote(last_s=time.monotonic() - 601).save
    assert not vote(last_s=time.monotonic() - 601, save_every=5).save  # steps count there, not minutes


def test_only_rank_0_knows_what_a_limit_has_room_for(vote: Vote) -> None:
    assert not vote(other(limit=True)).limit
    votes = vote(limit=True, timed=True, reason="--deadline is close")
    assert votes.limit and votes.stop is None, "a limit's own moment is no signal"


def test_a_rank_that_could_not_save_ends_all(vote: Vote) -> None:
    with pytest.raises(RepeatsError, match="could not save"):
        vote(other(failed=True))


def test_stop_at_stops_after_its_step_whoever_else_was_asked(vote: Vote) -> None:
    asked = [str(vote(reason="SIGINT", step=step).stop) for step in (6, 7, 8)]
    assert [reason.split()[0] for reason in asked] == ["rank", "--stop-at", "rank"]
