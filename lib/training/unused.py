"""Parameters that no gradient reaches (a pooler that nobody reads): frozen before step 1, so that no
optimizer decays them and no exchange waits for them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
    """The parameters that a gradient reaches, by a pass over shapes alone: nothing is computed and no memory
    taken, so the model may be larger than any device."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    training = model.training
    model.eval()  # dropout would draw numbers
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shapes: dict[str, Tensor] = {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}
        output = torch.func.functional_call(model, shapes, (batch.inputs,))
        loss(output, batch).backward()
    model.train(training)
    return [value for name, value in model.named_parameters() if shapes[name].grad is not None]
