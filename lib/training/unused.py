"""Parameters that no gradient reaches (a pooler that nobody reads): frozen before step 1, so that no
optimizer decays them and no exchange waits for them."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from lib.models import on_paper
from lib.training.engine import Loss


def freeze_unused(model: nn.Module, used: Iterable[nn.Parameter]) -> list[str]:
    """Freeze all but the `used` parameters; returns the names of those that were to train."""
    reached = {id(parameter) for parameter in used}
    names = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in reached:
            parameter.requires_grad_(False)
            names.append(name)
    return names


def reached_on_paper(model: nn.Module, batch: Any, loss: Loss) -> list[nn.Parameter]:
    """The parameters that a gradient reaches, found out on paper."""
    with on_paper.passed(model, batch.inputs) as (output, weights):
        loss(output, batch).backward()
    return [value for name, value in model.named_parameters() if weights[name].grad is not None]
