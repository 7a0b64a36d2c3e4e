"""Counts what makes a process wait for its device. On a CPU nothing waits, but what would can be seen."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib import recipe
from lib.data.amounts import Amounts
from lib.data.loader import Loader
from lib.job import Job
from lib.models.placement import place
from lib.process import dist
from lib.training.ddp import Ddp
from lib.training.loop import Parts
from lib.training.unused import freeze_unused
from tests import rank_checks

# what gives a number, or a shape that depends on numbers
OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim")
OPERATIONS += ("unique_consecutive", "equal", "is_nonzero", "bincount")
READERS = ("tolist", "numpy", "__array__")


class Waits(TorchDispatchMode):
    """The lines of this project, innermost first, from which something waits while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_truth = name.startswith("index") and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in _flat(args[1:2])
        )
        repeats = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if name in OPERATIONS or by_truth or repeats:
            self.note(name)
        return func(*args, **(kwargs or {}))

    def note(self, what: str) -> None:
        if not self.paused:
            frames = traceback.extract_stack()[:-2]
            places = [
                f"{frame.filename}:{frame.lineno}" for frame in frames if "/torch/" not in frame.filename
            ]
            self.seen.append(f"{what} from " + " < ".join(places[-2:-9:-1]))

    @contextmanager
    def pause(self) -> Iterator[None]:
        """On the host anyway: what collates rows, say."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def unseen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            with self.pause():
                return function(*args, **kwargs)

        return inner

    def watch_readers(self, patch: pytest.MonkeyPatch) -> None:
        """Those of a tensor that no operation tells of."""
        for name in READERS:
            original = getattr(torch.Tensor, name)

            def read(tensor: torch.Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
                self.note(_name)
                with self.pause():
                    return _original(tensor, *args)

            patch.setattr(torch.Tensor, name, read)


def parts_of(name: str, model: str, runs_dir: Path, *more: str) -> Parts:
    """What a step reads of the loop's parts; `more` words of the command line."""
    config = rank_checks.configuration(name, model, str(runs_dir), *more)
    task, rows = rank_checks.encoded(name, config)
    world = dist.setup(2).settled(config.optim.precision)
    module: Any = place(task.build(None), world.device)
    trains = [p for name, p in module.named_parameters() if p.requires_grad and "pooler" not in name]
    freeze_unused(module, trains)
    engine = Ddp(module, config.optim, world)
    engine.start(task.collate(rows, (0,)).to(world.device), task.loss, None)
    told: Any = SimpleNamespace(step=lambda values: None)
    parts = object.__new__(Parts)
    parts.job = Job(config, recipe.load(name), None, world, told)  # type: ignore[arg-type]
    parts.task, parts.engine, parts.rows = task, engine, rows
    parts.loader = Loader(task.costs(rows), config.optim)
    parts.flops_of_each, parts.peak = Amounts(tokens=6.0), 1e12
    return parts


def _flat(values: Any) -> list[Any]:
    if isinstance(values, list | tuple):
        return [one for value in values for one in _flat(value)]
    return [values]
