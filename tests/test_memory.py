"""Does it fit? The costliest micro-batch is tried first and the budget halved, for every way to say no."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib.base.exits import CheckError
from lib.config import OptimConfig
from lib.training import memory
from lib.training.ddp import Ddp
from lib.training.engine import Fitted
from tests.tools import alone

CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
SHORTAGES = [RuntimeError(CPU), torch.cuda.OutOfMemoryError("CUDA out of memory."), MemoryError()]
WIDTH = 3


@dataclass(frozen=True)
class Batch:
    inputs: Tensor

    def to(self, device: torch.device) -> "Batch":
        return self


class Room(nn.Module):
    """Has room for so many rows; `pooler` is read by nobody."""

    def __init__(self, rows: int, shortage: Exception) -> None:
        super().__init__()
        self.rows, self.shortage, self.tried = rows, shortage, list[int]()
        self.head, self.pooler = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        self.tried.append(len(inputs))
        if len(inputs) > self.rows:
            raise self.shortage
        return self.head(inputs)


def costliest(budget: int) -> tuple[Batch, str]:
    """Rows of 10 tokens; one row at least, whatever the budget."""
    rows = max(1, budget // 10)
    return Batch(torch.ones(rows, WIDTH)), f"{rows} rows, the longest sequence 10 tokens"


def fit(model: Room, budget: int) -> Fitted:
    def loss(output: Tensor, batch: Any) -> Tensor:
        return output.sum()

    return Ddp(model, OptimConfig(), alone()).fit(costliest, loss, budget)


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("rows", "budget"), [(16, 160), (15, 80), (8, 80), (7, 40), (1, 10)])
def test_the_budget_is_halved_until_the_costliest_batch_fits(
    rows: int, budget: int, shortage: Exception
) -> None:
    model = Room(rows, shortage)
    assert fit(model, 160).token_budget == budget
    assert model.tried == [16 >> halvings for halvings in range((160 // budget).bit_length())]


def test_trying_leaves_no_gradient_and_freezes_what_none_reaches() -> None:
    model = Room(4, MemoryError())
    assert fit(model, 160).unused == ["pooler.weight", "pooler.bias"]
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "head.weight",
        "head.bias",
    ]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_when_even_one_row_does_not_fit_the_run_is_refused() -> None:
    model = Room(0, MemoryError())
    with pytest.raises(CheckError, match=r"even one row at a time .*\(1 rows, the longest sequence 10 tok"):
        fit(model, 40)
    assert model.tried == [4, 2, 1]


def test_a_budget_that_is_larger_than_all_rows_is_halved_until_the_batch_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = costliest
    monkeypatch.setitem(globals(), "costliest", lambda budget: honest(min(budget, 30)))  # three rows are all
    model = Room(2, MemoryError())
    assert fit(model, 160).token_budget == 20
    assert model.tried == [3, 2]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    model = Room(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        fit(model, 160)
    assert model.tried == [16]


def test_all_ranks_halve_when_one_of_them_must(monkeypatch: pytest.MonkeyPatch) -> None:
    short = iter([True, True, False])  # another rank says so at 16 and at 8 rows
    monkeypatch.setattr(memory.dist, "any_rank", lambda mine: mine or next(short))
    model = Room(16, MemoryError())
    assert fit(model, 160).token_budget == 40
    assert model.tried == [16, 8, 4]
