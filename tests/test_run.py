"""Whole runs of every recipe, found by glob: the sixth is tested without an edit here."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse
from lib.config import Config
from lib.data import rows as encoded_rows
from lib.process import dist
from lib.process.signals import StopFlag
from lib.runs import resume
from lib.runs.folder import RunFolder
from lib.tasks import make as make_task
from lib.tasks.classify import Classify
from lib.training import checkpoint, loop, strategies
from lib.training.ddp import Ddp
from lib.training.engine import Turn
from lib.training.progress import Progress
from lib.training.unused import freeze_unused
from tests.tools import ROOT, SHORT, command, metrics, only_run, status
from tests.tools import run as run_script

TINY = [*SHORT, "--model", "tiny", "--init", "random"]


def configuration(*flags: str, name: str = "arena") -> Config:
    return parse(recipe.load(name).config, list(flags), "test")


def train(*flags: str) -> int:
    """A run inside this process, as scripts/train.py does it; its exit code."""
    return exits.run(lambda: run.train(configuration(*flags)))


@pytest.mark.parametrize("name", recipe.names())
def test_smoke_goes_the_whole_path_with_a_stop_and_a_resume(name: str, tmp_path: Path) -> None:
    done = run_script(name, "--smoke", "--runs-dir", str(tmp_path), "--resume", "never")
    assert done.returncode == 0, done.stderr
    assert "smoke: stopped at step 3 as planned" in done.stdout
    assert "the newest unfinished run of this experiment" in done.stdout
    folder = only_run(tmp_path)
    steps = metrics(folder, "train")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    (peak,) = RunFolder(folder).record()["peaks"].values()  # measured once: the same after the stop
    assert peak["source"] == "measured"
    for line in steps:
        assert line["flops"] > 1000 * line["tokens"]
        assert line["mfu"] == pytest.approx(line["flops"] / line["seconds"] / peak["flops_per_s"], rel=1e-9)
    files = {path.name for path in folder.iterdir()}
    assert files >= {"config.json", "run.json", "status.json", "metrics.jsonl", "train.log", "checkpoints"}
    assert files >= {"predictions", "scores.json", "report.html"} and "encoded" not in files
    assert status(folder)["exit_code"] == 0
    probes = recipe.load(name).probes
    for at in ("probes before", "probes") if probes else ():
        said = (folder / "predictions" / f"{at}.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in said] == [f"probe {n + 1}" for n in range(len(probes))]
    shown = "The same questions before and after training" in (folder / "report.html").read_text()
    assert shown == bool(probes)
    # a fresh process, from the checkpoint alone
    again = run_script(str(folder), "--split", "validation", script="evaluate.py")
    assert again.returncode == 0, again.stderr
    assert "the same to the last digit as training reported" in again.stdout


@pytest.mark.parametrize("name", recipe.names())
def test_eight_rows_get_memorized(name: str) -> None:
    flags = ["--model", "tiny", "--init", "random", "--lora-rank", "0", "--quantize", "none"]
    # with dropout it depends on the processor's rounding whether 300 steps are enough
    writes = recipe.load(name).task == "complete"  # a prompt and the whole of a text, in bytes
    flags += ["--max-length", "512", "--max-new-tokens", "16"] if writes else ["--max-length", "96"]
    config = configuration(*flags, "--dropout", "0", "--lr", "3e-3", name=name)
    config = replace(config, optim=replace(config.optim, batch=8, warmup=0.0, schedule="constant"))
    chosen = recipe.load(name)
    task = make_task(chosen, config)
    examples = [chosen.to_example(row | {"id": number}) for number, row in enumerate(chosen.sample(8, 0))]
    rows = encoded_rows.pack(task.encode(examples, lambda: None))
    targets = int(rows.num_targets.sum())
    engine = Ddp(task.build(None), config.optim, dist.setup(1))
    batch = task.collate(rows, tuple(range(8)))
    engine.start(batch, task.loss, None)
    for step in range(300):
        loss = task.loss(engine.forward(batch, Turn(step, last=True)), batch)
        engine.backward(loss, 1 / targets)
        engine.norm()
        engine.step(1e-3)
        if loss.item() / targets < 0.05:
            break
    # far below what guessing gives, ln 2 = 0.69 to ln 5 = 1.61
    engine.module.eval()
    with torch.inference_mode():
        assert task.loss(engine.module(batch.inputs), batch).item() / targets < 0.1


def test_saved_backbone_opens_with_plain_transformers(finished: Path) -> None:
    import transformers
    from safetensors.torch import load_file

    folder = finished / "checkpoints" / "best" / "backbone"
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert transformers.AutoTokenizer.from_pretrained(folder)("a").input_ids


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("finished")
    assert train(*TINY, "--runs-dir", str(runs)) == 0
    return only_run(runs)


def test_a_finished_run_is_never_reopened_and_a_second_begins(finished: Path, tmp_path: Path) -> None:
    runs = finished.parents[1]
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(*TINY, "--runs-dir", str(runs), "--stop-at", "1") == 75
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert len(list(runs.glob("*/[!.]*"))) == 2


def test_predictions_scores_and_status_agree(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    assert scores["checkpoint"] == (finished / "checkpoints" / "best").resolve().name
    for split, found in scores["splits"].items():
        said = [
            json.loads(line)
            for line in (finished / "predictions" / f"{split}.jsonl").read_text().splitlines()
        ]
        assert len(said) == found["num_rows"] == len({row["id"] for row in said})
        assert found["num_false"] == sum(row["prediction"] != row["label"] for row in said)
        assert found["scores"]["log_loss"]["value"] == pytest.approx(
            -sum(math.log(row["probabilities"][row["label"]]) for row in said) / len(said), abs=1e-6
        )
        assert {"uniform guess", "majority class", "length alone"} == found["baselines"].keys()


def test_each_validation_says_how_training_went_since_the_one_before(finished: Path) -> None:
    steps = metrics(finished, "train")
    for validation, since in zip(metrics(finished, "validation"), (steps[:3], steps[3:]), strict=True):
        rows = sum(step["rows"] for step in since)
        hits = sum(step["accuracy"] * step["rows"] for step in since)
        assert hits == pytest.approx(round(hits), abs=1e-9) and 0 <= hits <= rows
        assert validation["training"]["accuracy"] == pytest.approx(hits / rows)
        loss = sum(step["loss"] * step["rows"] for step in since) / rows
        assert validation["training"]["loss"] == pytest.approx(loss)


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--runs-dir", str(tmp_path)]
    assert train(*flags, "--save-every", "1", "--stop-at", "4") == 75
    folder = only_run(tmp_path)
    weights = folder / "checkpoints" / "step-000004" / "optimizer.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    weights.write_bytes(damaged)
    assert train(*flags, "--save-every", "1") == 0
    assert "step-000004 is not used" in capsys.readouterr().out
    assert [line["loss"] for line in metrics(folder, "train")] == [
        line["loss"] for line in metrics(finished, "train")
    ]


def test_changed_data_is_refused_on_resume_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps(row) for row in recipe.load("arena").sample(90, 0)]
    file.write_text("\n".join(rows))
    flags = [*TINY, "--data", str(file), "--runs-dir", str(tmp_path / "runs")]
    assert train(*flags, "--stop-at", "1") == 75
    file.write_text("\n".join(rows).replace("metronome", "tuning fork"))
    assert train(*flags) == 3
    assert "fingerprint of data changed" in capsys.readouterr().err
    file.write_text("\n".join(rows))
    assert train(*flags) == 0  # put back, it goes on
    only_run(tmp_path / "runs")


def test_resume_by_timestamp_by_path_and_of_another_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--runs-dir", str(tmp_path)]
    assert train(*flags, "--stop-at", "1") == 75
    folder = only_run(tmp_path)
    assert train(*flags, "--resume_timestamp", folder.name, "--lr", "1e-3") == 3
    assert "optim.lr was 0.0001, is 0.001" in capsys.readouterr().err
    assert train(*flags, "--resume_timestamp", folder.name, "--stop-at", "2") == 75
    assert train(*flags, "--resume", str(folder), "--stop-at", "3") == 75
    assert train(*flags, "--resume", "20000101_000000") == 2
    assert folder.name in capsys.readouterr().err
    assert status(folder)["step"] == 3
    (folder / "status.json").write_text('{"phase"')  # a power loss: the checkpoints say more
    assert train(*flags, "--stop-at", "4") == 75
    assert status(folder)["step"] == 4
    assert train(*flags, "--resume", "never", "--stop-at", "1") == 75
    for several in ("", "2"):  # an unset variable; both runs begin so
        assert train(*flags, "--resume", several) == 2
        assert "run under" in capsys.readouterr().err


def test_a_live_run_is_not_touched_and_a_dead_ones_lock_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--runs-dir", str(tmp_path)]
    assert train(*flags, "--stop-at", "1") == 75
    folder = only_run(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from lib.runs.folder import RunFolder
folder = RunFolder(Path({str(folder)!r})); folder.lock(); print("held", flush=True); time.sleep(600)
"""],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    assert train(*flags) == 2
    assert f"pid {holder.pid}" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    assert train(*flags, "--stop-at", "2") == 75


