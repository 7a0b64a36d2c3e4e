"""All ranks of a group exchange numbers, so that a broken network is told apart from broken code."""

from lib.base import ranks
from lib.base.exits import REFUSED, end_now
from lib.base.ranks import Ranks
from lib.doctor import group
from lib.doctor.finding import FAIL, Finding
from lib.doctor.order import SIZES, Order, measured
from lib.doctor.report import say


def network(limit_s: float, as_json: bool) -> list[Finding]:
    """With the ranks that torchrun has started, else with two of this machine."""
    mine = ranks.of_environment()
    if mine is not None:
        return _as_rank(mine, Order(limit_s, SIZES), as_json)
    finding = group.here(Order(limit_s, SIZES))
    return [finding, *measured(finding)]


def _as_rank(mine: Ranks, order: Order, as_json: bool) -> list[Finding]:
    """Of this rank. Nothing but rank 0's is said when all is well; what fails, each rank says for itself: it
    may be the only one of its machine."""
    from lib.doctor.exchange import Exchange
    from lib.process import dist

    def end(finding: Finding) -> None:
        say([finding], as_json)
        end_now(REFUSED)  # the others may never answer

    finding = Exchange(mine, order).run(end)
    if finding.status == FAIL:
        end(finding)
    return [finding, *measured(finding)] if dist.env_is_main() else []
