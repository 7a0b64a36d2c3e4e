"""A pass over shapes alone: nothing is computed and no memory taken, so the model may be larger than any
device, and its weights anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def passed(model: nn.Module, inputs: Any) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """The output of `inputs` without dropout, and what stood for the parameters, by name: within, a backward
    pass leaves its gradients there."""
    training = model.training
    model.eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
        weights = {
            name: torch.empty(value.shape, requires_grad=value.requires_grad)
            for name, value in model.named_parameters()
        }
        buffers = {name: torch.empty(b.shape, dtype=b.dtype) for name, b in model.named_buffers()}
        try:
            yield torch.func.functional_call(model, weights | buffers, (inputs,)), weights
        finally:
            model.train(training)
