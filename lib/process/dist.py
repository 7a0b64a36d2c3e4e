"""The processes of a run and what they tell each other. Every helper works the same with one process.

What is exchanged is numbers and JSON text, never pickles.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist

from lib.base import ranks
from lib.base.exits import KINDS, code_of
from lib.base.heap import keep_few_kernels
from lib.base.ranks import Ranks
from lib.process.launcher import Joined, watch
from lib.process.signals import StopFlag
from lib.process.world import World

# What torch 2.13 calls exchanges of one tensor is unknown to 2.11, and to DeepSpeed.
warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
TIMEOUT = timedelta(hours=2)  # rank 0 may tokenize a large data set while the others wait


def under_torchrun() -> bool:
    """Was this process started by torchrun (or by our own launch)?"""
    return ranks.of_environment() is not None


def env_is_main() -> bool:
    """Is this rank 0? For what is said outside the process group."""
    mine = ranks.of_environment()
    return mine is None or mine.rank == 0


def num_devices() -> int:
    """How many processes a run gets when nobody says: one a GPU, else one."""
    return max(1, torch.cuda.device_count())


def setup(threads: int | None, stop: StopFlag | None = None, group_of_one: bool = False) -> World:
    """Join the process group: nccl on GPUs, gloo on CPUs. One process alone needs none (`group_of_one`: it
    gets one). `stop`: the flag of whoever does several things in this process, so that no signal is lost
    between two."""
    mine = ranks.of_environment() or Ranks(0, 1)
    stop = stop or StopFlag(deaf=True)
    joined = Joined()
    if mine.size > 1:
        watch(stop, joined)
    cores = len(os.sched_getaffinity(0))
    threads = threads or max(1, cores // mine.local_size)
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if mine.local_size > torch.cuda.device_count():
            raise ValueError(
                f"{mine.local_size} ranks but {torch.cuda.device_count()} GPUs; use --devices up to that"
            )
        device = torch.device("cuda", mine.local_rank)
        torch.cuda.set_device(device)
        # cuDNN's attention makes a plan for every new shape, 0.1 to 0.5 s each, and our batches have ever new
        # lengths (https://github.com/pytorch/pytorch/pull/155958); torch's other kernels need none.
        torch.backends.cuda.enable_cudnn_sdp(False)
    else:  # accelerate imports DeepSpeed now and then, which would say aloud that it looked for a GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    keep_few_kernels()
    backend = "nccl" if device.type == "cuda" else "gloo"
    if mine.size > 1:
        with joined.waiting(
            f"rank {mine.rank} of {mine.size} waits for the others at {ranks.meeting_place()}"
        ):
            torch_dist.init_process_group(
                backend, timeout=TIMEOUT, device_id=device if backend == "nccl" else None
            )
    elif group_of_one:
        ranks.be_the_first()
        torch_dist.init_process_group(backend, store=torch_dist.HashStore(), rank=0, world_size=1)
    backend = backend if mine.size > 1 else "no process group"
    return World(mine.rank, mine.size, device, backend, threads, stop)


def leave() -> None:
    """Leave the process group, if there is one."""
    if _grouped():
        # DeepSpeed remembers the group, and would take it for that of the next run in this process
        deepspeed = sys.modules.get("deepspeed.comm.comm")
        joined = deepspeed is not None and deepspeed.cdb is not None
        (deepspeed if joined else torch_dist).destroy_process_group()  # type: ignore[union-attr]


def _size() -> int:
    return torch_dist.get_world_size() if _grouped() else 1


def _grouped() -> bool:
    """Is there a process group? One of a single process exchanges as larger ones do."""
    return torch_dist.is_initialized()


def _device() -> torch.device:
    return torch.device("cuda") if torch_dist.get_backend() == "nccl" else torch.device("cpu")


def _gather(mine: torch.Tensor) -> list[torch.Tensor]:
    by_rank = [torch.empty_like(mine) for _ in range(_size())]
    torch_dist.all_gather(by_rank, mine)
    return by_rank


def gather_floats(values: list[float], measured: Sequence[torch.Tensor] = ()) -> list[list[float]]:
    """Everybody's numbers, by rank, on every rank; `measured`: further ones, () each, that a device may still
    be computing, from everybody as many. One collective, and one wait for the device."""
    if not measured and not _grouped():
        return [values]
    mine = torch.tensor(values, dtype=torch.float64)
    device = measured[0].device if measured else _device()
    if device.type == "cuda":  # copied behind what is computing, without a wait
        mine = mine.pin_memory().to(device, non_blocking=True)
    mine = torch.cat([mine, *(number.reshape(1).double() for number in measured)])
    return torch.stack(_gather(mine) if _grouped() else [mine]).tolist()


def any_rank(flag: bool) -> bool:
    """True on every rank when it is true on one."""
    return any(row[0] > 0 for row in gather_floats([float(flag)]))


def gather_json(value: Any) -> list[Any]:
    """Everybody's value, by rank, on every rank. Floats survive to the last digit."""
    if not _grouped():
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [int(row[0]) for row in gather_floats([float(len(data))])]
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=_device())
    padded[: len(data)] = data.to(padded.device)
    rows = _gather(padded)
    return [json.loads(bytes(row[:size].cpu().numpy())) for row, size in zip(rows, sizes, strict=True)]


def on_main(function: Callable[[], Any]) -> Any:
    """Run `function` on rank 0 and give its JSON value to every rank; what it raises is raised on every rank,
    so that no rank waits for one that is gone."""
    answer: dict[str, Any] = {}
    if not _grouped() or torch_dist.get_rank() == 0:
        try:
            answer = {"value": function()}
        except Exception as error:
            if _size() == 1:
                raise
            gather_json({"error": str(error), "code": code_of(error)})
            raise
    answer = gather_json(answer)[0]
    if "error" in answer:
        raise KINDS.get(answer["code"], RuntimeError)(answer["error"])
    return answer["value"]


def barrier() -> None:
    """Wait until every rank is here."""
    gather_floats([0.0])
