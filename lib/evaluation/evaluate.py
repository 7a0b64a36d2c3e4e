"""Exact, distributed evaluation: every row once, the same bits on any number of ranks.

What makes an evaluation batch depends on the rows alone; ranks take whole batches and exchange plain records.
"""

import torch
from torch import nn

from lib.data.loader import deal, evaluation_batches
from lib.data.rows import Rows
from lib.exits import StoppedError
from lib.recipe import Prediction
from lib.task import Task
from lib.tracking import Patience
from lib.training import dist, precision
from lib.training.dist import World
from lib.training.signals import StopFlag


def predict(
    model: nn.Module,
    task: Task,
    rows: Rows,
    token_budget: int,
    world: World,
    precision_name: str,
    stop: StopFlag | None = None,
) -> list[Prediction]:
    """One record a row, in the order of `rows`, on every rank. Raises StoppedError on all ranks when one of
    them was asked to stop."""
    model.eval()
    mine: list[Prediction] = []
    patience = Patience(world, len(rows))
    for piece in deal(evaluation_batches(rows, token_budget), world.size)[world.rank]:
        if dist.any_rank(stop is not None and stop.requested):
            raise StoppedError("stopped during evaluation")
        if not piece.weight:  # a filler: only the exchange above is needed
            continue
        mine += answer(model, task, rows, piece.rows, world, precision_name)
        patience.step(len(mine) * world.size)
    by_id = {row["id"]: row for share in dist.gather_json(mine) for row in share}
    assert len(by_id) == len(rows), "every row is predicted exactly once"
    return [by_id[identity] for identity in rows.ids]


def answer(
    model: nn.Module, task: Task, rows: Rows, indices: tuple[int, ...], world: World, precision_name: str
) -> list[Prediction]:
    """One record for each of the rows of one batch."""
    batch = task.collate(rows, indices).to(world.device)
    with torch.inference_mode(), precision.autocast(precision_name, world.device):
        found = task.predict(model, batch)
    return [Prediction(id=rows.ids[row], **said) for row, said in zip(indices, found, strict=True)]  # type: ignore[typeddict-item]
