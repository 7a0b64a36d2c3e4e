"""One run at work: what all its pieces share."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Unpack

from lib.base.contents import Record, Status
from lib.base.exits import StoppedError
from lib.config import Config
from lib.process.world import World
from lib.recipe import Recipe
from lib.runs import sittings
from lib.runs.folder import RunFolder
from lib.runs.limits import Limits
from lib.tracking.tracker import Tracker


@dataclass(frozen=True)
class Job:
    """The same on every rank, but for the world's rank; only rank 0 writes into the folder."""

    config: Config
    recipe: Recipe
    folder: RunFolder
    world: World
    tracker: Tracker
    limits: Limits = field(default_factory=Limits)

    def write_status(self, **values: Unpack[Status]) -> None:
        """status.json, by rank 0; with what was spent, where that is known."""
        if self.world.is_main:
            self.folder.write_status(**values | self.limits.status())

    def write_record(self, **values: Unpack[Record]) -> None:
        """run.json, by rank 0."""
        if self.world.is_main:
            self.folder.write_record(**values)

    def begin(self, step: int, num_steps: int, eval_every: int) -> None:
        """Training goes on after `step`: from now on limits count."""
        self.limits.begin(step, num_steps, eval_every)
        self.world.stop.ask_at(*self.limits.last_call())

    def saved(self, stalled: float) -> None:
        """A save has held training up for so long; what was measured is kept for a sitting to come."""
        self.limits.took("stall", stalled)
        self._keep_measured()
        self.world.stop.ask_at(*self.limits.last_call())

    def note_writes(self, writes_s: list[float]) -> None:
        """How long checkpoints took to be written, taken out of the list; says how often to save when that is
        known."""
        while writes_s:
            self.limits.took("write", writes_s.pop())
        if words := self.limits.interval_words():
            self.tracker.say(words)

    def stopped(self, why: str | None, where: str) -> StoppedError:
        """How a run ends before its last step, saved; None: at a limit."""
        of_limit = why is None or self.world.stop.timed
        go_on = self.limits.to_go_on() if of_limit else "The same command goes on from there"
        return StoppedError(f"{self.limits.why() if of_limit else why}, at {where}; saved. {go_on}")

    def end_sitting(self) -> None:
        """In run.json. On a disk that is full the last sign of life stands for it."""
        if self.world.is_main and self.folder.path.exists():
            with suppress(OSError):
                self._keep_measured()
                self.write_record(**sittings.end(self.folder))

    def _keep_measured(self) -> None:
        if self.world.is_main:
            measured = self.folder.record().get("measured", {})
            self.folder.write_record(measured=self.limits.kept(self.world, measured))
