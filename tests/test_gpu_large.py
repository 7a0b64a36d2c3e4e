"""What large models need, on a GPU: a base in 4 bits with LoRA, moments in 8 bits that may leave the GPU,
ZeRO. Without a GPU a rehearsal on the CPU (bash tests/run.sh --gpu)."""

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from safetensors.torch import load_file

from lib.config import ComputeConfig
from tests.gpu_checks import ON_GPU, ONE_RANK, needs, run_alone, train
from tests.tools import SHORT, losses, only_run, save_random, wide_model

pytestmark = pytest.mark.gpu
PAGED = "paged_adamw8bit" if ON_GPU else "adamw8bit"  # a CPU has no memory to page from
STRATEGIES = get_args(get_type_hints(ComputeConfig)["strategy"])


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a decoder of random weights."""
    folder = tmp_path_factory.mktemp("model") / "decoder"
    wide_model(folder, "decoder")
    save_random(folder)
    return str(folder)


def stopped_and_whole(words: list[str], at: Path) -> tuple[Path, Path]:
    """The same run of boolq with a stop after its third step, and without."""
    parts, whole = [*words, "--runs-dir", str(at / "parts")], [*words, "--runs-dir", str(at / "whole")]
    assert train("boolq", [*parts, "--stop-at", "3"]) == 75
    assert train("boolq", parts) == 0
    assert train("boolq", whole) == 0
    return only_run(at / "parts"), only_run(at / "whole")


@pytest.mark.parametrize(
    "base",
    ["none", *(pytest.param(base, marks=needs("bitsandbytes")) for base in ("nf4", "int8"))],
)
@needs("peft")
def test_lora_trains_on_a_frozen_base_and_goes_on_bit_for_bit(
    base: str, decoder: str, tmp_path: Path
) -> None:
    words = [*SHORT, "--model", decoder, "--quantize", base, "--lora-rank", "4", "--lr", "3e-3"]
    parts, whole = stopped_and_whole([*words, "--precision", "bf16"], tmp_path)
    assert losses(parts) == losses(whole) and len(losses(whole)) == 6
    size = json.loads((whole / "run.json").read_text())["parameters"]
    assert 0 < size["trainable"] < size["total"] / 10
    # of each weight 4 bytes, 1, or half of one; tables, norms and LoRA stay in float32
    most = {"none": 4.0, "int8": 1.8, "nf4": 1.4}[base]
    assert size["bytes"] / size["total"] <= most, size
    weights = [load_file(folder / "checkpoints/step-000006/adapter/adapter_model.safetensors")
               for folder in (parts, whole)]  # fmt: skip
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
    moved = [name for name, value in weights[1].items() if "lora_B" in name and value.abs().max() > 0]
    assert moved, "LoRA's second matrices begin at 0"


@pytest.mark.parametrize("optimizer", ["adamw8bit", PAGED] if ON_GPU else [PAGED])
@needs("bitsandbytes")
def test_moments_of_8_bits_go_on_bit_for_bit(optimizer: str, decoder: str, tmp_path: Path) -> None:
    words = [*SHORT, "--model", decoder, "--quantize", "none", "--lora-rank", "0", "--optimizer", optimizer]
    parts, whole = stopped_and_whole([*words, "--precision", "bf16"], tmp_path)
    assert losses(parts) == losses(whole)
    file = "checkpoints/step-000006/optimizer.safetensors"
    assert (parts / file).read_bytes() == (whole / file).read_bytes()
    kinds = {str(value.dtype) for value in load_file(whole / file).values()}
    assert "torch.uint8" in kinds, "the moments of large matrices have 8 bits"


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[float]]:
    """The words of a run in float32 without dropout, and its losses without ZeRO."""
    model, runs_dir = wide_model(tmp_path_factory.mktemp("encoder")), tmp_path_factory.mktemp("ddp")
    words = [*SHORT, "--model", model, "--init", "random", "--dropout", "0"]
    assert train("arena", [*words, "--runs-dir", str(runs_dir)]) == 0
    return words, losses(only_run(runs_dir))


def zero(strategy: str) -> Any:
    missing = strategy not in STRATEGIES
    marks = [
        needs("deepspeed"),
        pytest.mark.skipif(missing, reason=f"no --strategy {strategy} in this version"),
    ]
    return pytest.param(strategy, marks=marks)


@pytest.mark.parametrize("strategy", [zero(strategy) for strategy in ("zero1", "zero2", "zero3")])
def test_zero_on_one_device_has_ddps_losses_and_goes_on(
    strategy: str, ddp: tuple[list[str], list[float]], tmp_path: Path
) -> None:
    words, expected = ddp
    words = [*words, "--strategy", strategy, "--runs-dir", str(tmp_path)]
    environment = {} if ON_GPU else {"DS_ACCELERATOR": "cpu"}
    for stop in (["--stop-at", "3"], []):
        done = run_alone("train", "arena", *words, *stop, launcher=ONE_RANK, **environment)
        # torchrun ends with 1 whatever its worker ended with; the worker says it in its own words
        assert done.returncode == 0 or (stop and "stopped: --stop-at 3" in done.stderr), done.stderr
    assert losses(only_run(tmp_path)) == pytest.approx(expected, rel=1e-4)
