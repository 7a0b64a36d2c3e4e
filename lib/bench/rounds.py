"""Arms that take turns (A B C A B C ...), each in a process of its own, so that a drifting machine hits all
of them; ratios are taken within a round and their median is printed."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lib.bench.clock import WARM_UP_STEPS

ROOT = Path(__file__).resolve().parents[2]
Order = dict[str, Any]
BEST: Order = {
    "arm": "trainer",
    "best": True,
    "accumulate": 1,
    "loss_kwargs": False,
    "warm_up": WARM_UP_STEPS,
}


def arm(order: Order, ranks: int = 1) -> dict[str, Any]:
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


def heading(threads: int) -> None:
    """What the figures were measured on."""
    load = os.getloadavg()[0]
    print(
        f"torch {torch.__version__}, {threads} threads, {os.cpu_count()} cores, load {load:.1f}", flush=True
    )


def compare(common: Order, arms: dict[str, Order], rounds: int, once: dict[str, Order]) -> None:
    """Rows a second, peak memory and validation loss of each arm, the first one against the others; `once`
    holds arms that are too slow for rounds. Raises ValueError when the warm-up would take all rows."""
    batch = int(common["flags"][common["flags"].index("--batch") + 1])
    if common["rows"] <= WARM_UP_STEPS * batch:
        raise ValueError(
            f"--rows {common['rows']} is too few: {WARM_UP_STEPS} batches of {batch} warm up; give "
            f"{(WARM_UP_STEPS + 1) * batch} or more"
        )
    by_arm: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for seed in range(rounds):
        for name, order in arms.items():
            by_arm[name].append(arm(common | {"seed": seed} | order))
            print(f"  round {seed} {name}: {by_arm[name][-1]}", flush=True)
    for name, order in once.items():
        by_arm[name] = [arm(common | {"seed": 0} | order)]
        print(f"  {name}: {by_arm[name][-1]}", flush=True)
    print(
        f"\n{'':34}{'rows/s':>9}{'ours is':>10}{'peak GiB':>10}   "
        f"validation loss after {common['rows']} rows, by seed"
    )
    first = by_arm[next(iter(arms))]
    for name, runs in by_arm.items():
        ratios = [one["rows_per_s"] / other["rows_per_s"] for one, other in zip(first, runs, strict=False)]
        losses = "  ".join(f"{run['loss']:.4f}" for run in runs if "loss" in run)
        rate, peak = (statistics.median(run[key] for run in runs) for key in ("rows_per_s", "peak_gib"))
        print(f"{name:34}{rate:9.2f}{statistics.median(ratios):9.2f}x{peak:10.2f}   {losses}")
