"""An output layer and the loss, forward and backward: with logits everywhere, as models of transformers make
them, and with those of the places that carry loss alone."""

import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.bench import verdicts
from lib.bench.clock import now
from lib.bench.rounds import Order, arm
from lib.bench.sequences import IGNORED
from lib.models.language import log_probabilities
from lib.process.precision import autocast

HEAD: Order = {"arm": "head", "tokens": 4096, "hidden": 512, "vocabulary": 50_304, "share": 0.1}
EVERYWHERE, LABELLED = "logits everywhere", "logits of labels only"
FASTER, SMALLER = 7, 1 / 8  # to reach: times as fast, share of the memory
CPU = torch.device("cpu")


def main(rounds: int, threads: int, precision: str) -> None:
    """Print both, each in a process of its own."""
    runs: dict[str, list[dict[str, float]]] = {EVERYWHERE: [], LABELLED: []}
    for _ in range(rounds):
        for name, measured in runs.items():
            measured.append(arm(HEAD | {"how": name, "threads": threads, "precision": precision}))
    print(
        f"\noutput layer, {HEAD['tokens']} tokens, hidden {HEAD['hidden']}, {HEAD['vocabulary']:,} words, "
        f"{HEAD['share']:.0%} of the tokens carry loss, forward and backward, {precision}"
    )
    medians = {
        key: {name: statistics.median(run[key] for run in measured) for name, measured in runs.items()}
        for key in ("seconds", "cpu_s", "logits_gib")
    }
    for name in runs:
        seconds, cpu_s, size = (medians[key][name] for key in medians)
        print(f"{name:24}{1000 * seconds:8.0f} ms, {1000 * cpu_s:.0f} of the processor{size:8.3f} GiB")
    times = [medians[key][EVERYWHERE] / medians[key][LABELLED] for key in ("seconds", "cpu_s")]
    verdicts.at_least(f"times as fast ({times[1]:.2f} by processor seconds)", times[0], FASTER)
    sizes = medians["logits_gib"]
    verdicts.at_most("memory, share of the other's", sizes[LABELLED] / sizes[EVERYWHERE], SMALLER)


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a pass, and the memory of all that goes with the logits: more than a pass of one token
    takes, which has the weight's gradient too."""
    torch.manual_seed(0)
    states = torch.randn(order["tokens"], order["hidden"], requires_grad=True)
    layer = nn.Linear(order["hidden"], order["vocabulary"], bias=False)
    places = torch.arange(0, order["tokens"], round(1 / order["share"]))
    targets = torch.randint(order["vocabulary"], (len(places),))
    loss = {EVERYWHERE: _everywhere, LABELLED: _labelled}[order["how"]]

    def one_pass(count: int) -> tuple[float, float]:
        began = now()
        with autocast(order["precision"], CPU):
            value = (loss if count > 1 else _labelled)(layer, states, places[:count], targets[:count])
        value.backward()
        layer.weight.grad = states.grad = None
        wall_s, cpu_s = (end - begin for begin, end in zip(began, now(), strict=True))
        return wall_s, cpu_s

    one_pass(1)
    idle = _peak_gib()
    columns = zip(*(one_pass(len(places)) for _ in range(5)), strict=True)
    seconds, cpu_s = (statistics.median(column) for column in columns)
    return {"seconds": seconds, "cpu_s": cpu_s, "logits_gib": _peak_gib() - idle}


def _peak_gib() -> float:
    """Of this process alone: what getrusage says begins with what its parent held when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def _everywhere(layer: nn.Linear, states: Tensor, places: Tensor, targets: Tensor) -> Tensor:
    labels = torch.full((len(states),), IGNORED)
    labels[places] = targets
    return F.cross_entropy(layer(states).float(), labels, ignore_index=IGNORED, reduction="sum")


def _labelled(layer: nn.Linear, states: Tensor, places: Tensor, targets: Tensor) -> Tensor:
    return -log_probabilities(layer, states[places], targets).sum()
