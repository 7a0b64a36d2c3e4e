"""Run by the tests of a GPU in processes of their own, and imported by them; without tyro and datasketch:

python tests/gpu_checks.py train RECIPE WORDS    as scripts/train.py
python tests/gpu_checks.py one RECIPE WORDS      the same in a group of one process, which exchanges all
                                                 that larger ones do; its last line says what
python tests/gpu_checks.py rescore RUN           as scripts/evaluate.py
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import run
from lib.base import exits
from lib.corpus import lint
from lib.evaluation.rescore import rescore
from lib.process import dist
from lib.training.ddp import Ddp
from tests.tools import OFFLINE, configured

ON_GPU = torch.cuda.is_available()
BACKEND = "nccl" if ON_GPU else "gloo"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
ONE_RANK = (*TORCHRUN, "--nproc_per_node=1")


def needs(package: str) -> pytest.MarkDecorator:
    """Skip what a machine without this package cannot run."""
    return pytest.mark.skipif(
        not importlib.util.find_spec(package), reason=f"needs {package}, which is missing"
    )


def train(name: str, words: Sequence[str]) -> int:
    """One run in this process; its exit code. Without datasketch nobody looks for rows that are nearly the
    same: no GPU has a part in that."""
    if not importlib.util.find_spec("datasketch"):
        lint.across_splits = lambda examples, between: {}
    return exits.run(lambda: run.train(configured(name, words)), quiet=not dist.env_is_main())


def run_alone(
    *words: str, launcher: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """This file in a process of its own, or in those that a launcher starts."""
    command = [sys.executable, *launcher, __file__, *words]
    known = os.environ | OFFLINE | environment
    return subprocess.run(command, capture_output=True, text=True, env=known, timeout=300)


def train_as_one_of_several(name: str, words: Sequence[str]) -> int:
    """Train in a group of one process with all that ranks of a larger group do: gradients in DDP's buckets,
    losses, predictions and words are exchanged, with nobody else."""
    exchanged: dict[str, Any] = {"buckets": 0, "gathers": 0}
    begin, start, backward, gather = Ddp.__init__, Ddp.start, Ddp.backward, dist._gather

    def begin_as_two(self: Ddp, module: Any, config: Any, world: Any) -> None:
        begin(self, module, config, dataclasses.replace(world, size=2))

    def start_and_count(self: Ddp, *arguments: Any) -> None:
        start(self, *arguments)
        self.wrapped.register_comm_hook(None, hook)  # type: ignore[operator]

    def hook(state: None, bucket: torch_dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        exchanged["buckets"] += 1
        return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]

    def backward_of_one(self: Ddp, loss_sum: torch.Tensor, scale: float) -> None:
        backward(self, loss_sum, scale / 2)  # DDP averages over the one rank there is: exact, a power of two

    def gather_and_count(mine: torch.Tensor) -> list[torch.Tensor]:
        exchanged["gathers"] += 1
        return gather(mine)

    Ddp.__init__, Ddp.start, Ddp.backward = begin_as_two, start_and_count, backward_of_one  # type: ignore
    dist._gather = gather_and_count
    torch_dist.init_process_group(BACKEND, device_id=torch.device("cuda", 0) if ON_GPU else None)
    exchanged["backend"] = torch_dist.get_backend()
    code = train(name, words)
    print(json.dumps(exchanged))
    return code


def main(what: str, name: str, *words: str) -> int:
    if what == "rescore":
        print(rescore(Path(name), None, None, None).in_words())
        return 0
    return {"train": train, "one": train_as_one_of_several}[what](name, words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
