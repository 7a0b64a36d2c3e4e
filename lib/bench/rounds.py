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
Results = dict[str, list[dict[str, Any]]]  # by arm, in the order of the rounds
BEST: Order = {
    "arm": "trainer",
    "best": True,
    "accumulate": 1,
    "loss_kwargs": False,
    "warm_up": WARM_UP_STEPS,
}


def arm(order: Order, ranks: int = 1, limit_s: float | None = None) -> dict[str, Any]:
    """Run one arm in processes of its own; rank 0's answer. Raises RuntimeError when it fails, or takes
    longer than `limit_s`."""
    words = [str(ROOT / "lib" / "bench" / "arms.py"), json.dumps(order)]
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if ranks == 1:  # of several GPUs the Trainer would take all, and make of a batch as many batches
        environment |= {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    command = [sys.executable, *launcher, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(
            f"{order['arm']} took more than {limit_s:.0f} s; fewer --rows take less"
        ) from error
    if done.returncode:
        raise RuntimeError(f"{order['arm']} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def heading(threads: int, precision: str = "bf16") -> None:
    """What the figures were measured on."""
    load = os.getloadavg()[0]
    print(
        f"torch {torch.__version__}, {threads} threads, {os.cpu_count()} cores ({processor()}), load "
        f"{load:.1f}, {precision}",
        flush=True,
    )


def processor() -> str:
    """Its name, and which of the units that matter for bf16 it has."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if unit in known.get("flags", "").split()]
    return ", ".join([known.get("model name", "unknown processor"), *units])


def race(common: Order, arms: dict[str, Order], rounds: int, once: dict[str, Order]) -> Results:
    """What the arms answer, round by round; `once` holds arms that are too slow for rounds. Raises ValueError
    when the warm-up would take all rows."""
    batch = int(common["flags"][common["flags"].index("--batch") + 1])
    warm_up = common.get("warm_up", WARM_UP_STEPS)
    if common["rows"] is not None and common["rows"] <= warm_up * batch:
        raise ValueError(
            f"--rows {common['rows']} is too few: {warm_up} batches of {batch} warm up; give "
            f"{(warm_up + 1) * batch} or more"
        )
    by_arm: Results = {name: [] for name in arms}
    for seed in range(rounds):
        for name, order in arms.items():
            by_arm[name].append(arm(common | {"seed": seed} | order))
            print(f"  round {seed} {name}: {_numbers(by_arm[name][-1])}", flush=True)
    for name, order in once.items():
        by_arm[name] = [arm(common | {"seed": 0} | order)]
        print(f"  {name}: {_numbers(by_arm[name][-1])}", flush=True)
    return by_arm


def _numbers(answer: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in answer.items() if isinstance(value, int | float)}


def compare(common: Order, arms: dict[str, Order], rounds: int, once: dict[str, Order]) -> None:
    """Rows a second, peak memory and validation loss of each arm, the first one against the others."""
    table(race(common, arms, rounds, once), f"{common['rows']} rows")


def table(by_arm: Results, trained: str) -> None:
    """Print medians, and the first arm's ratio to each."""
    print(f"\n{'':34}{'rows/s':>9}{'ours is':>10}{'peak GiB':>10}   validation loss after {trained}, by seed")
    for name, runs in by_arm.items():
        losses = "  ".join(f"{run['loss']:.4f}" for run in runs if "loss" in run)
        rate = statistics.median(run["rows_per_s"] for run in runs)
        ratio = faster(by_arm, next(iter(by_arm)), name)
        print(f"{name:34}{rate:9.2f}{ratio:9.2f}x{peak(by_arm, name):10.2f}   {losses}")


def faster(by_arm: Results, name: str, rival: str, rate: str = "rows_per_s") -> float:
    """How many times as fast an arm is as another: the median of the rounds' ratios."""
    pairs = zip(by_arm[name], by_arm[rival], strict=False)
    return statistics.median(one[rate] / other[rate] for one, other in pairs)


def peak(by_arm: Results, name: str) -> float:
    """GiB, the median of the rounds."""
    return statistics.median(run["peak_gib"] for run in by_arm[name])
