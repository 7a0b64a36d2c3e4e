"""How often to save where machines are taken away: the interval that loses least time.

J. W. Young, A first order approximation to the optimum checkpoint interval, Communications of the ACM 17(9),
1974; J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future
Generation Computer Systems 22(3), 2006. Machines are taken as lost at random, so many seconds apart in the
mean.
"""

from math import sqrt


def best_s(stall_s: float, between_losses_s: float) -> float:
    """Seconds of training between two saves, each of which holds it up for `stall_s`. Young's sqrt(2 d M)
    with Daly's further terms (his equation 37), which count where a save takes long. The time that a restart
    takes is not in it: it is lost once a loss, however often one saves."""
    if stall_s >= 2 * between_losses_s:
        return between_losses_s
    part = sqrt(stall_s / (2 * between_losses_s))
    return sqrt(2 * stall_s * between_losses_s) * (1 + part / 3 + part**2 / 9) - stall_s


def lost_share(every_s: float, stall_s: float, after_loss_s: float, between_losses_s: float) -> float:
    """Share of the time that is lost, to first order: a stall each interval; each loss half an interval and
    what follows it (`after_loss_s`: the write that it cut off, and the restart)."""
    return stall_s / every_s + (every_s / 2 + after_loss_s) / between_losses_s
