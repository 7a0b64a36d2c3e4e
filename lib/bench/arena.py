"""What `scripts/bench.py arena` measures and prints: every figure with its command, load and threads."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lib.bench.options import Options
from lib.bench.rounds import BEST, ROOT, Order, arm, compare, heading

ARMS: dict[str, Order] = {
    "ours": {"arm": "ours"},
    "Trainer at its best (sdpa)": BEST | {"attention": "sdpa"},
    "Trainer at its best (eager)": BEST | {"attention": "eager"},
}
# one or two steps each, which take a minute: their rows/s hardly vary
SLOW: dict[str, Order] = {
    "Trainer at its default": BEST | {"best": False, "warm_up": 0, "rows": 32},
    "plain loop of the notes": {"arm": "plain loop", "warm_up": 0, "rows": 32},
}


def common(asked: Options, rows: int, *flags: str) -> Order:
    """What an order of this recipe says; one order of a pair, as the others train."""
    words = ["--data", asked.source, "--batch", "32", "--no-swap", *flags]
    return {"recipe": "arena", "flags": words, "rows": rows, "validation_rows": 100, "threads": asked.threads}


def main(asked: Options) -> None:
    """Print the whole table."""
    heading(asked.threads)
    order = common(asked, asked.num_rows)
    slow_arms = SLOW if asked.slow else {}
    if asked.slow:  # as the checkpoint comes; half a batch, because a whole one takes 22 GiB
        dropout = common(asked, 16, "--attention-dropout", "0.1")
        slow_arms = SLOW | {"the same, attention dropout 0.1": dropout | {"arm": "plain loop", "warm_up": 0}}
    compare(order, ARMS, asked.num_rounds, slow_arms)
    padding = arm(order | {"arm": "padding", "rows": None, "seed": 0})
    print(f"real / computed tokens: {padding['real_share']:.3f} over an epoch of {padding['rows']} rows")
    gradient_norms(asked)
    inside_a_run(asked)
    start_up()


def gradient_norms(asked: Options) -> None:
    """The same 32 rows, no dropout: the stock Trainer with 4 accumulation steps against the true gradient."""
    order = common(asked, 32, "--dropout", "0", "--max-length", "128") | {"seed": 0}
    true = arm(order | {"arm": "gradient"})["gradient_norm"]
    rival = BEST | {"accumulate": 4, "best": False, "warm_up": 0, "gradient_only": True}
    for words, value in (("as it comes", None), ("with model_accepts_loss_kwargs=False", False)):
        measured = arm(order | rival | {"loss_kwargs": value})
        print(
            f"Trainer's gradient, 4 accumulation steps, {words}: "
            f"{measured['gradient_norm'] / true:.3f} times the true one"
        )


def train(asked: Options, *flags: str) -> list[dict[str, Any]]:
    """The metrics of a real run of scripts/train.py over the rows."""
    with tempfile.TemporaryDirectory() as runs:
        words = ["arena", "--data", asked.source, "--max-rows", str(asked.num_rows), "--epochs", "1", *flags]
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, "--runs-dir", runs]
        subprocess.run(command, check=True, capture_output=True)
        (path,) = Path(runs).glob("arena/2*/metrics.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


def rows_per_s(lines: list[dict[str, Any]]) -> float:
    steps = [line for line in lines if line["kind"] == "train"][2:]
    return sum(step["rows"] for step in steps) / sum(step["seconds"] for step in steps)


def inside_a_run(asked: Options) -> None:
    """The loop's overhead, two ranks against one, the exchange of gradients, what a checkpoint stalls."""
    ratios, last = [], []
    for _ in range(asked.num_rounds):
        one = train(asked, "--devices", "1", "--threads", "2")
        last = train(asked, "--devices", "2", "--threads", "1", "--save-every", "2")
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
    seconds = arm(common(asked, 8) | {"arm": "all-reduce", "seed": 0, "threads": 1}, ranks=2)["seconds"]
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
