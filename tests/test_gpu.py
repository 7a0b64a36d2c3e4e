"""What only a GPU can show: nccl, bf16, memory probing, compile (bash tests/run.sh --gpu)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as torch_dist

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse
from lib.process import dist
from tests.tools import SHORT, command, losses, only_run, weights_hash, wide_model
from tests.tools import run as run_script

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model = wide_model(tmp_path_factory.mktemp("model"))
    bf16 = ["bf16" if word == "fp32" else word for word in SHORT]
    return [*bf16, "--model", model, "--init", "random"]


def train(*words: str) -> int:
    return exits.run(lambda: run.train(parse(recipe.load("arena").config, list(words), "test")))


def test_bf16_run_stops_resumes_and_rescores_to_the_last_digit(flags: list[str], tmp_path: Path) -> None:
    assert train(*flags, "--runs-dir", str(tmp_path / "whole")) == 0
    assert train(*flags, "--runs-dir", str(tmp_path / "parts"), "--stop-at", "3") == 75
    assert train(*flags, "--runs-dir", str(tmp_path / "parts")) == 0
    whole, parts = only_run(tmp_path / "whole"), only_run(tmp_path / "parts")
    environment = json.loads((whole / "run.json").read_text())["environment"]
    assert environment["device"] == "cuda" and environment["precision"] == "bf16"
    assert losses(parts) == losses(whole)
    assert weights_hash(parts, 6) == weights_hash(whole, 6)
    again = run_script(str(whole), script="evaluate.py")
    assert "the same to the last digit as training reported" in again.stdout, again.stderr


def test_what_ranks_exchange_goes_through_nccl() -> None:
    """In a group of one, so that one GPU can show it."""
    torch_dist.init_process_group("nccl", store=torch_dist.HashStore(), rank=0, world_size=1)
    try:
        mine = torch.tensor([1.5, -2.0], dtype=torch.float64, device=dist._device())
        assert mine.is_cuda and torch_dist.get_backend() == "nccl"
        (gathered,) = dist._gather(mine)
        assert torch.equal(gathered, mine) and gathered is not mine
    finally:
        dist.leave()
    assert not torch_dist.is_initialized()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: a rank alone needs no process group")
def test_nccl_is_chosen_under_torchrun(flags: list[str], tmp_path: Path) -> None:
    ranks = torch.cuda.device_count()
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    words = command(*flags, "--runs-dir", str(tmp_path))[1:]
    done = subprocess.run([*torchrun, *words], capture_output=True, text=True, env=os.environ, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{ranks} ranks on cuda" in done.stdout and ", nccl," in done.stdout


def test_token_budget_is_halved_until_it_fits(flags: list[str], tmp_path: Path) -> None:
    """A budget of a million tokens in a corner of the memory: 11 MB of weights fit, the activations do
    not."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(600 * 2**20 / total)
    try:
        huge = [
            "--token-budget",
            "1000000",
            "--min-micro-batches",
            "1",
            "--batch",
            "2000",
            "--max-rows",
            "4000",
        ]
        rows = ["--sample-rows", "5000", "--max-steps", "1", "--runs-dir", str(tmp_path)]
        assert train(*flags, *huge, *rows) == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "does not fit into memory" in (only_run(tmp_path) / "train.log").read_text()


def test_compile_and_checkpointing_change_losses_by_rounding_only(flags: list[str], tmp_path: Path) -> None:
    fp32 = ["--precision", "fp32", "--dropout", "0"]
    assert train(*flags, *fp32, "--runs-dir", str(tmp_path / "plain")) == 0
    for flag in ("--gradient-checkpointing", "--compile"):
        assert train(*flags, *fp32, flag, "--runs-dir", str(tmp_path / flag)) == 0
        assert losses(only_run(tmp_path / flag)) == pytest.approx(
            losses(only_run(tmp_path / "plain")), rel=1e-4
        )
