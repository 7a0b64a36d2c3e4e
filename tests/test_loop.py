"""What ranks tell each other after a step, and what follows from it."""

import math
import time
from collections.abc import Callable
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import pytest

from lib.base.exits import RepeatsError
from lib.process import dist
from lib.training.loop import Done, Votes, agree

Vote = Callable[..., Votes]
OTHER = Done(2.5, hits=1, bad_micro_batch=4, tokens=30, computed=40)  # what a second rank says


def parts_of(reason: str | None = None, last_s: float = math.inf, save_every: int | None = None) -> Any:
    """What `agree` reads of the loop's parts."""
    tracking = SimpleNamespace(save_every=save_every, save_minutes=10, stop_at=7)
    stop = SimpleNamespace(requested=reason is not None, reason=reason)
    return SimpleNamespace(
        job=SimpleNamespace(config=SimpleNamespace(tracking=tracking), world=SimpleNamespace(stop=stop)),
        writer=SimpleNamespace(last_s=last_s, failed=False, wait=lambda: None),
    )


@pytest.fixture
def vote(monkeypatch: pytest.MonkeyPatch) -> Vote:
    def of_two(other: Done = OTHER, step: int = 6, **own: Any) -> Votes:
        numbers = [float(value) for value in astuple(other)]
        monkeypatch.setattr(dist, "gather_floats", lambda mine: [mine, numbers])
        return agree(parts_of(**own), step, Done(1.25, hits=3, tokens=10, computed=20))

    return of_two


def test_sums_are_over_ranks_and_a_bad_loss_names_its_rank(vote: Vote) -> None:
    votes = vote()
    assert (votes.total.loss_sum, votes.total.hits) == (3.75, 4)
    assert (votes.total.tokens, votes.total.computed) == (40, 60)
    assert votes.bad == [(1, 4)] and votes.stop is None and not votes.save


def test_any_rank_may_stop_all_and_rank_0_knows_when_to_save(vote: Vote) -> None:
    assert vote(reason="SIGTERM").stop == "rank 0 was asked to stop (SIGTERM)"
    assert vote(Done(asked_to_stop=True)).stop == "rank 1 was asked to stop (by a signal)"
    assert not vote(Done(time_to_save=True)).save
    assert vote(last_s=time.monotonic() - 601).save
    assert not vote(last_s=time.monotonic() - 601, save_every=5).save  # steps count there, not minutes


def test_a_rank_that_could_not_save_ends_all(vote: Vote) -> None:
    with pytest.raises(RepeatsError, match="could not save"):
        vote(Done(could_not_save=True))


def test_stop_at_stops_after_its_step_whoever_else_was_asked(vote: Vote) -> None:
    asked = [str(vote(reason="SIGINT", step=step).stop) for step in (6, 7, 8)]
    assert [reason.split()[0] for reason in asked] == ["rank", "--stop-at", "rank"]
