"""What a run may still cost in money and time: measured as it goes, so that it stops while a step, the
evaluation after it and the save still fit; and how often to save where machines are taken away."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from lib.base import moments
from lib.base.contents import Sitting, Status
from lib.base.moments import amount, span
from lib.config import LimitsConfig
from lib.process import began
from lib.process.world import World
from lib.runs import sittings
from lib.runs.folder import RunFolder
from lib.training import interval

MAX_COST, DEADLINE = "--max-cost", "--deadline"
SHARE, MARGIN_S = 0.1, 2.0  # what is left beside the slowest so far: so much of it, and so many seconds
# Hours between two losses, assumed: of a machine that is taken away, and of one that only crashes
TAKEN_H, CRASHED_H = 8.0, 168.0
SAY_AGAIN = 2.0  # an interval that is so many times the one that was said


@dataclass
class Times:
    """How long one kind of work took, in seconds."""

    count: int = 0
    total: float = 0.0
    slowest: float = 0.0

    def add(self, seconds: float) -> None:
        self.count, self.total = self.count + 1, self.total + seconds
        self.slowest = max(self.slowest, seconds)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


def measures() -> dict[str, Times]:
    """start: from the process to the first step. step: a whole one. update: its part after the ranks agreed.
    stall: how long a save holds training up. write: until it is on the disk."""
    return {name: Times() for name in ("start", "step", "update", "evaluation", "stall", "write")}


def hardware(world: World) -> str:
    """Times of one machine say nothing of another's."""
    return f"{world}, {world.precision}"


