"""Does it fit? The costliest micro-batch is tried before step 1, and the token budget halved until it
does."""

import gc
import resource
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lib.exits import CheckError
from lib.training import dist, precision
from lib.training.dist import World


def is_out_of_memory(error: BaseException) -> bool:
    """Both the GPU's and the CPU allocator's way of saying so."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
        error
    )


def peak_gib(device: torch.device) -> float:
    """Peak memory of this process so far: the GPU allocator's, or the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def give_back(device: torch.device) -> None:
    """To the device, what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def probe(
    model: nn.Module,
    make_batch: Callable[[int], tuple[Any, str]],
    loss: Callable[[Any, Any], Tensor],
    token_budget: int,
    state_bytes: int,
    world: World,
    precision_name: str,
) -> tuple[int, list[nn.Parameter]]:
    """Try a forward and a backward pass of the costliest micro-batch (`make_batch(budget)` gives it and its
    description), with room held for gradients and `state_bytes` of the optimizer. Returns the largest of
    budget, budget/2 ... that fits on every rank, and the parameters that a gradient reached. Raises
    CheckError when nothing fits."""
    model.train()
    previous = ""
    while True:
        batch, description = make_batch(token_budget)
        fits = _try(model, batch, loss, state_bytes, world, precision_name)
        if not dist.any_rank(not fits):
            break
        if description == previous:
            raise CheckError(
                f"even one row at a time does not fit into memory ({description}); use a smaller "
                "--max-length, --gradient-checkpointing or a smaller --model"
            )
        previous, token_budget = description, token_budget // 2
    used = [parameter for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return token_budget, used


def _try(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any, Any], Tensor],
    state_bytes: int,
    world: World,
    precision_name: str,
) -> bool:
    held = None
    try:
        if world.device.type == "cuda":
            held = torch.empty(state_bytes, dtype=torch.uint8, device=world.device)
        batch = batch.to(world.device)
        with precision.autocast(precision_name, world.device):
            output = model(batch.inputs)
        loss(output, batch).backward()
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del held
        give_back(world.device)
