"""Exact, distributed prediction: every row once, the same bits on any number of ranks.

What makes a batch depends on the rows alone; ranks take whole batches and exchange plain records.
"""

from collections.abc import Iterator

import torch
from torch import nn

from lib.base.console import Meter
from lib.base.exits import StoppedError
from lib.data.loader import deal, evaluation_batches
from lib.data.rows import Rows
from lib.process import dist
from lib.process.world import World
from lib.recipe import Prediction
from lib.task import Task

SAY_EVERY_S = 30.0  # that a long evaluation goes on


class Predictor:
    """A model that answers rows. `token_budget` decides its batches, and so belongs to the numbers."""

    def __init__(self, task: Task, model: nn.Module, world: World, token_budget: int) -> None:
        self.task, self.model, self.world, self.token_budget = task, model, world, token_budget

    def stream(self, rows: Rows) -> Iterator[list[Prediction]]:
        """The predictions of one batch of each rank at a time, on every rank. Every rank makes the same
        number of forward passes (one that is short of a batch computes the cheapest again). Raises
        StoppedError on all ranks when one of them was asked to stop."""
        self.model.eval()
        batches = evaluation_batches(self.task.costs(rows), self.token_budget)
        for piece in deal(batches, self.world.size)[self.world.rank]:
            mine = self.answer(rows, piece.rows)
            asked_to_stop = self.world.stop.requested
            shares = dist.gather_json([asked_to_stop, mine if piece.weight else []])
            if any(stop for stop, _ in shares):
                raise StoppedError("stopped during evaluation")
            yield [row for _, share in shares for row in share]

    def predict(self, rows: Rows) -> list[Prediction]:
        """One record a row, in the order of `rows`, on every rank."""
        by_id: dict[str, Prediction] = {}
        with Meter(len(rows), "rows predicted", every_s=SAY_EVERY_S, shown=self.world.is_main) as meter:
            for predictions in self.stream(rows):
                by_id |= {row["id"]: row for row in predictions}
                meter.step(len(by_id))
        assert len(by_id) == len(rows), "every row is predicted exactly once"
        return [by_id[identity] for identity in rows.ids]

    def answer(self, rows: Rows, indices: tuple[int, ...]) -> list[Prediction]:
        """One record for each of the rows of one batch, on this rank alone."""
        batch = self.task.collate(rows, indices).to(self.world.device)
        with torch.inference_mode(), self.world.autocast():
            answers = self.task.predict(self.model, batch)
        return [Prediction(id=rows.ids[row], **answer) for row, answer in zip(indices, answers, strict=True)]  # type: ignore[typeddict-item]
