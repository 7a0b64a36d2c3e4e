"""Exact, distributed prediction: every row once, the same bits on any number of ranks.

What makes a batch depends on the rows alone; ranks take whole batches and exchange plain records.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from lib.base.console import Meter
from lib.base.exits import StoppedError
from lib.data.loader import MicroBatch, deal, evaluation_batches
from lib.data.rows import NO_LABEL, Rows
from lib.process import dist
from lib.process.world import World
from lib.recipe import Prediction
from lib.task import Task

SAY_EVERY_S = 30.0  # that a long evaluation goes on
Answer = Callable[[Rows, tuple[int, ...]], list[Prediction]]  # rows of one batch -> a record of each


class Predictor:
    """A model that answers rows. `token_budget` decides its batches, and so belongs to the numbers.
    `together`: ranks share its weights out and call each part of it at once (lib.training.engine)."""

    def __init__(
        self, task: Task, model: nn.Module, world: World, token_budget: int, together: bool = False
    ) -> None:
        self.task, self.model, self.world, self.token_budget = task, model, world, token_budget
        self.together = together

    def among(self, whole: bool) -> "Predictor":
        """The same, for ranks that each hold the whole model or that compute together."""
        return Predictor(self.task, self.model, self.world, self.token_budget, together=not whole)

    def stream(self, rows: Rows, batches: list[MicroBatch], answer: Answer) -> Iterator[list[Prediction]]:
        """The predictions of one batch of each rank at a time, on every rank. Every rank makes the same
        number of passes (one that is short of a batch computes the cheapest again). Raises StoppedError on
        all ranks when one of them was asked to stop."""
        self.model.eval()
        for piece in deal(batches, self.world.size)[self.world.rank]:
            stopped = False
            try:
                mine = answer(rows, piece.rows)
            except StoppedError:  # within a batch of texts; the others learn of it below
                mine, stopped = [], True
            asked_to_stop = stopped or self.world.stop.requested
            shares = dist.gather_json([asked_to_stop, mine if piece.weight else []])
            if any(stop for stop, _ in shares):
                raise StoppedError("asked to stop while rows were scored; the same command goes on")
            yield [row for _, share in shares for row in share]

    def predict(self, rows: Rows, texts: Sequence[int] | None = None) -> list[Prediction]:
        """One record a row, in the order of `rows`, on every rank. Where the task writes texts, those of the
        rows `texts` are written (None: of all; of none where ranks must compute together)."""
        by_id = {identity: Prediction(id=identity) for identity in rows.ids}
        if not self.task.writes or (rows.labels != NO_LABEL).any():
            batches = evaluation_batches(self.task.costs(rows), self.token_budget)
            self._collect(by_id, self.stream(rows, batches, self.answer), len(rows), "rows predicted")
        which = range(len(rows)) if texts is None else texts
        if self.task.writes and len(which) and not self.together:
            self._collect(by_id, self.texts(rows, which), len(which), "texts written")
        return list(by_id.values())

    def texts(self, rows: Rows, which: Sequence[int]) -> Iterator[list[Prediction]]:
        """The texts of these rows alone, some at a time."""
        batches = self.task.writing_batches(rows, which, self.token_budget)
        return self.stream(rows, batches, self.write)

    def _collect(
        self, by_id: dict[str, Prediction], stream: Iterator[list[Prediction]], num_rows: int, what: str
    ) -> None:
        seen: set[str] = set()
        with Meter(num_rows, what, every_s=SAY_EVERY_S, shown=self.world.is_main) as meter:
            for predictions in stream:
                for row in predictions:
                    by_id[row["id"]] = Prediction(**{**by_id[row["id"]], **row})
                seen |= {row["id"] for row in predictions}
                meter.step(len(seen))
        assert len(seen) == num_rows, "every row exactly once"

    def answer(self, rows: Rows, indices: tuple[int, ...]) -> list[Prediction]:
        """One record for each of the rows of one batch."""
        batch = self.task.collate(rows, indices, self.together).to(self.world.device)
        with torch.no_grad() if self.together else torch.inference_mode(), self.world.autocast():
            answers = self.task.predict(self.model, batch)
        return _named(rows, indices, answers)

    def write(self, rows: Rows, indices: tuple[int, ...]) -> list[Prediction]:
        """One record with the text of each of the rows of one batch, on this rank alone."""
        with torch.inference_mode(), self.world.autocast():
            texts = self.task.write(self.model, rows, indices, self.world.stop.raise_if_requested)
            return _named(rows, indices, texts)


def _named(rows: Rows, indices: tuple[int, ...], answers: list[Prediction]) -> list[Prediction]:
    return [Prediction(id=rows.ids[row], **answer) for row, answer in zip(indices, answers, strict=True)]  # type: ignore[typeddict-item]
