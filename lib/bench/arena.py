"""What `scripts/bench.py arena` measures and prints: every figure with its command, load and threads.

Arms run in turn (A B C A B C ...), each in a process of its own, so that a drifting machine hits all of them;
ratios are taken within a round and their median is printed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
BEST = {"arm": "trainer", "best": True, "accumulate": 1, "loss_kwargs": False, "warm_up": 2}
ROUND: dict[str, dict[str, Any]] = {
    "ours": {"arm": "ours"},
    "Trainer at its best (sdpa)": BEST | {"attention": "sdpa"},
    "Trainer at its best (eager)": BEST | {"attention": "eager"},
}
# one or two steps each, which take a minute: their rows/s hardly vary
SLOW: dict[str, dict[str, Any]] = {
    "Trainer at its default": BEST | {"best": False, "warm_up": 0, "rows": 32},
    "plain loop of the notes": {"arm": "plain loop", "warm_up": 0, "rows": 32},
    # as the checkpoint comes; half a batch, because a whole one takes 22 GiB
    "the same, attention dropout 0.1": {
        "arm": "plain loop",
        "warm_up": 0,
        "rows": 16,
        "attention_dropout": 0.1,
    },
}


def arm(order: dict[str, Any], ranks: int = 1) -> dict[str, Any]:
    """Run one arm in processes of its own; rank 0's answer."""
    words = [str(ROOT / "lib" / "bench" / "arms.py"), json.dumps(order)]
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{order['arm']} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(data: str, rows: int, rounds: int, threads: int, slow: bool) -> None:
    """Print the whole table."""
    print(
        f"torch {torch.__version__}, {threads} threads, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    common = {
        "data": data,
        "max_length": 512,
        "batch": 32,
        "rows": rows,
        "validation_rows": 100,
        "threads": threads,
    }
    speed(common, rounds, slow)
    gradient_norms(common)
    with tempfile.TemporaryDirectory() as folder:
        inside_a_run(data, rows, rounds, folder)
    start_up()


def speed(common: dict[str, Any], rounds: int, slow: bool) -> None:
    """Rows a second, peak memory and validation loss of each arm."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ROUND}
    for seed in range(rounds):
        for name, order in ROUND.items():
            found[name].append(arm(common | order | {"seed": seed}))
            print(f"  round {seed} {name}: {found[name][-1]}", flush=True)
    for name, order in SLOW.items() if slow else ():
        found[name] = [arm(common | {"seed": 0} | order)]
        print(f"  {name}: {found[name][-1]}", flush=True)
    print(
        f"\n{'':34}{'rows/s':>9}{'ours is':>10}{'peak GiB':>10}   "
        f"validation loss after {common['rows']} rows, by seed"
    )
    for name, runs in found.items():
        ratios = [
            one["rows_per_s"] / other["rows_per_s"] for one, other in zip(found["ours"], runs, strict=False)
        ]
        losses = "  ".join(f"{run['loss']:.4f}" for run in runs if "loss" in run)
        rate, peak = (statistics.median(run[key] for run in runs) for key in ("rows_per_s", "peak_gib"))
        print(f"{name:34}{rate:9.2f}{statistics.median(ratios):9.2f}x{peak:10.2f}   {losses}")
    said = arm(common | {"arm": "padding", "rows": None, "seed": 0})
    print(f"real / computed tokens: {said['real_share']:.3f} over an epoch of {said['rows']} rows")


def gradient_norms(common: dict[str, Any]) -> None:
    """The same 32 rows, no dropout: the stock Trainer with 4 accumulation steps against the true gradient."""
    order = common | {"rows": 32, "seed": 0, "no_dropout": True, "max_length": 128}
    true = arm(order | {"arm": "gradient"})["gradient_norm"]
    for words, value in (("as it comes", None), ("with model_accepts_loss_kwargs=False", False)):
        said = arm(order | BEST | {"accumulate": 4, "loss_kwargs": value, "best": False, "warm_up": 0})
        print(
            f"Trainer's gradient, 4 accumulation steps, {words}: "
            f"{said['gradient_norm'] / true:.3f} times the true one"
        )


def train(data: str, rows: int, folder: str, *flags: str) -> list[dict[str, Any]]:
    """The metrics of a real run of scripts/train.py over `rows` rows."""
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        words = [
            "arena",
            "--data",
            data,
            "--max-rows",
            str(rows),
            "--epochs",
            "1",
            "--runs-dir",
            runs,
            *flags,
        ]
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words]
        subprocess.run(command, check=True, capture_output=True)
        (path,) = Path(runs).glob("arena/*/metrics.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


def rows_per_s(lines: list[dict[str, Any]]) -> float:
    steps = [line for line in lines if line["kind"] == "train"][2:]
    return sum(step["rows"] for step in steps) / sum(step["seconds"] for step in steps)


def inside_a_run(data: str, rows: int, rounds: int, folder: str) -> None:
    """The loop's overhead, two ranks against one, the exchange of gradients, what a checkpoint stalls."""
    ratios, last = [], []
    for _ in range(rounds):
        one = train(data, rows, folder, "--devices", "1", "--threads", "2")
        last = train(data, rows, folder, "--devices", "2", "--threads", "1", "--save-every", "2")
        ratios.append(rows_per_s(last) / rows_per_s(one))
        steps = [line for line in one if line["kind"] == "train"]
        other = 1 - sum(step["busy"] for step in steps) / sum(step["seconds"] for step in steps)
        print(
            f"time outside passes, exchange and optimizer: {other:.2%} of a step "
            f"(load {os.getloadavg()[0]:.1f})"
        )
    print(
        f"two ranks x 1 thread against one rank x 2 threads: {statistics.median(ratios):.2f}, each {ratios}"
    )
    common = {
        "data": data,
        "max_length": 512,
        "batch": 32,
        "rows": 8,
        "validation_rows": 8,
        "threads": 1,
        "seed": 0,
    }
    seconds = arm(common | {"arm": "all-reduce"}, ranks=2)["seconds"]
    step_s = statistics.mean(line["seconds"] for line in last if line["kind"] == "train")
    print(f"exchange of one gradient: {seconds:.3f} s, {seconds / step_s:.1%} of a step of {step_s:.2f} s")
    stalls = [line["stalled"] for line in last if line["kind"] == "checkpoint"]
    stall_s = statistics.median(stalls)
    print(f"a checkpoint stalls training by {stall_s:.3f} s: {stall_s / 60:.2%} at one a minute")


def start_up() -> None:
    """--help and --smoke, seconds."""
    for words in (["--help"], ["--smoke"]):
        with tempfile.TemporaryDirectory() as folder:
            extra = ["--runs-dir", folder] if words == ["--smoke"] else []
            began_s = time.perf_counter()
            command = [sys.executable, str(ROOT / "scripts" / "train.py"), "arena", *words, *extra]
            subprocess.run(command, check=True, capture_output=True)
            print(f"train.py arena {words[0]}: {time.perf_counter() - began_s:.2f} s")