@dataclass
class Limits:
    """The same on every rank, but for what each has measured; what rank 0 has found counts."""

    config: LimitsConfig = field(default_factory=LimitsConfig)
    sittings: list[Sitting] = field(default_factory=list)
    """The last is of this process."""
    times: dict[str, Times] = field(default_factory=measures)
    scoring: float = 0.0
    """What the last scoring takes, in evaluations."""
    step: int = 0
    num_steps: int = 0
    eval_every: int = 1
    _steps_here: int = 0
    _mark_s: float = 0.0
    """When the step before was done."""
    _aside_s: float = 0.0
    """Evaluation and saving since then."""
    _evaluated_at: int = 0
    _said_s: float = 0.0

    @staticmethod
    def of(config: LimitsConfig, folder: RunFolder, world: World) -> "Limits":
        """Of a run whose sitting has begun."""
        record = folder.record()
        rows, times = record.get("rows", {}), _kept(record.get("measured", {}), world)
        scoring = 1 + rows.get("test", 0) / max(1, rows.get("validation", 0))
        return Limits(config, record.get("sittings", []), times, scoring)

    def begin(self, step: int, num_steps: int, eval_every: int) -> None:
        """Training goes on after `step`."""
        self.step, self.num_steps, self.eval_every = step, num_steps, eval_every
        self._evaluated_at = step
        if self.sittings:
            self.took("start", moments.now_s() - self.sittings[-1]["began"])
        self.times["step"], self._mark_s, self._aside_s = Times(), moments.now_s(), 0.0

    def took(self, what: str, seconds: float) -> None:
        """A piece of work is done."""
        self.times[what].add(seconds)
        if what in ("evaluation", "stall"):
            self._aside_s += seconds
        if what == "evaluation":
            self._evaluated_at = self.step

    def stepped(self, step: int) -> None:
        """A step is computed: measured from one to the next, so that nothing is left out. The first one also
        compiles and allocates: it counts until there is a second one."""
        now_s = moments.now_s()
        seconds, self._mark_s, self._aside_s = now_s - self._mark_s - self._aside_s, now_s, 0.0
        self.step, self._steps_here = step, self._steps_here + 1
        if self._steps_here == 2:
            self.times["step"] = Times()
        self.took("step", seconds)

    # money

    @property
    def priced(self) -> bool:
        return self.config.price is not None

    def spent(self) -> float:
        return sittings.cost(self.sittings, moments.now_s()) or 0.0

    def left_s(self) -> tuple[float, float]:
        """Seconds that all steps still to come take, and those of evaluations, the last scoring included."""
        steps_s = (self.num_steps - self.step) * self.times["step"].mean
        evaluation_s = self.times["evaluation"].mean
        each_s = evaluation_s + self.times["stall"].mean
        return steps_s, self._evaluations_left() * each_s + self.scoring * evaluation_s

    def _evaluations_left(self) -> int:
        """One at each multiple of eval_every, and at the last step."""
        multiples = self.num_steps // self.eval_every - self.step // self.eval_every
        at_the_end = self.step < self.num_steps and self.num_steps % self.eval_every > 0
        return multiples + at_the_end + self._still_due()

    def _still_due(self) -> bool:
        """Is the evaluation after this step still to come?"""
        is_due = self.step > 0 and (self.step % self.eval_every == 0 or self.step == self.num_steps)
        return is_due and self._evaluated_at != self.step

    def status(self) -> Status:
        """What status.json, metrics.jsonl and the console say of money; nothing without a price."""
        if not self.priced:
            return {}
        spent, (steps_s, rest_s) = self.spent(), self.left_s()
        of_hour = (self.config.price or 0.0) / 3600
        measured = self.times["evaluation"].count > 0
        return {
            "spent": spent,
            "expected": spent + (steps_s + rest_s) * of_hour if self._steps_here and measured else None,
            "at_least": spent + steps_s * of_hour if self._steps_here else None,
        }

    # a limit

    def caps(self) -> dict[str, float]:
        """Each limit as a moment, in seconds since 1970, the nearest first."""
        caps = {}
        if self.config.deadline is not None:
            caps[DEADLINE] = moments.moment_s(self.config.deadline)
        if self.config.max_cost is not None and self.config.price is not None:
            left_s = (self.config.max_cost - self.spent()) / self.config.price * 3600
            caps[MAX_COST] = moments.now_s() + left_s
        return dict(sorted(caps.items(), key=lambda cap: cap[1]))

    def reached(self) -> bool:
        """Would one more step go beyond a limit? Never after the last one."""
        at_s = min(self.caps().values(), default=inf)
        return self.step < self.num_steps and moments.now_s() + self.needed_s() > at_s

    def needed_s(self) -> float:
        """From where ranks agree until a stop after the next step is done: what is due before that step, the
        step from there to there and its update, the evaluation after it and the save, each as slow as the
        slowest so far, and a margin."""
        evaluation_s, stall_s = self.times["evaluation"].slowest, self.times["stall"].slowest
        before_s = evaluation_s + stall_s if self._still_due() else 0.0
        step_s = self.times["step"].slowest + self.times["update"].slowest
        needed_s = before_s + step_s + evaluation_s + self._save_s()
        return needed_s * (1 + SHARE) + MARGIN_S

    def _save_s(self) -> float:
        return self.times["stall"].slowest + self.times["write"].slowest

    def last_call(self) -> tuple[float, str]:
        """When only a save fits any more, and what to say then: for an evaluation that takes longer than any
        before it, or is the first, and for the last scoring."""
        for flag, at_s in self.caps().items():
            return at_s - self._save_s() * (1 + SHARE) - MARGIN_S, f"{self._said(flag)} is close"
        return inf, ""

    def _said(self, flag: str) -> str:
        return f"{flag} {self.config.deadline if flag == DEADLINE else f'{self.config.max_cost:g}'}"

    def why(self) -> str:
        """The nearest limit as the end of this sitting, in words."""
        flag = next(iter(self.caps()))
        spent = f" ({amount(self.spent())} are spent)" if flag == MAX_COST else ""
        return f"{self._said(flag)}{spent} has no room for more"

    def to_go_on(self) -> str:
        """What to type after that."""
        flag, left_s = next(iter(self.caps())), sum(self.left_s())
        if flag == DEADLINE:
            return (
                f"The same command with a later --deadline goes on; what is left takes about {span(left_s)}"
            )
        whole = self.spent() + (left_s + self.times["start"].mean) * (self.config.price or 0.0) / 3600
        return f"The same command with a larger --max-cost goes on; all of it costs about {amount(whole)}"

    # when to save

    def save_every_s(self, otherwise_s: float) -> float:
        """Seconds between two saves: `otherwise_s` without --notice; 0 before the first save has shown what
        one takes; never shorter than it takes to write one."""
        if self.config.notice is None:
            return otherwise_s
        stall = self.times["stall"]
        if not stall.count:
            return 0.0
        return max(interval.best_s(stall.mean, self._between_losses_s()), self.times["write"].slowest)

    def _notice_is_enough(self) -> bool:
        needed_s = self.times["step"].slowest + self._save_s()
        return self.config.notice is not None and self.config.notice >= needed_s * (1 + SHARE)

    def _between_losses_s(self) -> float:
        hours = self.config.failure_hours or (CRASHED_H if self._notice_is_enough() else TAKEN_H)
        return hours * 3600

    def interval_words(self) -> str | None:
        """The interval and why, when it is first known or has become quite another."""
        if self.config.notice is None or not self.times["write"].count:
            return None
        every_s, stall_s, between_s = (
            self.save_every_s(0.0),
            self.times["stall"].mean,
            self._between_losses_s(),
        )
        if self._said_s and 1 / SAY_AGAIN < every_s / self._said_s < SAY_AGAIN:
            return None
        self._said_s = every_s
        after_s = self.times["write"].mean + self.times["start"].mean
        lost = interval.lost_share(every_s, stall_s, after_s, between_s)
        enough = "enough" if self._notice_is_enough() else "too short"
        assumed = "" if self.config.failure_hours else " (assumed: --failure-hours)"
        money = f", {lost * self.config.price:.2g} an hour" if self.config.price else ""
        return (
            f"saving every {span(every_s)}: a save holds training up for {span(stall_s)}, "
            f"{self.config.notice:g} s of notice are {enough} for one, and the machine is lost unsaved every "
            f"{between_s / 3600:g} h{assumed}; that costs {lost:.2%} of the time{money}, the least there is"
        )

    # run.json

    def kept(self, world: World, others: Mapping[str, Any]) -> dict[str, Any]:
        """What this run has measured, beside what it did on `others`."""
        return {**others, hardware(world): {name: asdict(times) for name, times in self.times.items()}}


def _kept(measured: Mapping[str, Any], world: World) -> dict[str, Times]:
    here = measured.get(hardware(world), {})
    return measures() | {name: Times(**values) for name, values in here.items()}


def refuse_spent(config: LimitsConfig, folder: RunFolder | None, world: World) -> None:
    """Raises ValueError where a limit leaves no room for a step, as far as the run has measured what one
    takes on this hardware."""
    measured = folder.record().get("measured", {}) if folder else {}
    before = sittings.ended(folder) if folder else []
    sitting = Sitting(began=began.since_s(), ended=None, price=config.price)
    limits = Limits(config, [*before, sitting], _kept(measured, world))
    start_s = limits.times["start"].slowest - (moments.now_s() - sitting["began"])
    needed_s = limits.needed_s() + max(0.0, start_s) if limits.times["step"].count else 0.0
    for flag, at_s in limits.caps().items():
        if moments.now_s() + needed_s >= at_s:
            needs = f"; going on takes {span(needed_s)} at least" if needed_s else ""
            use = "a later --deadline (8h, say)" if flag == DEADLINE else "a larger --max-cost"
            raise ValueError(f"{limits.why()}{needs}; use {use}")