def send_sigterm_before(owner: type, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `verb` first sends this process a SIGTERM."""
    honest = getattr(owner, verb)

    def with_signal(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return honest(*arguments)

    monkeypatch.setattr(owner, verb, with_signal)


def test_a_signal_during_evaluation_saves_and_the_evaluation_is_made_up_for(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*TINY, "--runs-dir", str(tmp_path)]
    send_sigterm_before(Classify, "predict", monkeypatch)
    # 600 tokens a batch: the flag is seen between the first and the second of several
    assert train(*flags, "--token-budget", "600") == 75
    monkeypatch.undo()
    assert train(*flags, "--token-budget", "600") == 0
    folder = only_run(tmp_path)
    assert [line["step"] for line in metrics(folder, "validation")] == [3, 6]


def test_a_signal_while_tokenizing_ends_with_75_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_sigterm_before(Classify, "encode", monkeypatch)
    assert train(*TINY, "--runs-dir", str(tmp_path)) == 75
    assert not list(tmp_path.glob("*/[!.]*")) and not list(tmp_path.glob("*/.encoded/*"))


@pytest.mark.parametrize("whole", [True, False])
def test_out_of_memory_saves_halves_the_budget_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    """Where no rank has the whole state, it goes on from the checkpoint before."""
    monkeypatch.setattr(Ddp, "whole_on_each_rank", whole)
    flags = [*TINY, "--runs-dir", str(tmp_path), "--save-every", "1"]
    honest = Ddp.forward
    calls = {"n": 0}

    def short_of_memory(self: Ddp, batch: object, turn: Turn) -> object:
        calls["n"] += 1
        if calls["n"] == 11:  # the third step (4 micro-batches a step)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return honest(self, batch, turn)

    monkeypatch.setattr(Ddp, "forward", short_of_memory)
    assert train(*flags) == 75
    assert "halved to 4096" in capsys.readouterr().err
    monkeypatch.undo()
    newest = checkpoint.all_in(only_run(tmp_path) / "checkpoints")[0]
    assert checkpoint.step_of(newest) == 2
    assert checkpoint.read_state(newest)["token_budget"] == (4096 if whole else 8192)
    assert train(*flags) == 0
    folder = only_run(tmp_path)
    assert [line["step"] for line in metrics(folder, "train")] == [1, 2, 3, 4, 5, 6]
    assert checkpoint.read_state(checkpoint.all_in(folder / "checkpoints")[0])["token_budget"] == 4096


def test_looking_at_the_rows_leaves_an_unfinished_run_to_go_on(tmp_path: Path) -> None:
    flags = [*TINY, "--runs-dir", str(tmp_path)]
    assert train(*flags, "--stop-at", "2") == 75
    assert train(*flags, "--lint-only") == 0
    assert train(*flags) == 0
    went_on = only_run(tmp_path)
    assert [line["step"] for line in metrics(went_on, "train")] == [1, 2, 3, 4, 5, 6]
    assert status(went_on)["phase"] == "done"


def test_a_best_checkpoint_that_was_damaged_meanwhile_is_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = loop.train

    def damaging(parts: loop.Parts, progress: Progress) -> Progress:
        ended = honest(parts, progress)
        file = (tmp_path / "arena").glob("*/checkpoints/best/backbone/model.safetensors")
        data = bytearray((weights := next(file)).read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        return ended

    monkeypatch.setattr(loop, "train", damaging)
    assert train(*TINY, "--runs-dir", str(tmp_path)) == exits.REPEATS
    assert "model.safetensors is damaged" in capsys.readouterr().err
    assert not (only_run(tmp_path) / "scores.json").exists()


def test_a_resumed_run_computes_as_it_began(tmp_path: Path) -> None:
    """Threads and a precision that nobody chose are what the run took when it began, not what auto means
    here."""
    config = configuration(*TINY, "--runs-dir", str(tmp_path))
    config = replace(config, optim=replace(config.optim, precision="auto"))
    half = replace(config.tracking, stop_at=2)
    assert exits.run(lambda: run.train(replace(config, tracking=half))) == 75
    file = only_run(tmp_path) / "run.json"
    record = json.loads(file.read_text())
    environment = record["environment"]
    other = "fp32" if environment["precision"] == "bf16" else "bf16"
    file.write_text(json.dumps(record | {"environment": environment | {"precision": other}}))
    unsaid = replace(config, compute=replace(config.compute, threads=None))
    assert exits.run(lambda: run.train(unsaid)) == 0
    environment = json.loads(file.read_text())["environment"]
    assert (environment["precision"], environment["threads"]) == (other, 1)
    assert json.loads((file.parent / "scores.json").read_text())["precision"] == other


def test_a_run_that_never_began_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--runs-dir", str(tmp_path)]
    assert train(*flags, "--max-cut", "0.5") == 3  # refused by the lint: what was seen is kept
    name = only_run(tmp_path).name
    assert train(*flags, "--max-cut", "0.5", "--resume", name) == 2
    assert "was refused or killed before it began" in capsys.readouterr().err


def test_frozen_backbone_trains_the_head_only(tmp_path: Path) -> None:
    flags = ["--model", "tiny", "--max-length", "64", "--freeze", "all"]
    config = configuration(*flags)
    task = make_task(recipe.load("arena"), config)
    model = task.build(None)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"head"}
    freeze_unused(model, list(model.parameters()))
    model.train()
    assert not model.backbone.training and model.head.training


def test_losing_the_log_costs_a_warning_and_not_the_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lib.tracking.tracker import Tracker

    def full(path: Path) -> object:
        return (
            open("/dev/full", "w", buffering=1) if path.name == "train.log" else path.open("a", buffering=1)
        )

    monkeypatch.setattr(Tracker, "_open", staticmethod(full))
    assert train(*TINY, "--runs-dir", str(tmp_path)) == 0
    assert capsys.readouterr().out.count("the log cannot be written") == 1
    assert [line["loss"] for line in metrics(only_run(tmp_path), "train")] == [
        line["loss"] for line in metrics(finished, "train")
    ]


def test_wandb_offline_follows_from_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    assert train(*TINY, "--runs-dir", str(tmp_path), "--wandb", "offline") == 0
    folder = only_run(tmp_path)
    # the best checkpoint as an artifact, without the optimizer's state
    best = (folder / "checkpoints" / "best").resolve()
    wanted = (b"train/loss", f"{best}/head.safetensors".encode(), f"{best}/manifest.json".encode())
    words = b""
    for _ in range(1200):  # wandb takes its time on a busy machine, and writes after its last words
        words = b"".join(file.read_bytes() for file in folder.glob("wandb/offline-run-*/*.wandb"))
        said = (folder / "wandb.log").read_text()
        if "Find logs" in said and all(word in words for word in wanted):
            break
        time.sleep(0.1)
    assert all(word in words for word in wanted)
    assert f"{best}/optimizer.safetensors".encode() not in words


def test_tokens_in_the_environment_appear_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "hf_canary_5f3a9c"
    monkeypatch.setenv("HF_TOKEN", canary)
    monkeypatch.setenv("WANDB_API_KEY", canary)
    assert train(*TINY, "--runs-dir", str(tmp_path)) == 0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path


def test_plain_torchrun_defaults_to_arena(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", *command(*TINY, "--runs-dir", str(tmp_path), "--stop-at", "1")[1:]],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1  # torchrun's own answer, whatever the workers' code
    folder = only_run(tmp_path)
    assert folder.parent.name == "arena"
    assert status(folder)["exit_code"] == 75
    assert "2 ranks on cpu" in done.stdout


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> object:
    """run.train takes over the signals of this process; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_stop_while_the_model_is_loaded_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    placed, flags = strategies.place, []

    def asked(*arguments: Any) -> Any:
        flags[0].ask("SIGTERM")
        return placed(*arguments)

    monkeypatch.setattr(strategies, "place", asked)
    words = [*TINY, "--runs-dir", str(tmp_path)]
    flags.append(StopFlag())
    assert exits.run(lambda: run.train(configuration(*words), flags[0])) == exits.STOPPED
    assert "stopped while the model was loaded; the same command goes on" in capsys.readouterr().err


def test_a_finished_run_of_the_same_experiment_is_named(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "arena" / finished.name
    shutil.copytree(finished, copy, symlinks=True)
    config = RunFolder(copy).config()
    config = replace(config, tracking=replace(config.tracking, runs_dir=str(tmp_path)))
    assert resume.decide(config).reason.endswith(f"({copy} finished, with the same code)")


def test_a_run_without_one_finite_score_ends_with_4(tmp_path: Path) -> None:
    """Two steps: too few for three bad ones in a row."""
    flags = ["--lr", "1e20", "--warmup", "0", "--clip", "1e30", "--max-steps", "2", "--eval-every", "2"]
    assert train(*TINY, *flags, "--runs-dir", str(tmp_path)) == exits.REPEATS
    log = (only_run(tmp_path) / "train.log").read_text()
    assert "no evaluation gave a finite log_loss" in log and "a lower --lr" in log
