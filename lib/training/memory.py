"""Does it fit? The costliest micro-batch is tried before step 1, and the token budget halved until it
does."""

import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lib.base.exits import CheckError
from lib.process import dist
from lib.process.world import World


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


def has_room(num_bytes: int, device: torch.device) -> bool:
    """Is there room for so much on every rank's device, and a tenth of it left for what is computed?"""
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return not dist.any_rank(free - total // 10 < num_bytes)


@contextmanager
def held(num_bytes: int, device: torch.device) -> Iterator[None]:
    """Keep so much of a GPU's memory from whatever runs inside: the room that something else will need."""
    room = torch.empty(num_bytes, dtype=torch.uint8, device=device) if device.type == "cuda" else None
    try:
        yield
    finally:
        del room


def probe(
    passes: Callable[[Any], None],
    costliest: Callable[[int], tuple[Any, str]],
    token_budget: int,
    world: World,
) -> int:
    """Try `passes` (forward and backward) on the costliest micro-batch (`costliest(budget)` gives it and its
    description). Returns the largest of budget, budget/2 ... that fits on every rank. Raises CheckError when
    nothing fits."""
    while True:
        batch, description = costliest(token_budget)
        fits = _fits(passes, batch, world)
        if not dist.any_rank(not fits):
            return token_budget
        while costliest(token_budget)[1] == description:  # a budget may be larger than any batch
            token_budget //= 2
            if token_budget == 0:
                raise CheckError(
                    f"even one row at a time does not fit into memory ({description}); use a smaller "
                    "--max-length, --gradient-checkpointing or a smaller --model"
                )


def _fits(passes: Callable[[Any], None], batch: Any, world: World) -> bool:
    try:
        passes(batch)
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        give_back(world.device)
