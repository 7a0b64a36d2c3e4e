"""What `scripts/bench.py boolq` measures: LoRA against training the whole of a small Llama and against the
Hugging Face Trainer with the same LoRA; and the output layer at all positions against the scored ones."""

import statistics
import tempfile
from pathlib import Path

from lib.bench.models import small_llama
from lib.bench.options import Options
from lib.bench.rounds import BEST, Order, arm, compare, heading

HEAD: Order = {"tokens": 4096, "hidden": 256, "vocabulary": 32_000}
SCORED = 0.1  # share of the positions that carry a score: options of 50 tokens behind 450 of context


def main(asked: Options) -> None:
    """Print both tables."""
    heading(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data", asked.source, "--batch", "16", "--max-length", "512", "--quantize", "none"]
        words += ["--model", small_llama(asked.words_of, Path(folder))]
        lora, whole = [*words, "--lora-rank", "16"], [*words, "--lora-rank", "0"]
        order: Order = {"recipe": "boolq", "flags": lora, "rows": asked.num_rows, "validation_rows": 100}
        order |= {"threads": asked.threads}
        arms: dict[str, Order] = {
            "ours, LoRA": {"arm": "ours"},
            "Trainer at its best, same LoRA": BEST,
            "ours, the whole model": {"arm": "ours", "flags": whole},
        }
        print(
            f"a Llama of hidden 256, 6 layers, {asked.num_rows} rows of {asked.source}, batch 16, "
            "--max-length 512"
        )
        compare(order, arms, asked.num_rounds, {})
    output_layer(asked.num_rounds, asked.threads)


def output_layer(rounds: int, threads: int) -> None:
    """Forward and backward passes of the output layer and the loss, each in a process of its own."""
    by_case: dict[str, list[dict[str, float]]] = {"all positions": [], "scored positions only": []}
    for _ in range(rounds):
        for name, runs in by_case.items():
            share = 1.0 if name == "all positions" else SCORED
            runs.append(arm(HEAD | {"arm": "output layer", "share": share, "threads": threads}))
    print(
        f"\noutput layer, {HEAD['tokens']} tokens, hidden {HEAD['hidden']}, {HEAD['vocabulary']:,} words, "
        f"{SCORED:.0%} of the positions scored, forward and backward"
    )
    for name, runs in by_case.items():
        seconds, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "extra_gib"))
        print(f"{name:24}{1000 * seconds:8.0f} ms{peak:8.2f} GiB above the idle process")
