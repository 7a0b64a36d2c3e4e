"""A step waits for its device once, in the exchange that all ranks make anyway."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib.training.loop import Parts, batches, compute, update
from lib.training.progress import Progress
from lib.training.votes import agree
from tests import rank_checks
from tests.tools import wide_model
from tests.waits import Waits, parts_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    at = tmp_path_factory.mktemp("models")
    return lambda kind: str(at / kind) if (at / kind).exists() else wide_model(at / kind, kind)


def waits_of(parts: Parts, patch: pytest.MonkeyPatch) -> Waits:
    """Those of one whole step."""
    waits = Waits()
    # rows are made into tensors on the host
    patch.setattr(parts.task, "collate", waits.unseen(parts.task.collate))
    waits.watch_readers(patch)
    step, writer = parts.loader.step(1), SimpleNamespace(last_s=math.inf, failed=False)
    with waits:
        done = compute(parts, step, batches(parts, [1]))
        votes = agree(parts.job, writer, step, parts.shares(step), done)  # type: ignore[arg-type]
        update(parts, Progress(), step, votes, time.perf_counter())
    assert votes.finite and len(step.micro_batches) > 1
    return waits


@pytest.mark.parametrize(("name", "kind"), rank_checks.CASES)
def test_a_step_waits_once(
    name: str, kind: str, models: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wait,) = waits_of(parts_of(name, models(kind), tmp_path), monkeypatch).seen
    assert wait.startswith("tolist from ") and "/lib/training/votes.py:" in wait


@pytest.mark.parametrize(
    ("wait", "called"),
    [
        (lambda output: output.sum().item(), "_local_scalar_dense"),
        (lambda output: bool((output > 0).any()), "_local_scalar_dense"),
        (lambda output: output[output > 0], "index"),
        (lambda output: output.tolist(), "tolist"),
        (lambda output: output.detach().numpy(), "numpy"),
        (lambda output: torch.repeat_interleave(output, torch.tensor([2])), "repeat_interleave"),
    ],
)
def test_a_second_wait_is_seen(
    wait: Callable[[Any], Any],
    called: str,
    models: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = parts_of("arena", models("encoder"), tmp_path)
    loss = parts.task.loss

    def waiting(output: Any, batch: Any) -> Any:
        value = loss(output, batch)
        wait(value.reshape(1))
        return value

    monkeypatch.setattr(parts.task, "loss", waiting)
    seen = waits_of(parts, monkeypatch).seen
    step = parts.loader.step(1)
    assert len(seen) == 1 + len(step.micro_batches) and seen[0].startswith(f"{called} from ")
