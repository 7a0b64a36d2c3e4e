"""--strategy zero1, zero2, zero3: DeepSpeed shares out what ddp keeps on each rank, and no number changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib.base.files import read_lines
from lib.command_line import parse
from lib.launching.workers import launch
from lib.models.placement import place
from lib.training.unused import reached_on_paper
from tests.rank_checks import configuration, encoded
from tests.tools import ROOT, SHORT, STORIES, losses, metrics, only_run, run, weights_hash, wide_model
from tests.zero_checks import RATE

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

SCRIPT = ROOT / "tests" / "zero_checks.py"
pytestmark = pytest.mark.usefixtures("workers_begin_at_once")
STRATEGIES = ("zero1", "zero2", "zero3")
OFFLOADED = (
    "zero1:--offload-optimizer=cpu",
    "zero2:--offload-optimizer=cpu",
    "zero3:--offload-optimizer=cpu",
)
OFFLOADED += ("zero3:--offload-params=cpu:--offload-optimizer=cpu",)
ADAMW = ("ddp", "ddp:--reduce=ordered", *STRATEGIES, *OFFLOADED)
ON_TWO = [f"adamw:{way}" for way in ADAMW] + [f"sgd:{way}" for way in ("ddp", *STRATEGIES)]
IN_4_BITS = [f"nf4:{way}" for way in ("ddp", "zero2", "zero3")] + ["nf4bf16:ddp", "nf4bf16:zero3"]
ON_THREE = [f"{part}adamw:{way}" for way in ("zero3", "ddp:--reduce=ordered") for part in ("", "stopped-")]
Told = tuple[dict[str, Any], dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=[8, pytest.param(20, marks=pytest.mark.faults)])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, str], Told]:
    """What zero_checks.py wrote of a case on so many ranks, after so many steps."""
    models, out = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("out")
    wide_model(models / "encoder")
    four_bits = IN_4_BITS if STORIES.is_dir() else []
    for ranks, cases in ((2, ON_TWO + four_bits), (3, ON_THREE), (1, ["adamw:ddp", "adamw:zero3"])):
        (out / str(ranks)).mkdir()
        assert launch(SCRIPT, [str(models), str(out / str(ranks)), str(request.param), *cases], ranks) == 0

    def of(ranks: int, case: str) -> Told:
        file = out / str(ranks) / f"{case}.safetensors"
        return json.loads(file.with_suffix(".json").read_text()), load_file(file)

    return of


def farthest(one: Told, other: Told, of: str) -> float:
    return float(np.abs(np.array(one[0][of]) - np.array(other[0][of])).max())


def weights(kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in kept.items() if "/" not in name}


@pytest.mark.parametrize("way", ADAMW[1:])
def test_losses_and_norms_are_those_of_ddp(told: Callable[[int, str], Told], way: str) -> None:
    """The gradient is clipped, and one is forgotten: no part of it is in the next step. What is shared out
    comes together again under the same names."""
    ddp, ours = told(2, "adamw:ddp"), told(2, f"adamw:{way}")
    assert farthest(ours, ddp, "losses") <= 1e-6
    assert min(ddp[0]["norms"]) > 1, "nothing was clipped"
    assert farthest(ours, ddp, "norms") <= 1e-5
    assert {name: tensor.shape for name, tensor in ours[1].items()} == {
        name: tensor.shape for name, tensor in ddp[1].items()
    }


@pytest.mark.parametrize("way", STRATEGIES)
def test_sgd_ends_at_the_weights_of_ddp(told: Callable[[int, str], Told], way: str) -> None:
    ddp, ours = weights(told(2, "sgd:ddp")[1]), weights(told(2, f"sgd:{way}")[1])
    assert max((ours[name] - ddp[name]).abs().max().item() for name in ddp) <= 1e-6


@pytest.mark.parametrize("way", ADAMW[1:])
def test_adamw_ends_at_the_weights_of_ddp_where_there_is_a_gradient(
    told: Callable[[int, str], Told], way: str
) -> None:
    """Adam divides by the gradient's size: where there is none but rounding (the biases of attention keys),
    it makes whole steps of noise, and two sums of the same numbers end at two places, under ddp too."""
    ddp, ours = told(2, "adamw:ddp")[1], told(2, f"adamw:{way}")[1]
    noise = 0
    for name in weights(ddp):
        if f"{name}/exp_avg_sq" not in ddp:
            assert torch.equal(ours[name], ddp[name]), name
            continue
        apart = (ours[name] - ddp[name]).abs()
        real = ddp[f"{name}/exp_avg_sq"].sqrt() > 1e-9  # the norm of the whole gradient is above 1
        assert apart[real].amax() <= 0.1 * RATE if real.any() else True, name
        noise += int((~real).sum())
    assert noise < 0.03 * sum(tensor.numel() for tensor in weights(ddp).values())


def test_one_rank_has_the_numbers_of_two(told: Callable[[int, str], Told]) -> None:
    assert farthest(told(1, "adamw:zero3"), told(2, "adamw:ddp"), "losses") <= 1e-6
    assert farthest(told(3, "adamw:zero3"), told(2, "adamw:ddp"), "losses") <= 1e-6


@pytest.mark.parametrize("way", ["zero3", "ddp:--reduce=ordered"])
def test_a_stop_changes_no_bit_on_three_ranks(told: Callable[[int, str], Told], way: str) -> None:
    whole, stopped = told(3, f"adamw:{way}"), told(3, f"stopped-adamw:{way}")
    assert stopped[0] == whole[0]
    assert all(torch.equal(stopped[1][name], tensor) for name, tensor in whole[1].items())


@pytest.mark.skipif(not STORIES.is_dir(), reason="no ../shared/data")
@pytest.mark.parametrize("way", ["zero2", "zero3"])
def test_an_adapter_on_a_base_in_4_bits_learns_the_same(told: Callable[[int, str], Told], way: str) -> None:
    ddp, ours = told(2, "nf4:ddp"), told(2, f"nf4:{way}")
    assert farthest(ours, ddp, "losses") <= 1e-6
    assert all("lora" in name or name.startswith("head.") for name in ours[1]), "what trains, and no more"
    # bf16 has 8 bits: a product differs by 2**-9 of it, and losses of 0.7 by no more
    if way == "zero3":
        assert farthest(told(2, "nf4bf16:zero3"), told(2, "nf4bf16:ddp"), "losses") <= 0.7 * 2**-7


def test_a_checkpoint_goes_from_strategy_to_strategy_and_number_to_number(tmp_path: Path) -> None:
    """zero3 on two ranks, ddp on one, zero2 on two; then evaluate.py and export.py, which know no
    strategy."""
    model = wide_model(tmp_path / "model")
    common = ["arena", *SHORT, "--model", model, "--init", "random", "--dropout", "0", "--runs-dir"]
    whole = run(*common, str(tmp_path / "ddp"), "--devices", "2")
    assert whole.returncode == 0, whole.stderr
    parts = (("zero3", "2", "2", 75), ("ddp", "1", "4", 75), ("zero2", "2", None, 0))
    for strategy, ranks, stop_at, code in parts:
        words = ["--strategy", strategy, "--devices", ranks, *(("--stop-at", stop_at) if stop_at else ())]
        done = run(*common, str(tmp_path / "journey"), *words)
        assert done.returncode == code, done.stderr
        assert "[WARNING]" not in done.stdout + done.stderr, "nothing of DeepSpeed's own"
    folder = only_run(tmp_path / "journey")
    counted = [json.loads((path / "run.json").read_text())["parameters"]
               for path in (folder, only_run(tmp_path / "ddp"))]  # fmt: skip
    assert counted[0] == counted[1]
    assert losses(folder) == pytest.approx(losses(only_run(tmp_path / "ddp")), abs=1e-6)
    again = run(str(folder), script="evaluate.py")
    assert "the same to the last digit as training reported" in again.stdout, again.stderr
    exported = run(str(folder), str(tmp_path / "exported"), script="export.py")
    assert exported.returncode == 0, exported.stderr
    files = sorted(path.suffix for path in (folder / "checkpoints").rglob("*") if path.is_file())
    assert set(files) <= {".safetensors", ".json", ".jinja", ".txt"}, "no pickle"


@pytest.mark.parametrize(("recipe", "kind"), [("arena", "encoder"), ("german_rag", "decoder")])
def test_where_no_device_has_room_ranks_score_together_and_at_last_from_the_disk(
    tmp_path: Path, recipe: str, kind: str
) -> None:
    model = wide_model(tmp_path / "model", kind)
    words = [recipe, *SHORT, "--model", model, "--init", "random", "--strategy", "zero3", "--max-rows", "12"]
    words += ["--max-steps", "3", "--quantize", "none", "--lora-rank", "0"]
    words += ["--max-length", "240", "--max-new-tokens", "8"] if recipe == "german_rag" else []
    words += ["--runs-dir"]
    assert run(*words, str(tmp_path / "room"), "--devices", "2").returncode == 0
    assert launch(ROOT / "tests" / "no_room.py", [*words, str(tmp_path / "none")], 2) == 0
    room, none = only_run(tmp_path / "room"), only_run(tmp_path / "none")
    assert losses(none) == losses(room)
    scores = [line["scores"] for line in metrics(none, "validation")]
    wanted = [line["scores"] for line in metrics(room, "validation")]
    assert scores and len(scores) == len(wanted)
    for ours, theirs in zip(scores, wanted, strict=True):  # one call for all lengths pads otherwise
        assert {name: theirs[name] for name in ours} == pytest.approx(ours, abs=1e-6)
    said = (none / "train.log").read_text()
    assert "its weights are read from the disk, block by block" in said
    ends = [json.loads((folder / "scores.json").read_text()) for folder in (room, none)]
    if kind == "encoder":  # the others' base model says nothing beforehand
        assert ends[0] == ends[1]
    else:
        assert "no texts before training" in said
        texts = [[row["answer"] for row in read_lines(folder / "predictions" / "test.jsonl")]
                 for folder in (room, none)]  # fmt: skip
        assert texts[0] == texts[1] != []


@pytest.mark.parametrize("kind", ["encoder", "decoder", "seq2seq"])
def test_what_no_gradient_reaches_is_seen_without_computing(tmp_path: Path, kind: str) -> None:
    """With dropout on and rows of different lengths; a model that no device could hold has no other way."""
    name = {"encoder": "arena", "decoder": "boolq", "seq2seq": "science_exam"}[kind]
    config = configuration(name, wide_model(tmp_path / "model", kind), str(tmp_path))
    config = parse(config, ["--dropout", "0.1"], "test")
    task, rows = encoded(name, config)
    model = place(task.build(None), torch.device("cpu")).train()
    batch = task.collate(rows, (0, 1, 2), one_call=True)
    on_paper = {id(value) for value in reached_on_paper(model, batch, task.loss)}
    assert model.training and all(value.grad is None for value in model.parameters())
    task.loss(model(batch.inputs), batch).backward()
    for where, value in model.named_parameters():
        assert (id(value) in on_paper) == (value.grad is not None), where
    assert ("pooler" in str([name for name, p in model.named_parameters() if p.grad is None])) == (
        kind == "encoder"
    )


def test_one_process_alone_stops_and_goes_on(tmp_path: Path) -> None:
    """Two runs in one process, one DeepSpeed after the other, without a launcher."""
    done = run("arena", "--smoke", "--strategy", "zero2", "--runs-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "smoke: every part works" in done.stdout


@pytest.mark.faults
def test_moments_on_a_disk_go_on_bit_for_bit_and_leave_nothing_there(tmp_path: Path) -> None:
    """DeepSpeed compiles a kernel for it, minutes the first time."""
    builder = pytest.importorskip("deepspeed.ops.op_builder").AsyncIOBuilder()
    if not builder.is_compatible():
        pytest.skip("no libaio, or no compiler")
    model, disk = wide_model(tmp_path / "model"), tmp_path / "disk"
    disk.mkdir()
    words = ["arena", *SHORT, "--model", model, "--init", "random", "--devices", "2", "--strategy", "zero3"]
    words += ["--offload-optimizer", "disk", "--offload-dir", str(disk), "--runs-dir"]
    for stop_at, folder, code in ((None, "whole", 0), ("3", "parts", 75), (None, "parts", 0)):
        more = ("--stop-at", stop_at) if stop_at else ()
        done = run(*words, str(tmp_path / folder), *more, timeout=900)
        assert done.returncode == code, done.stderr
        assert not list(disk.iterdir())
    whole, parts = only_run(tmp_path / "whole"), only_run(tmp_path / "parts")
    assert losses(parts) == losses(whole)
    assert weights_hash(parts, 6) == weights_hash(whole, 6)
