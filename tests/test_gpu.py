"""Real runs on a GPU: bf16, what ranks exchange, compile, memory that runs short (bash tests/run.sh --gpu).
Without a GPU the same tests are a rehearsal on the CPU."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.models.heads import Encoder
from tests.gpu_checks import BACKEND, ON_GPU, ONE_RANK, TORCHRUN, run_alone, train
from tests.tools import SHORT, losses, metrics, only_run, weights_hash, wide_model

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if ON_GPU else "cpu"
RANKS = torch.cuda.device_count() if ON_GPU else 2
ROOM = 600 * 2**20  # bytes of a GPU's memory
TOKENS_OF_ROOM = 4000  # of the CPU's stand-in
BUDGET = "1000000" if ON_GPU else "12000"


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model = wide_model(tmp_path_factory.mktemp("model"))
    return [*SHORT, "--precision", "bf16", "--model", model, "--init", "random"]


@pytest.fixture(scope="module")
def whole(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in this process that was never stopped."""
    runs_dir = tmp_path_factory.mktemp("whole")
    assert train("arena", [*flags, "--runs-dir", str(runs_dir)]) == 0
    return only_run(runs_dir)


def test_bf16_run_stops_resumes_and_rescores_to_the_last_digit(
    flags: list[str], whole: Path, tmp_path: Path
) -> None:
    words = [*flags, "--runs-dir", str(tmp_path)]
    assert train("arena", [*words, "--stop-at", "3"]) == 75
    assert train("arena", words) == 0
    parts = only_run(tmp_path)
    environment = json.loads((whole / "run.json").read_text())["environment"]
    assert environment["device"] == DEVICE and environment["precision"] == "bf16"
    assert losses(parts) == losses(whole)
    assert weights_hash(parts, 6) == weights_hash(whole, 6)
    again = run_alone("rescore", str(whole))
    assert "the same to the last digit as training reported" in again.stdout, again.stderr


@contextmanager
def little_memory(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A corner of the GPU's memory; a CPU's cannot be made small, there a number of tokens says no."""
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(ROOM / torch.cuda.get_device_properties(0).total_memory)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    encode = Encoder.encode

    def refuse(self: Encoder, grouped: Any) -> torch.Tensor:
        if self.training and grouped.computed_tokens > TOKENS_OF_ROOM:
            raise torch.cuda.OutOfMemoryError(f"no room for {grouped.computed_tokens} tokens")
        return encode(self, grouped)

    patch.setattr(Encoder, "encode", refuse)
    yield


def test_token_budget_is_halved_until_it_fits(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 MB of weights fit into a corner of the memory, the activations of all rows at once do not."""
    rows = 2000 if ON_GPU else 50
    huge = ["--token-budget", BUDGET, "--min-micro-batches", "1", "--batch", str(rows), "--max-steps", "1"]
    some = ["--max-rows", str(2 * rows), "--sample-rows", str(5 * rows // 2), "--runs-dir", str(tmp_path)]
    with little_memory(monkeypatch):
        assert train("arena", [*flags, *huge, *some]) == 0
    log = (only_run(tmp_path) / "train.log").read_text()
    assert f"--token-budget {BUDGET} does not fit into memory" in log
    (step,) = metrics(only_run(tmp_path), "train")
    assert step["rows"] == rows, "a smaller budget cuts the same batch into more pieces"
    assert ON_GPU or step["computed"] > TOKENS_OF_ROOM


@pytest.fixture(scope="module")
def exact(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*flags, "--precision", "fp32", "--dropout", "0", "--max-steps", "3"]


@pytest.fixture(scope="module")
def plain(exact: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses in float32."""
    runs_dir = tmp_path_factory.mktemp("plain")
    assert train("arena", [*exact, "--runs-dir", str(runs_dir)]) == 0
    return losses(only_run(runs_dir))


def test_a_group_of_one_exchanges_everything_and_keeps_the_losses(
    exact: list[str], plain: list[float], tmp_path: Path
) -> None:
    """nccl on one GPU, which it takes one process of only: gradients, losses, predictions, words."""
    done = run_alone("one", "arena", *exact, "--runs-dir", str(tmp_path), launcher=ONE_RANK)
    assert done.returncode == 0, done.stderr
    exchanged = json.loads(done.stdout.splitlines()[-1])
    assert exchanged["backend"] == BACKEND
    # in each of three steps its gradients and one gather; around them checks, an evaluation, predictions
    assert exchanged["buckets"] >= 3 and exchanged["gathers"] > 6
    # to the bit on a CPU; where gradients lie in buckets a GPU may sum their norm in another order
    assert losses(only_run(tmp_path)) == (pytest.approx(plain, rel=1e-5) if ON_GPU else plain)


@pytest.mark.skipif(RANKS < 2, reason="one GPU: nccl takes one rank a GPU")
def test_several_ranks_have_the_losses_of_one(exact: list[str], plain: list[float], tmp_path: Path) -> None:
    words = ["train", "arena", *exact, "--runs-dir", str(tmp_path)]
    done = run_alone(*words, launcher=[*TORCHRUN, f"--nproc_per_node={RANKS}"])
    assert done.returncode == 0, done.stderr
    assert f"{RANKS} ranks on {DEVICE}" in done.stdout and f", {BACKEND}," in done.stdout
    assert losses(only_run(tmp_path)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("flag", ["--gradient-checkpointing", "--compile"])
def test_other_ways_to_compute_change_losses_by_rounding_only(
    flag: str, exact: list[str], plain: list[float], tmp_path: Path
) -> None:
    assert train("arena", [*exact, flag, "--runs-dir", str(tmp_path)]) == 0
    assert len(plain) == 3 and losses(only_run(tmp_path)) == pytest.approx(plain, rel=1e-4)
