"""One step of every task on a GPU: what waits for it, what is copied to it, the same bits each time. Without
a GPU a rehearsal on the CPU, where nothing waits and what would is counted (bash tests/run.sh --gpu)."""

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib.data.ahead import Ahead
from lib.training import loop
from lib.training.loop import Parts, batches, compute, update
from lib.training.progress import Progress
from lib.training.votes import agree
from tests.gpu_checks import ON_GPU, needs
from tests.rank_checks import CASES
from tests.tools import save_random, wide_model
from tests.waits import Waits, parts_of

pytestmark = pytest.mark.gpu
WAITS = "synchronizing CUDA operation" if ON_GPU else "a GPU would wait"
LORA = ("--lora-rank", "4", "--init", "pretrained")
NF4 = [
    needs("bitsandbytes"),
    pytest.mark.skipif(not ON_GPU, reason="bitsandbytes' kernels for CPUs are others"),
]
FROZEN = [pytest.param("boolq", "decoder", LORA, marks=needs("peft"), id="boolq-decoder-lora")]
FROZEN += [
    pytest.param("german_rag", "decoder", (*LORA, "--quantize", "nf4"), marks=NF4, id="german_rag-nf4")
]
ALL = [pytest.param(*case, (), id="-".join(case)) for case in CASES] + FROZEN
Models = Callable[[str], str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A kind of model -> a folder; a decoder has weights there, and every kind takes 512 tokens."""
    at = tmp_path_factory.mktemp("models")

    def folder_of(kind: str) -> str:
        folder = at / kind
        if not folder.exists():
            wide_model(folder, kind)
            if kind == "decoder":
                save_random(folder)
            if kind == "encoder":
                file = folder / "config.json"
                file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 512}))
        return str(folder)

    return folder_of


@contextmanager
def waits_forbidden(parts: Parts, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever waits for the GPU raises RuntimeError: from CUDA where it waits; on a CPU from here, in the
    end."""
    if ON_GPU:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    waits = Waits()
    with patch.context() as here, waits:
        # rows are made into tensors on the host
        here.setattr(parts.task, "collate", waits.unseen(parts.task.collate))
        waits.watch_readers(here)
        yield
    if waits.seen:
        raise RuntimeError(f"a GPU would wait: {waits.seen}")


def two_steps(parts: Parts, patch: pytest.MonkeyPatch) -> None:
    """The second one, from its batches to the update, waits in the exchange alone; the first one may wait: it
    loads kernels."""
    writer: Any = SimpleNamespace(last_s=math.inf, failed=False)
    for number in (1, 2):
        step = parts.loader.step(number)
        assert len(step.micro_batches) > 1
        with waits_forbidden(parts, patch) if number == 2 else nullcontext():
            done = compute(parts, step, batches(parts, [number]))
        votes = agree(parts.job, writer, step, parts.shares(step), done)
        assert votes.finite
        with waits_forbidden(parts, patch) if number == 2 else nullcontext():
            update(parts, Progress(), step, votes, time.perf_counter())


@pytest.mark.parametrize(("name", "kind", "more"), ALL)
def test_a_step_waits_in_its_exchange_alone(
    name: str,
    kind: str,
    more: tuple[str, ...],
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two_steps(parts_of(name, models(kind), tmp_path, "--precision", "bf16", *more), monkeypatch)


@pytest.mark.parametrize("place", ["loss", "hits"])
def test_a_hidden_wait_is_an_error(
    place: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of("arena", models("encoder"), tmp_path)
    honest, calls = getattr(parts.task, place), []

    def waiting(output: Any, batch: Any) -> Any:
        value = honest(output, batch)
        calls.append(value.item())
        return value

    monkeypatch.setattr(parts.task, place, waiting)
    with pytest.raises(RuntimeError, match=WAITS):
        two_steps(parts, monkeypatch)
    assert len(calls) >= len(parts.loader.step(1).micro_batches), "the first step may wait"


def tensors_in(batch: Any) -> list[torch.Tensor]:
    """All of a batch, whatever its shape."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    if dataclasses.is_dataclass(batch):
        batch = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return [one for part in batch for one in tensors_in(part)] if isinstance(batch, list | tuple) else []


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_batches_are_made_in_a_thread_pinned_and_copied(
    name: str, kind: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, makers, made = parts_of(name, models(kind), tmp_path), list[str](), list[Any]()
    collate, pin = parts.task.collate, loop.pinned

    def collate_and_tell(*words: Any) -> Any:
        makers.append(threading.current_thread().name)
        made.append(collate(*words))
        return made[-1]

    pinned = list[Any]()
    monkeypatch.setattr(parts.task, "collate", collate_and_tell)
    monkeypatch.setattr(loop, "pinned", lambda batch: pinned.append(pin(batch)) or pinned[-1])
    with Ahead(batches(parts, [1, 2])) as ready:
        taken = list(ready)
    assert set(makers) == {"batches"} and len(taken) == len(made) > 2
    # pinned memory is a GPU's: there is nothing to copy to on a CPU
    assert len(pinned) == (len(made) if ON_GPU else 0)
    assert all(tensor.is_pinned() for batch in pinned for tensor in tensors_in(batch) if tensor.numel())
    for ours, plain in zip(taken, made, strict=True):
        pairs = list(zip(tensors_in(ours), tensors_in(plain), strict=True))
        assert pairs and all(torch.equal(one.cpu(), other) for one, other in pairs)
        assert any(one.device.type == parts.job.world.device.type for one, _ in pairs)


LONG = ("--max-length", "512", "--precision", "bf16", "--dropout", "0.1", "--min-micro-batches", "2")


@pytest.mark.parametrize(("name", "kind"), [("arena", "encoder"), ("german_rag", "decoder")])
def test_a_step_of_long_rows_has_the_same_gradient_each_time(
    name: str, kind: str, models: Models, tmp_path: Path
) -> None:
    """Without it no run goes on bit for bit. Attention's backward pass is the one to watch: on a GPU it may
    add the parts of sequences above 128 tokens in any order."""
    parts = parts_of(name, models(kind), tmp_path, *LONG, "--batch", "16")
    assert parts.rows.sequence_lengths.max() > 256
    gradients = []
    for _ in range(4):
        compute(parts, parts.loader.step(1), batches(parts, [1]))
        module = parts.engine.module
        gradients.append([value.grad.clone() for value in module.parameters() if value.grad is not None])
        parts.engine.forget()
    for again in gradients[1:]:
        different = sum(not torch.equal(*pair) for pair in zip(gradients[0], again, strict=True))
        assert different == 0, f"{different} of {len(again)} gradients of the same step have other bits"
