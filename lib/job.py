"""One run at work: what all its pieces share."""

from dataclasses import dataclass
from typing import Unpack

from lib.base.contents import Record, Status
from lib.config import Config
from lib.process.world import World
from lib.recipe import Recipe
from lib.runs.folder import RunFolder
from lib.tracking.tracker import Tracker


@dataclass(frozen=True)
class Job:
    """The same on every rank, but for the world's rank; only rank 0 writes into the folder."""

    config: Config
    recipe: Recipe
    folder: RunFolder
    world: World
    tracker: Tracker

    def write_status(self, **values: Unpack[Status]) -> None:
        """status.json, by rank 0."""
        if self.world.is_main:
            self.folder.write_status(**values)

    def write_record(self, **values: Unpack[Record]) -> None:
        """run.json, by rank 0."""
        if self.world.is_main:
            self.folder.write_record(**values)
